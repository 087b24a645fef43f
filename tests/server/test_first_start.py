"""The first ten minutes: a real model from the first start, one line for one's own, and what the README says of both."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.models.catalog import catalog, find
from services.models.sources import HubFile, LocalFile, OllamaModel, PypiFile, parse_source
from tests.server.test_readme import REAL, pieces, section, type_all
from tests.support.commands import run_command
from tests.support.ports import free_port
from tests.support.real_models import smollm2
from tests.support.serving import ROOT, Server
from tests.support.tiny import GUIDE

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
# So that its answers are the same each time.
CERTAIN: dict[str, Any] = {"temperature": 0, "repeat_penalty": 1}
OWN = section("Run your own model")
WHICH = section("Choosing a model")
# What the sources of the README's table are.
SOURCES = {
    "~/": LocalFile,
    "https://": HubFile,
    "USER/": HubFile,
    "hf:": HubFile,
    "ollama:": OllamaModel,
    "pypi:": PypiFile,
}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models folder with the guide."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / GUIDE.name).symlink_to(GUIDE)
    return folder


@pytest.fixture
def first(tmp_path: Path, models: Path) -> Iterator[Server]:
    """A server that has never been started: its data folder is empty."""
    server = Server(tmp_path / "data", models=models)
    (server.data / "config.json").unlink()
    yield server
    if hasattr(server, "process") and server.process.poll() is None:
        server.stop()


def config_of(server: Server) -> dict[str, Any]:
    return dict(json.loads((server.data / "config.json").read_text(encoding="utf-8")))


def typed(server: Server, *arguments: str, stdin: str = "", columns: int = 200) -> subprocess.CompletedProcess[str]:
    """`main.py` with these arguments, over a server's folders."""
    folders = ("--data", server.data, "--models", server.models)
    return run_command(*arguments, *folders, stdin=stdin, environ={"COLUMNS": str(columns)}, timeout=120)


def test_the_first_start_fetches_a_model_and_selects_it(first: Server) -> None:
    first.environ = {"HEARTH_MODEL": "SmolLM2"}
    first.start()
    assert (first.models / FILE).read_bytes() == smollm2().read_bytes()
    assert config_of(first)["SelectedModel"] == "SmolLM2"
    assert "SmolLM2 answers, a tiny model for a first look." in first.output
    assert first.ask("What is the capital of France?", **CERTAIN)["result"] == "The capital of France is Paris."
    # The second start fetches nothing.
    first.stop()
    first.environ = {"HEARTH_MODEL": "LFM2.5-1.2B-Instruct"}
    first.start()
    assert first.ask("Hello", max_tokens=1)["profile"] == "SmolLM2"
    assert "LFM2.5" not in first.output + first.log()


def test_the_readmes_first_commands_work(first: Server) -> None:
    (first.models / FILE).symlink_to(smollm2())
    first.environ = {"HEARTH_MODEL": "SmolLM2"}
    found = pieces(section(REAL))
    assert len(found) == 4
    first.start()
    first.edit_config("SmolLM2", **CERTAIN)
    type_all(found, first)


@pytest.mark.parametrize("flags", [(), ("--model", "none")])
def test_without_a_model_the_guide_answers(first: Server, flags: tuple[str, ...]) -> None:
    first.environ = {"HEARTH_MODEL": "SmolLM2"} if flags else {"HEARTH_MODEL": "none"}
    first.flags = flags
    first.start()
    assert config_of(first)["SelectedModel"] == "Guide"
    assert [path.name for path in first.models.glob("*")] == [GUIDE.name]
    assert "Guide answers, a tiny model that knows this server and little else." in first.output
    assert "fetched" not in first.log()


