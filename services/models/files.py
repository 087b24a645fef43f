"""The models folder: list, describe, check and remove its GGUF files.

Links in the folder are followed wherever they lead: only the machine's owner can make them. A model in several files is
one, named by its first file (`services.models.split`).
"""

from __future__ import annotations

import logging
import os
import threading
import unicodedata
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

from typing_extensions import override

from services.errors import BadModelFile, InvalidRequest, NotFound
from services.models.gguf import BadGguf, GgufInfo
from services.models.split import part_names, read_model, stamp_of_model
from services.storage.json_file import Stamp

log = logging.getLogger(__name__)

# The most folders that a listing searches: a link may lead to a disk of a million.
_MAX_FOLDERS = 10_000
# The ending of files that are still being downloaded (services/models/download.py).
PART = ".part"


@dataclass(frozen=True)
class ModelFile:
    """A model of the folder: its header, or its fault."""

    name: str
    stamp: Stamp
    info: GgufInfo | None
    problem: str | None


@dataclass(frozen=True)
class CheckedModel:
    """A valid model: name, first file's path and header, and a stamp that changes whenever one of its files does."""

    name: str
    path: Path
    stamp: Stamp
    info: GgufInfo = field(compare=False, repr=False)


class AvailableModels(Protocol):
    """The models that can be used: those of a folder, or in a cluster those that workers serve. Any thread may call it."""

    folder: Path
    """The folder that the files' names are relative to; in a cluster an empty path."""
    templates: Path
    """The folder of the profiles' chat templates."""

    def list(self) -> list[ModelFile]:
        """Return every model, by name, also those that cannot be used, with their problem."""
        ...

    def check(self, name: str) -> CheckedModel:
        """Find the model called `name`. Raises InvalidRequest, NotFound or BadModelFile, or Unavailable in a cluster."""
        ...

    def check_adapter(self, name: str) -> CheckedModel:
        """Find the LoRA adapter called `name`. Raises as `check` does."""
        ...


class ModelFiles(AvailableModels):
    """The models of the folder; a header is read again only after its file has changed.

    Any thread may call it; `_lock` protects the headers that were read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.templates = folder
        self._lock = threading.Lock()
        self._read: dict[Path, ModelFile] = {}

    @override
    def list(self) -> list[ModelFile]:
        """Return all models of the folder and its subfolders, by name; broken links too, with their problem."""
        models = {path.with_name(part_names(path.name)[0]) for path in self._paths()}
        return [self._describe(path) for path in sorted(models)]

    @override
    def check(self, name: str) -> CheckedModel:
        return self._check(name, adapter=False)

    @override
    def check_adapter(self, name: str) -> CheckedModel:
        return self._check(name, adapter=True)

    def _check(self, name: str, adapter: bool) -> CheckedModel:
        path = self._find(name)
        if (first := part_names(path.name)[0]) != path.name:
            named = path.with_name(first).relative_to(self.folder).as_posix()
            raise BadModelFile(f"{name} is one part of a model, which is called as its first part: {named}", param="model")
        found = self._describe(path)
        if found.info is None:
            raise BadModelFile(f"{name}: {found.problem}", param="model")
        if found.info.adapter != adapter:
            is_what = "a LoRA adapter, and no model" if found.info.adapter else "a model, and no LoRA adapter"
            raise BadModelFile(f"{name} is {is_what}", param="model")
        return CheckedModel(found.name, path, found.stamp, found.info)

    def _find(self, name: str) -> Path:
        """The path of a file by its name, which cannot lead out of the folder except by the owner's links."""
        pure = PurePosixPath(name)
        if any(part.startswith(".") and part != ".." for part in pure.parts) or pure.suffix == PART:
            # Hidden and incomplete files do not exist for callers.
            raise _not_there(name)
        if not name.strip() or "\0" in name or pure.is_absolute() or ".." in pure.parts:
            what = "the model should be the name of a file in the models folder"
            public = "the model should be the name of a model file of the server"
            raise InvalidRequest(what, param="model", code="bad_model_name", public=public)
        try:
            path = self.folder / pure
            if not _is_candidate(path):
                path = _stored_as(self.folder, pure)
            if _is_candidate(path):
                return path
        except OSError:
            # The name is too long, or one of its folders cannot be read.
            pass
        raise _not_there(name)

    def _paths(self) -> Iterator[Path]:
        """Yield the .gguf files that are not hidden. Each folder is searched once, links to folders last."""
        folders, links, seen = deque([self.folder]), deque[Path](), set[str]()
        while folders or links:
            folder = (folders or links).popleft()
            if (real := os.path.realpath(folder)) in seen:
                continue
            seen.add(real)
            if len(seen) > _MAX_FOLDERS:
                log.warning("%s has more than %d folders in it: not all are looked through", self.folder, _MAX_FOLDERS)
                return
            for entry in _entries(folder):
                path = folder / entry.name
                if _is_folder(path):
                    (links if entry.is_symlink() else folders).append(path)
                elif path.suffix.lower() == ".gguf" and _is_candidate(path):
                    yield path

    def _describe(self, path: Path) -> ModelFile:
        name = path.relative_to(self.folder).as_posix()
        stamp = (0, 0, 0)
        try:
            stamp = stamp_of_model(path)
            with self._lock:
                known = self._read.get(path)
            if known and known.stamp == stamp:
                return known
            described = ModelFile(name, stamp, read_model(path), None)
        except BadGguf as error:
            described = ModelFile(name, stamp, None, str(error))
        except OSError as error:
            return ModelFile(name, stamp, None, _why_unreadable(path, error))
        with self._lock:
            self._read[path] = described
        return described


