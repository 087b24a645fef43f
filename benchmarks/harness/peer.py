"""llama-server and llama.cpp's measuring tools, compiled from the source of the llama-cpp-python that Hearth runs on."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

from benchmarks.harness.servers import ROOT, THREADS

TOOLS = ("llama-server", "llama-bench", "llama-batched-bench")
# Parts that the server does not need, and parts that would be downloaded.
OFF = (
    "LLAMA_CURL",
    "LLAMA_BUILD_TESTS",
    "LLAMA_BUILD_EXAMPLES",
    "LLAMA_BUILD_APP",
    "LLAMA_BUILD_UI",
    "LLAMA_USE_PREBUILT_UI",
)


def make_peer(folder: Path) -> Path:
    """Return the folder of the binaries: the one that HEARTH_PEER names, else `folder`/peer/bin, compiled if missing.

    Compiling takes ten minutes on two cores, and needs cmake and ninja. Raises CalledProcessError if a step fails.
    """
    if given := os.environ.get("HEARTH_PEER"):
        return Path(given).resolve()
    binaries = folder / "peer" / "bin"
    if not all((binaries / tool).exists() for tool in TOOLS):
        folder.mkdir(parents=True, exist_ok=True)
        compile_peer(unpack_source(folder), folder / "peer")
    return binaries


def pinned() -> str:
    """Return the lines of requirements.txt that pin llama-cpp-python, with its hashes."""
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    found = re.search(r"^llama-cpp-python==(?:.*\\\n)*.*\n", text, re.MULTILINE)
    assert found, "requirements.txt does not pin llama-cpp-python"
    return found[0]


def unpack_source(folder: Path) -> Path:
    """Download the source package of the pinned llama-cpp-python; return the folder of llama.cpp's source."""
    wanted = folder / "peer.txt"
    wanted.write_text(pinned(), encoding="utf-8")
    download = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-python", "--require-hashes"]
    subprocess.run([*download, "-r", str(wanted), "-d", str(folder)], check=True)
    version = pinned().split()[0].partition("==")[2]
    name = f"llama_cpp_python-{version}"
    with tarfile.open(folder / f"{name}.tar.gz") as package:
        package.extractall(folder, filter="data")
    return folder / name / "vendor" / "llama.cpp"


def compile_peer(source: Path, target: Path) -> None:
    """Compile the tools, with CMAKE_ARGS as setup.sh sets them for Hearth's own llama.cpp."""
    flags = ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON", *shlex.split(os.environ["CMAKE_ARGS"])]
    flags += [f"-D{name}=OFF" for name in OFF]
    subprocess.run(["cmake", "-S", str(source), "-B", str(target), "-G", "Ninja", *flags], check=True)
    subprocess.run(["cmake", "--build", str(target), "--target", *TOOLS, "-j", str(THREADS)], check=True)
