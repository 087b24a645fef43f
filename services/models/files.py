"""The model files: list, describe and check the GGUF files of the models folder.

Links in the folder are followed wherever they lead: only the machine's owner can make them. A model in several files is
one, called as the first of them; see `services.models.split`.
"""

from __future__ import annotations

import logging
import os
import threading
import unicodedata
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from services.errors import BadModelFile, InvalidRequest, NotFound
from services.models.gguf import BadGguf, GgufInfo
from services.models.split import part_names, read_model, stamp_of_model
from services.storage.json_file import Stamp

log = logging.getLogger(__name__)

# A link may lead to a disk of a million folders, each of which would be looked through at every listing.
_MAX_FOLDERS = 10_000
# How names of files end that are still arriving (services/models/download.py).
PART = ".part"


@dataclass(frozen=True)
class ModelFile:
    """A model of the folder: what its header says, or what is wrong with it."""

    name: str
    stamp: Stamp
    info: GgufInfo | None
    problem: str | None


@dataclass(frozen=True)
class CheckedModel:
    """A model that is a whole GGUF: its name, its path (the first file's), and what changes whenever a file of it does."""

    name: str
    path: Path
    stamp: Stamp


class ModelFiles:
    """The folder's models, each header read again only after a file has changed.

    Any thread may call it; `_lock` protects what was read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.templates = folder
        """Where profiles' chat templates are."""
        self._lock = threading.Lock()
        self._read: dict[Path, ModelFile] = {}

    def list(self) -> list[ModelFile]:
        """Every model in the folder and the folders in it, by name; links that lead nowhere too, with their problem."""
        models = {path.with_name(part_names(path.name)[0]) for path in self._paths()}
        return [self._describe(path) for path in sorted(models)]

    def check(self, name: str) -> CheckedModel:
        """The model called `name`, in a whole GGUF file or several. Raises InvalidRequest, NotFound or BadModelFile."""
        return self._check(name, adapter=False)

    def check_adapter(self, name: str) -> CheckedModel:
        """The file called `name`, a whole LoRA adapter. Raises as `check` does."""
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
        return CheckedModel(found.name, path, found.stamp)

    def _find(self, name: str) -> Path:
        """Where a file is, by a name that cannot lead out of the folder but by the owner's links."""
        pure = PurePosixPath(name)
        if any(part.startswith(".") and part != ".." for part in pure.parts) or pure.suffix == PART:
            # Hidden, or still arriving: as if it were not there.
            raise _not_there(name)
        if not name.strip() or "\0" in name or pure.is_absolute() or ".." in pure.parts:
            what = "the model should be the name of a file in the models folder"
            raise InvalidRequest(what, param="model", code="bad_model_name")
        try:
            path = self.folder / pure
            if not _is_candidate(path):
                path = _stored_as(self.folder, pure)
            if _is_candidate(path):
                return path
        except OSError:
            # The name is too long, or a folder in it cannot be read.
            pass
        raise _not_there(name)

    def _paths(self) -> Iterator[Path]:
        """The .gguf files that are not hidden. Each folder is looked through once, links to folders at the end."""
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


def _not_there(name: str) -> NotFound:
    return NotFound(f"there is no file {name} in the models folder", param="model", code="model_not_found")


def nfc(name: str) -> str:
    """A name as Unicode composes it (NFC): macOS stores names decomposed, and keyboards write them composed."""
    return unicodedata.normalize("NFC", name)


def same_name(one: str, other: str) -> bool:
    """Whether two names of model files mean the same file, however their accents are encoded."""
    return nfc(one) == nfc(other)


def _is_candidate(path: Path) -> bool:
    """Whether it is a file, or a link that should lead to one."""
    try:
        return path.is_file() or (path.is_symlink() and not path.exists())
    except PermissionError:
        # It leads to where this process may not look.
        return path.is_symlink()


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except PermissionError:
        return False


def _stored_as(folder: Path, name: PurePosixPath) -> Path:
    """The path of a name as the disk has it, where that encodes its accents otherwise. Raises OSError."""
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