def remove_model(folder: Path, name: str) -> tuple[int, list[str]]:
    """Remove a model's files, or the links to them; return the bytes freed, and the files' names.

    Raises InvalidRequest for a file that is reached only through a link to another folder, and OSError.
    """
    path = folder / name
    for parent in path.parents:
        if parent == folder:
            break
        if parent.is_symlink():
            what = f"{name} is behind the link {parent.relative_to(folder)}, which leads to {parent.resolve()}"
            raise InvalidRequest(f"{what}: remove the link, or the file where it is", param="name")
    freed, removed = 0, []
    for part in (path.with_name(each) for each in part_names(path.name)):
        if part.is_symlink() or part.exists():
            freed += 0 if part.is_symlink() or part.stat().st_nlink > 1 else part.stat().st_size
            part.unlink()
            removed.append(part.relative_to(folder).as_posix())
    return freed, removed


def _not_there(name: str) -> NotFound:
    what = f"there is no file {name} in the models folder"
    return NotFound(what, param="model", code="model_not_found", public=f"there is no model file {name} on this server")


def nfc(name: str) -> str:
    """A name in Unicode's composed form (NFC): macOS stores names decomposed, and keyboards write them composed."""
    return unicodedata.normalize("NFC", name)


def same_name(one: str, other: str) -> bool:
    """Return whether two names mean the same model file, however their accents are encoded."""
    return nfc(one) == nfc(other)


def _is_candidate(path: Path) -> bool:
    """Return whether a path is a file, or a broken link that should lead to one."""
    try:
        return path.is_file() or (path.is_symlink() and not path.exists())
    except PermissionError:
        # A link to a place that this process may not read.
        return path.is_symlink()


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except PermissionError:
        return False


def _stored_as(folder: Path, name: PurePosixPath) -> Path:
    """The path of a name in the disk's encoding of accents. Raises OSError."""
    path = folder
    for part in name.parts:
        same = (entry.name for entry in path.iterdir() if same_name(entry.name, part))
        path /= next(same, part)
    return path


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError:
        return []


def _why_unreadable(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "it is a link that leads to nothing" if path.is_symlink() else f"its part {path.name} is missing"
    return f"cannot be read: {error.strerror}"
