"""The README and the pages in docs: each command and script runs, in order, on a fresh server; its output is compared."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from services.models.profile import Profile
from tests.support.documents import OTHERS, handbook_pdf
from tests.support.real_models import smollm2
from tests.support.serving import ROOT, Server
from tests.support.tiny import GUIDE

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = (ROOT / "docs" / "documents.md").read_text(encoding="utf-8")
# The id of a key that was minted, or of a file that was stored.
MADE = re.compile(r'(?:"key":"hearth-[\w-]{43}",|^(?:data: )?\{)"id": ?"([0-9a-f]{8,16}|file-[0-9a-f]{24})"', re.MULTILINE)
# The section whose commands run with the model that the first start downloads (test_first_start.py).
REAL = "Quick start"
# Langformers' own module, without its package, which would import torch.
LIGHT_LANGFORMERS = """
import importlib.util, sys, types
folder = importlib.util.find_spec("langformers").submodule_search_locations[0]
spec = importlib.util.spec_from_file_location("stream_processor", f"{folder}/generators/stream_processor.py")
for name in ("langformers", "langformers.generators"):
    sys.modules[name] = types.ModuleType(name)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.modules["langformers.generators"].StreamProcessor = module.StreamProcessor
"""
# Times, keys, ids and dates differ each time.
CHANGING = [
    # The prefetched part depends on how fast the next prompt came.
    (r'"cached_tokens": ?\d+', '"cached_tokens":0'),
    (r'_ms": ?[\d.]+', '_ms":0'),
    (r"hearth-[\w-]{43}", "hearth-…"),
    (r'"id":"[0-9a-f]{8,16}"', '"id":"…"'),
    (r'"id":"(chat)?cmpl-[0-9a-f]{32}"', '"id":"…"'),
    (r"file-[0-9a-f]{24}", "file-…"),
    # How often progress is told depends on the machine.
    (r'data: \{"state": "reading"[^\n]*\n\n', ""),
    (r'"state":"(queued|running)","place":[01]', '"state":"queued","place":1'),
    (r'"(created|finished)":[\d.]+', '"created":0'),
    (r"\d{4}-\d\d-\d\dT[\d:+]+", "…"),
    # The models that fit depend on the machine.
    (r'"catalog":\[.*?"here":(true|false)\}\]', '"catalog":[…]'),
    # A line of usage as CSV.
    (r",\d{4}-\d\d-\d\d,(\d+),(\d+),\d+,(\d+),[\d.]+\r?", r",…,\1,\2,0,\3,0"),
    ("\r", ""),
    # A chunk has all the text that has come since the last one.
    (r', "queue_position": 0\}', "}"),
    (r'"\}\n\ndata: \{"chunk": "', ""),
    (r"\|", ""),
]


def masked(text: str) -> str:
    for pattern, mask in CHANGING:
        text = re.sub(pattern, mask, text)
    return text.strip()


class Piece(NamedTuple):
    """A command or script of a page, and the output shown below it."""

    kind: str
    typed: str
    output: str


def section(title: str) -> str:
    """Return the README's section with this title."""
    return README[README.index(f"## {title}\n") :].split("\n## ")[0]


def pieces(text: str) -> list[Piece]:
    """Return, in order, each `$ command` of a console block and each Python block with output below it."""
    found = []
    blocks = r"```console\n(?P<console>.*?)```|```python\n(?P<python>[^`]*)```\n\n```text\n(?P<text>.*?)```"
    for block in re.finditer(blocks, text, re.DOTALL):
        if block["python"] is not None:
            found.append(Piece("python", block["python"], block["text"]))
            continue
        for part in re.split(r"^\$ ", block["console"], flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append(Piece("console", command, output))
    return found


def run(piece: Piece, server: Server, made: str = "", folder: Path = ROOT) -> str:
    """Run it on a server, in a folder; return its output. ID is the id of the key or file that was `made` last."""
    if piece.kind == "console":
        # -s: without curl's progress.
        typed = ["bash", "-c", re.sub(r"curl ", "curl -s ", piece.typed.replace("localhost:5000", server.url), count=1)]
    else:
        address, port = server.url.removeprefix("http://").split(":")
        code = piece.typed.replace("localhost:5000", f"{address}:{port}").replace('localhost", 5000', f'{address}", {port}')
        typed = [sys.executable, "-c", f"{LIGHT_LANGFORMERS}\nKEY = {server.key!r}\n{code}"]
    environ = {**os.environ, "KEY": server.key, "ID": made, "PYTHONWARNINGS": "ignore", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(typed, cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + (done.stderr if done.returncode else "")


@pytest.mark.parametrize("page", ["README.md", "docs/clients.md", "docs/lending.md", "docs/models.md"])
def test_every_command_gives_the_output_shown(serve: Callable[..., Server], tmp_path: Path, page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = pieces(text.replace(section(REAL), ""))
    assert len(found) > 6
    # A models folder with only the guide.
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / GUIDE.name).symlink_to(GUIDE)
    type_all(found, serve(models=tmp_path / "models"))


def test_the_commands_about_documents_give_the_output_shown(serve: Callable[..., Server], tmp_path: Path) -> None:
    found = pieces(DOCUMENTS)
    assert len(found) > 6
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / smollm2().name).symlink_to(smollm2())
    (tmp_path / "handbook.pdf").write_bytes(handbook_pdf())
    (tmp_path / "photo.png").write_bytes(OTHERS["a PNG image"])
    server = serve(models=tmp_path / "models", ready=False)
    server.select("SmolLM2")
    # The tokens of files are counted by a model that is loaded.
    server.ask("Hello", max_tokens=1, memory_k=0)
    type_all(found, server, tmp_path)


def test_the_readmes_commands_about_documents_are_those_of_their_page() -> None:
    shown = re.findall(r"^curl .*", section("Own files"), re.MULTILINE)
    assert len(shown) == 3
    assert shown == [piece.typed for piece in pieces(DOCUMENTS)[:3]]


def type_all(typed: list[Piece], server: Server, folder: Path = ROOT) -> None:
    """Run all on a server, in a folder, and compare the outputs."""
    made = ""
    for piece in typed:
        if not piece.typed.startswith(("KEY=", "ID=")):
            said = run(piece, server, made, folder)
            assert masked(said) == masked(piece.output), piece.typed
            made = found[-1] if (found := MADE.findall(said)) else made


def test_every_key_of_a_profile_is_explained() -> None:
    table = README[README.index("| key | default |") :]
    for name, field in Profile.model_fields.items():
        assert f"`{name}`" in table
        assert field.is_required() == (name == "model")


def test_the_profiles_shown_are_good() -> None:
    for page, names in ((README, ("Guide", "Helper")), (DOCUMENTS, ("Helper", "Embeddings"))):
        [block] = [each for each in re.findall(r"```json\n(.*?)```", page, re.DOTALL) if "SelectedModel" in each]
        for name in names:
            Profile.model_validate(json.loads(block)[name])
