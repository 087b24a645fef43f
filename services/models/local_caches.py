"""Models that are on this machine already: in the caches of other programs, or in a file that its owner names.

Hugging Face's cache: models--USER--REPO holds refs/REVISION, a file with a commit's name, and snapshots/COMMIT/FILE, which
links to blobs/DIGEST. LM Studio's folder: USER/REPO/FILE.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from services.errors import NotFound
from services.models.best_file import best_file
from services.models.remote import RemoteFile
from services.models.sources import HubFile, LocalFile
from services.models.split import part_names

_BLOCK = 2**20


def find_in_caches(source: HubFile) -> dict[str, Path]:
    """The files of the model that a source names, by their paths in the repository; {} where no program keeps all of them.

    Where the source names no file, the best of what is kept is taken, which need not be the best that the hub has.
    """
    for folder in _folders(source):
        kept = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        file = source.file
        if not file:
            with contextlib.suppress(NotFound):
                file = best_file(source.repo, list(kept), source.quantization)
        names = paths_of_parts(file)
        if all(name in kept for name in names):
            return {name: kept[name] for name in names}
    return {}


def find_file(source: LocalFile) -> dict[str, Path]:
    """The files of the model whose first a person names, by their names. Raises NotFound for what is missing."""
    found = {name: source.path.with_name(name) for name in part_names(source.path.name)}
    for path in found.values():
        if not path.is_file():
            raise NotFound(f"there is no file {path}", param="source", code="file_not_found")
    return found


def paths_of_parts(file: str) -> list[str]:
    """The paths of all files of a model in a repository, by that of the first."""
    path = PurePosixPath(file)
    return [path.with_name(name).as_posix() for name in part_names(path.name)] if file else [file]


def kept_file(path: Path, name: str, digest: str = "") -> RemoteFile:
    """A file of this machine, to be had as `name`. Its digest is the one given, or that of its blob's name, or none."""
    blob = path.resolve()
    if not digest and blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
        digest = blob.name

    def fetch(part: Path, received: int) -> None:
        with blob.open("rb") as source, part.open("r+b", buffering=0) as file:
            source.seek(received)
            file.seek(received)
            shutil.copyfileobj(source, file, _BLOCK)

    return RemoteFile(name, blob.stat().st_size, digest, fetch, blob)


def _folders(source: HubFile) -> Iterator[Path]:
    """The folders that hold a repository's files."""
    from huggingface_hub import constants

    repo = Path(constants.HF_HUB_CACHE, f"models--{source.repo.replace('/', '--')}")
    revision = source.revision or "main"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        revision = (repo / "refs" / revision).read_text(encoding="ascii").strip()
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        yield repo / "snapshots" / revision
    if not source.revision:
        yield Path.home() / ".lmstudio" / "models" / source.repo
        yield Path.home() / ".cache" / "lm-studio" / "models" / source.repo
