"""`main.py models`: what is here, what can be fetched, what fits, and removing and freeing models."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.backend.types import LoadSettings
from services.cli.model_facts import gb
from services.engine.llama.features import cpu_features
from services.engine.llama.runner import Runner
from services.engine.machine import free_memory
from services.models.catalog import catalog
from services.models.fast_types import best_types
from services.models.files import ModelFiles
from services.models.fitting import fit_of
from services.models.gguf import read_gguf
from services.models.profile import Profile
from services.models.remote_header import BLOCK
from tests.support.commands import run_command
from tests.support.hub import Hub
from tests.support.ports import free_port
from tests.support.serving import ROOT, Server
from tests.support.splitting import split_model
from tests.support.tiny import GUIDE, write_adapter, write_random_model, write_window_model

Run = Callable[..., "subprocess.CompletedProcess[str]"]
REPO = "maker/random-GGUF"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A models folder with the guide."""
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(GUIDE, folder)
    return folder


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Run:
    """Runs `main.py models` on the folder, with the example's profiles."""
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(ROOT / "data" / "config.example.json", data / "config.json")
    places = ["--data", str(data), "--models", str(folder)]
    # What other programs keep on this machine is looked for in places of the test's own.
    home = {"HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "COLUMNS": "200"}

    def typed(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        # One of them is a new Python.
        return run_command("models", *arguments, *places, environ={**home, **env}, forks=arguments != ("list",))

    return typed


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.close()


def row_of(done: subprocess.CompletedProcess[str], name: str) -> list[str]:
    """The cells of the table's row that begins with `name`."""
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    return next(row for row in rows if row[0] == name)


def facts_of(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """What `show` and `fit` say, by the facts' names."""
    assert done.returncode == 0, done.stderr
    lines = [line.split("  ", 1) for line in done.stdout.splitlines()[1:] if "  " in line]
    return {name: text.strip() for name, text in lines}


def test_the_files_are_listed_with_what_each_is_and_who_uses_it(run: Run, folder: Path) -> None:
    write_window_model(folder / "base.gguf")
    (folder / "cut.gguf").write_bytes(GUIDE.read_bytes()[:1000])
    done = run()
    assert row_of(done, "guide.gguf") == ["guide.gguf", "3.8 MB", "Q8_0", "2,048", "Guide, Pirate", ""]
    assert row_of(done, "base.gguf")[2:] == ["F16", "2,048", "", "no chat template: goes on with a text"]
    assert row_of(done, "cut.gguf")[5].startswith("cannot be used: it is cut short")
    assert "Selected: Guide" in done.stdout
    assert run("list").stdout == done.stdout


def test_an_empty_folder_says_what_to_do(run: Run, folder: Path) -> None:
    (folder / "guide.gguf").unlink()
    assert "main.py models catalog" in run().stdout


def test_to_look_makes_no_config(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data" / "config.json").unlink()
    assert row_of(run("list"), "guide.gguf")[4] == "Guide, Pirate"
    assert not (tmp_path / "data" / "config.json").exists()


def test_the_catalog_says_what_fits_and_what_is_here(run: Run, folder: Path) -> None:
    entry = catalog()[0]
    shutil.copy(GUIDE, folder / entry.file)
    done = run("catalog")
    for each in catalog():
        row = row_of(done, each.name)
        told = [gb(each.size), each.quantization, each.licence, ", ".join(each.can), f"{each.machine_gb} GB"]
        assert row[:6] == [each.name, *told]
        # What is free changes meanwhile, if by less than this.
        if abs(each.needs - free_memory()) > 2**30:
            assert row[6].startswith(("fits", "the best that fits") if each.needs < free_memory() else "needs"), each.name
    assert row_of(done, entry.name)[6].endswith(", here")
    assert done.stdout.count("the best that fits") == 1
    assert "of memory" in done.stdout
    best = best_types(cpu_features())
    assert not best or f"fast on this CPU: {', '.join(best)}." in done.stdout


def test_a_file_is_shown_with_what_it_takes(run: Run) -> None:
    facts = facts_of(run("show", "guide.gguf"))
    assert (facts["architecture"], facts["weights"]) == ("llama", "3.5 M, Q8_0")
    assert (facts["profile"], facts["used by"]) == ("Guide", "Guide, Pirate")
    assert (facts["prompted by"], facts["remembers"]) == ("its template", "5 exchanges (memory_k)")
    assert facts["that is"] == "8 answers at once, each with a context of 2,048 tokens"
    assert facts_of(run("show", "Pirate"))["profile"] == "Pirate"
    assert facts_of(run("show", "guide"))["weights"] == facts["weights"]


def test_a_model_of_the_catalog_is_shown_before_it_is_here(run: Run) -> None:
    entry = catalog()[2]
    done = run("show", entry.name.upper())
    facts = facts_of(done)
    assert done.stdout.startswith(f"{entry.name} (not here: python3 main.py pull {entry.name})")
    assert (facts["about"], facts["licence"], facts["source"]) == (entry.about, entry.licence, entry.source)
    assert facts["prompted by"] == "a chat template"


def test_a_profile_whose_model_is_not_here_says_where_it_comes_from(run: Run) -> None:
    facts = facts_of(run("show", "Qwen"))
    assert facts["model"] == "qwen2.5-1.5b-instruct-q4_k_m.gguf (not here: python3 main.py pull Qwen)"
    assert facts["source"].startswith("hf:Qwen/")


def test_a_damaged_file_and_an_unknown_name_say_what_is_wrong(run: Run, folder: Path) -> None:
    (folder / "cut.gguf").write_bytes(GUIDE.read_bytes()[:1000])
    assert "cut short" in facts_of(run("show", "cut"))["problem"]
    for command in ("show", "fit"):
        refused = run(command, "nothing")
        assert refused.returncode == 1
        assert 'there is no "nothing": neither a profile, nor a file' in refused.stderr
    refused = run("fit", "cut.gguf")
    assert (refused.returncode, "cut.gguf: it is cut short" in refused.stderr) == (1, True)


@pytest.mark.parametrize("changes", [{}, {"n_ctx": 512, "n_parallel": 3}, {"cache_type_k": "q8_0", "swa_full": False}])
def test_what_is_told_is_what_the_engine_takes(folder: Path, changes: dict[str, Any]) -> None:
    write_window_model(folder / "window.gguf", window=64)
    profile = Profile.model_validate({"model": "window.gguf", **changes})
    told = fit_of(read_gguf(folder / "window.gguf"), profile, free_memory())
    settings: LoadSettings = profile.load_settings(ModelFiles(folder))
    runner = Runner(settings)
    try:
        assert (told.n_ctx, told.n_slots) == (runner.n_ctx, runner.n_slots)
        # The header counts as part of the file, and not as weights.
        assert told.weights + told.kv == pytest.approx(runner.n_bytes, rel=0.05)
    finally:
        runner.close()


def test_what_fits_is_told_with_a_profiles_settings(run: Run) -> None:
    facts = facts_of(run("fit", "LFM2.5-1.2B-Instruct", "--profile", "Guide"))
    assert facts["profile"] == "Guide"
    assert facts["that is"].endswith("each with a context of 2,048 tokens")
    refused = run("fit", "guide.gguf", "--profile", "Nobody")
    assert (refused.returncode, 'there is no profile "Nobody"' in refused.stderr) == (1, True)


def test_what_does_not_fit_says_so(run: Run, tmp_path: Path) -> None:
    config = json.loads((tmp_path / "data" / "config.json").read_text())
    # Ten heads of 4096 numbers in 200 layers would take 262 MB a token.
    config["Huge"] = {"model": "huge.gguf", "n_ctx": 4096, "n_parallel": 1}
    (tmp_path / "data" / "config.json").write_text(json.dumps(config))
    write_window_model(tmp_path / "models" / "huge.gguf", n_ctx=4096)
    path = tmp_path / "models" / "huge.gguf"
    key, number = b"gemma3.attention.key_length", (64).to_bytes(4, "little")
    at = path.read_bytes().index(key) + len(key) + 4
    data = bytearray(path.read_bytes())
    assert data[at : at + 4] == number
    data[at : at + 4] = (2**27).to_bytes(4, "little")
    path.write_bytes(data)
    refused = run("fit", "Huge")
    assert refused.returncode == 1
    assert "Huge does not fit into this machine now: a context of 4096 tokens takes" in refused.stderr
    assert "does not fit" in facts_of(run("show", "Huge"))["memory"]


def test_what_a_hub_has_is_reckoned_by_its_header_alone(run: Run, folder: Path, tmp_path: Path, hub: Hub) -> None:
    whole = write_random_model(tmp_path / "random.gguf", dim=1024).read_bytes()
    assert len(whole) > 30 * BLOCK
    hub.files[REPO] = {"random-Q8_0.gguf": whole, "random-f16.gguf": b"no model"}
    for source in (f"hf:{REPO}/random-Q8_0.gguf", f"hf:{REPO}", f"hf:{REPO}:Q8_0"):
        hub.requests.clear()
        done = run("fit", source, "--profile", "Pirate", **hub.env)
        facts = facts_of(done)
        assert f"weights {gb(len(whole))}" in facts["in memory"]
        assert facts["that is"] == "8 answers at once, each with a context of 2,048 tokens"
        assert hub.ranges() == [f"bytes=0-{BLOCK - 1}"]
    # The same as of the file itself.
    (folder / "random.gguf").write_bytes(whole)
    here = facts_of(run("fit", "random.gguf", "--profile", "Pirate"))
    assert (here["in memory"], here["that is"]) == (facts["in memory"], facts["that is"])
    assert sorted(path.name for path in folder.iterdir()) == ["guide.gguf", "random.gguf"]


def test_a_header_longer_than_a_block_is_read_on(run: Run, hub: Hub) -> None:
    whole = GUIDE.read_bytes()
    text = b"x" * (3 * BLOCK)
    entry = struct.pack("<Q12sIQ", 12, b"general.note", 8, len(text)) + text
    # The tensors' data stays aligned.
    entry += struct.pack("<Q4sIQ", 4, b"none", 8, n_left := -(len(entry) + 24) % 32) + b"x" * n_left
    n_entries = struct.unpack_from("<Q", whole, 16)[0]
    longer = whole[:16] + struct.pack("<Q", n_entries + 2) + entry + whole[24:]
    hub.files[REPO] = {"guide.gguf": longer}
    facts = facts_of(run("fit", f"hf:{REPO}/guide.gguf", "--profile", "Guide", **hub.env))
    assert f"weights {gb(len(longer))}" in facts["in memory"]
    asked = [tuple(map(int, str(range_).removeprefix("bytes=").split("-"))) for range_ in hub.ranges()]
    assert len(asked) > 1
    # Each from where the one before has ended, and not much more than the header.
    assert [first for first, _ in asked] == [0, *(last + 1 for _, last in asked[:-1])]
    assert asked[-1][1] < len(text) + 2 * BLOCK < len(longer)


def test_a_model_in_several_files_is_reckoned_as_one(run: Run, tmp_path: Path, hub: Hub) -> None:
    parts = split_model(GUIDE, tmp_path, "parts", [0, 5, 5])
    hub.files[REPO] = {path.name: path.read_bytes() for path in parts}
    facts = facts_of(run("fit", f"hf:{REPO}/{parts[0].name}", "--profile", "Guide", **hub.env))
    assert f"weights {gb(sum(path.stat().st_size for path in parts))}" in facts["in memory"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (f"hf:{REPO}/text.gguf", "is no model: not a GGUF file"),
        (f"hf:{REPO}/none.gguf", "has no file none.gguf"),
        ("hf:maker/nothing", "the hub has no repository maker/nothing"),
        ("hf:maker", "repository"),
        ("pypi:package==1.0/model.gguf", "known only once it is here"),
        ("ollama:llama3.2", "Ollama has no model llama3.2"),
    ],
)
def test_a_source_that_cannot_be_reckoned_says_why(run: Run, hub: Hub, source: str, reason: str) -> None:
    hub.files[REPO] = {"text.gguf": b"I am no model, and longer than the magic number"}
    refused = run("fit", source, **hub.env)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert reason in refused.stderr


def test_the_hub_may_not_lead_elsewhere(run: Run, hub: Hub) -> None:
    hub.files[REPO] = {"guide.gguf": GUIDE.read_bytes()}
    hub.leads_to = "http://localhost:9/secret"
    refused = run("fit", f"hf:{REPO}/guide.gguf", **hub.env)
    assert refused.returncode == 1
    assert "the hub leads to localhost" in refused.stderr


def test_a_local_file_is_reckoned_where_it_is(run: Run, tmp_path: Path) -> None:
    shutil.copy(GUIDE, tmp_path / "elsewhere.gguf")
    facts = facts_of(run("fit", str(tmp_path / "elsewhere.gguf")))
    assert f"weights {gb(GUIDE.stat().st_size)}" in facts["in memory"]


def test_a_model_is_removed_unless_a_profile_needs_it(run: Run, folder: Path) -> None:
    refused = run("rm", "guide")
    assert refused.returncode == 1
    assert "Guide, Pirate" in refused.stderr
    assert "--force" in refused.stderr
    assert (folder / "guide.gguf").exists()
    shutil.copy(GUIDE, folder / "other.gguf")
    done = run("rm", "other.gguf")
    assert (done.returncode, done.stdout) == (0, "Removed other.gguf (3.8 MB freed).\n")
    assert run("rm", "guide.gguf", "--force").returncode == 0
    assert list(folder.iterdir()) == []
    assert "there is no file guide.gguf" in run("rm", "guide.gguf").stderr


def test_an_adapter_of_a_profile_is_kept(run: Run, folder: Path, tmp_path: Path) -> None:
    write_adapter(folder / "lora.gguf")
    assert row_of(run(), "lora.gguf")[5] == "a LoRA adapter"
    config = json.loads((tmp_path / "data" / "config.json").read_text())
    config["Guide"]["lora"] = [{"file": "lora.gguf"}]
    (tmp_path / "data" / "config.json").write_text(json.dumps(config))
    refused = run("rm", "lora.gguf")
    assert (refused.returncode, "Guide" in refused.stderr) == (1, True)
    assert (folder / "lora.gguf").exists()


def test_a_model_goes_with_all_its_parts_and_damaged_ones_too(run: Run, folder: Path) -> None:
    parts = split_model(GUIDE, folder, "parts", [5, 5, 5])
    parts[1].unlink()
    (folder / "cut.gguf").write_bytes(b"GGUF")
    assert run("rm", parts[0].name).returncode == 0
    assert run("rm", "cut.gguf").returncode == 0
    assert [path.name for path in folder.iterdir()] == ["guide.gguf"]


def test_of_a_link_only_the_link_is_removed(run: Run, folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(GUIDE, elsewhere / "linked.gguf")
    (folder / "linked.gguf").symlink_to(elsewhere / "linked.gguf")
    (folder / "lost.gguf").symlink_to(elsewhere / "nothing.gguf")
    (folder / "there").symlink_to(elsewhere)
    for name in ("linked.gguf", "lost.gguf"):
        assert "0 B freed" in run("rm", name).stdout
        assert not (folder / name).is_symlink()
    refused = run("rm", "there/linked.gguf")
    assert refused.returncode == 1
    assert "there/linked.gguf is behind the link there" in refused.stderr
    assert (elsewhere / "linked.gguf").exists()


def test_a_server_frees_a_model_when_it_is_told_to(run: Run, serve: Callable[..., Server]) -> None:
    server = serve()
    done = run("unload", "Guide", "--url", f"{server.url}/", "--key", server.key)
    assert (done.returncode, done.stdout) == (0, "guide.gguf is in memory no longer.\n")
    assert server.get("/models").json()["loaded"] == []
    again = run("unload", "Guide", "--url", server.url, HEARTH_KEY=server.key)
    assert (again.returncode, "guide.gguf is not in memory" in again.stderr) == (1, True)
    wrong = run("unload", "Guide", "--url", server.url, "--key", "hearth-ключ")
    assert (wrong.returncode, "this key is not valid" in wrong.stderr) == (1, True)


def test_where_no_server_answers_that_is_said(run: Run, hub: Hub) -> None:
    nobody = run("unload", "Guide", "--url", f"http://127.0.0.1:{free_port()}", "--key", "x")
    assert (nobody.returncode, "no server answers at" in nobody.stderr) == (1, True)
    assert "Connection refused" in nobody.stderr
    assert "--key, or as HEARTH_KEY" in run("unload", "Guide", "--url", hub.url, HEARTH_KEY="").stderr
    assert "--url should be like" in run("unload", "Guide", "--url", "localhost:5000", "--key", "x").stderr
    assert "is no Hearth" in run("unload", "Guide", "--url", hub.url, "--key", "x").stderr