@pytest.mark.parametrize(
    ("model", "environ", "reason"),
    [
        ("nonsense", {}, 'there is no "nonsense"'),
        ("SmolLM2", {"PIP_NO_CACHE_DIR": "1", "PIP_CONFIG_FILE": os.devnull}, "pip says: "),
        ("hf:a/b/c.gguf", {}, "the hub cannot be reached"),
    ],
)
def test_what_cannot_be_fetched_is_said_in_one_line(
    first: Server, tmp_path: Path, model: str, environ: dict[str, str], reason: str
) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    elsewhere = {"HF_ENDPOINT": nowhere, "PIP_INDEX_URL": nowhere, "PIP_EXTRA_INDEX_URL": "", "HOME": str(tmp_path)}
    first.environ = {"HEARTH_MODEL": model, **elsewhere, **environ}
    begun = time.monotonic()
    first.start()
    assert time.monotonic() - begun < 30
    said = [line for line in first.log().splitlines() if line.startswith("No model was fetched (")]
    assert len(said) == 1
    assert reason in said[0]
    assert said[0].endswith(f"so the guide answers. To fetch one later: python3 main.py run {model}")
    assert first.ask("What is the capital of France?")["result"] == "The capital of France is Paris."


def test_one_line_runs_a_file_from_anywhere(first: Server) -> None:
    """The chat is piped: a question, and the end of input."""
    example = json.loads((ROOT / "data" / "config.example.json").read_text(encoding="utf-8"))
    example["SmolLM2"].update(CERTAIN)
    (first.data / "config.json").write_text(json.dumps(example), encoding="utf-8")
    done = typed(first, "run", str(smollm2()), "--port", "0", stdin="What is the capital of France?\n")
    assert done.returncode == 0, done.stderr
    assert "you> The capital of France is Paris.\n" in done.stdout
    assert re.search(r"^SmolLM2 listens here, and at http://127\.0\.0\.1:\d+ ", done.stdout, re.MULTILINE)
    assert (first.models / FILE).is_file()
    assert config_of(first)["SelectedModel"] == "SmolLM2"


@pytest.mark.parametrize("what", re.findall(r"`(guide\.gguf|Guide)`", OWN))
def test_one_line_runs_what_is_here(first: Server, what: str) -> None:
    done = typed(first, "run", what, "--port", "0", stdin="My name is Ana.\n\nWhat is my name?\n")
    assert done.returncode == 0, done.stderr
    assert "you> Nice to meet you, Ana!\nyou> you> Your name is Ana.\n" in done.stdout


def test_what_cannot_be_run_is_said(first: Server) -> None:
    done = typed(first, "run", "nonsense")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith('Hearth cannot run: there is no "nonsense"')


def test_the_readmes_sources_are_taken() -> None:
    rows = re.findall(r"^\| (`.*`) \|", OWN, re.MULTILINE)
    assert len(rows) == 9
    named = [*re.findall(r"`([^`]+)`", " ".join(rows)), "https://huggingface.co/USER/REPO/blob/main/FILE.gguf"]
    sources = {text: kind for text in named for begin, kind in SOURCES.items() if text.startswith(begin)}
    assert set(named) - set(sources) == {"Qwen3-4B-Instruct-2507", "guide.gguf", "Guide"}
    assert {text: type(parse_source(text, local=True)) for text in sources} == sources
    run = re.findall(r"main\.py run ([\w.-]+)\n", OWN)
    assert run
    assert all(map(find, run))


def test_the_readmes_table_is_the_catalogs() -> None:
    rows = dict(re.findall(r"^\| (\d+) GB \| (.*) \|$", WHICH, re.MULTILINE))
    for gb, shown in rows.items():
        entries = [entry for entry in catalog() if entry.machine_gb == int(gb) and entry.size > 500e6]
        assert shown == ", ".join(f"{entry.name} ({entry.size / 1e9:.1f} GB)" for entry in entries)
    assert {int(gb) for gb in rows} == {entry.machine_gb for entry in catalog()}


def test_the_readmes_commands_about_models_work(first: Server) -> None:
    commands = re.findall(r"main\.py (models[^`\n]*)", WHICH)
    assert commands == ["models catalog", "models fit NAME", "models"]
    for command in commands:
        done = typed(first, *command.replace("NAME", "Qwen3-4B-Instruct-2507").split())
        assert done.returncode == 0, done.stderr
        assert ("guide.gguf" if command == "models" else "Qwen3-4B-Instruct-2507") in done.stdout
