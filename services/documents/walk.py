"""The files of a folder as they lie there now, and those of its places that cannot be looked at."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from typing_extensions import override

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Not to wait for the other end of a pipe.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_GONE = "it is not there now: nothing of it is forgotten"


@dataclass(frozen=True)
class FoundFile:
    """A file: its path relative to the folder, its size in bytes and the time of its last change in nanoseconds.

    `is_nameable`: its name is UTF-8; else `path` has escapes in it.
    """

    path: str
    size: int
    mtime_ns: int
    is_nameable: bool = True


@dataclass
class Walk:
    """What was found in a folder. Paths are relative to it; "" is the folder itself."""

    files: dict[str, FoundFile] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    """Places of which nothing is known, and why: what was there before may be there still."""
    disks: dict[str, str] = field(default_factory=dict)
    """The device and the inode of the folder and of each mount point in it, by which an unmounted disk is noticed."""

    def is_unknown(self, path: str) -> bool:
        """Return whether a file that was not found may be there all the same."""
        return any(not place or path == place or path.startswith(f"{place}/") for place in self.unread)


class FileChanged(Exception):
    """A file has changed while it was read."""


class SteadyFile(io.BufferedReader):
    """An open file that should not change until its end is read."""

    def __init__(self, descriptor: int, found: FoundFile) -> None:
        super().__init__(io.FileIO(descriptor))
        self._found = found

    @override
    def read(self, size: int | None = -1, /) -> bytes:
        """Read as a file does. Raises FileChanged at the end, if it is not as it was found."""
        piece = super().read(size)
        if not piece:
            now = os.fstat(self.fileno())
            if (now.st_size, now.st_mtime_ns) != (self._found.size, self._found.mtime_ns):
                raise FileChanged
        return piece


def walk(root: Path, disks: Mapping[str, str], poll: Callable[[], None] = lambda: None) -> Walk:
    """Look at all files of a folder, those of its folders included.

    Passed over are hidden files, backups and locks of editors, links that leave the folder or lead to a folder, and what
    is no file. A mount point of `disks`, those of the last walk, that is gone, or empty and another folder than it was, is
    unread: its disk is not mounted. `poll` is called meanwhile, and raises to give up.
    """
    found = Walk()
    real = os.path.realpath(root)
    waiting = [("", -1)]
    visited: set[str] = set()
    while waiting:
        poll()
        place, outer = waiting.pop()
        visited.add(place)
        try:
            status = (root / place).stat()
            with os.scandir(root / place) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            found.unread[place] = _in_words(error)
            continue
        identity = f"{status.st_dev}:{status.st_ino}"
        if place in disks and not inside and identity != disks[place]:
            found.unread[place] = "it is empty, as if its disk were not mounted: nothing of it is forgotten"
            continue
        if status.st_dev != outer:
            found.disks[place] = identity
        waiting += [(folder, status.st_dev) for folder in _look(inside, place, real, found)]
    for place, identity in disks.items():
        if place not in visited and not found.is_unknown(place):
            found.unread[place] = _GONE
        if found.is_unknown(place):
            found.disks[place] = identity
    return found


def _look(entries: Iterable[os.DirEntry[str]], place: str, real: str, found: Walk) -> list[str]:
    """Add the files among the entries of a folder to those that were found; return its folders."""
    folders = []
    for entry in entries:
        if _is_hidden(entry.name):
            continue
        path = f"{place}/{entry.name}" if place else entry.name
        try:
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif file := _file(entry, path, real):
                found.files[file.path] = file
        except FileNotFoundError:
            # It is gone, or a link to what is.
            continue
        except OSError as error:
            found.unread[path] = _in_words(error)
    return folders


def _file(entry: os.DirEntry[str], path: str, real: str) -> FoundFile | None:
    """Return a file, or what a link leads to; None for what is passed over. Raises OSError."""
    if entry.is_symlink() and not _is_inside(os.path.realpath(entry.path), real):
        return None
    status = entry.stat()
    if not stat.S_ISREG(status.st_mode):
        return None
    try:
        path.encode()
    except UnicodeEncodeError:
        named = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return FoundFile(named, status.st_size, status.st_mtime_ns, is_nameable=False)
    return FoundFile(path, status.st_size, status.st_mtime_ns)


def open_steady(root: Path, found: FoundFile) -> SteadyFile:
    """Open a file of a folder. Raises OSError, also where it is no file of the folder any more; FileChanged."""
    real = os.path.realpath(root)
    target = os.path.realpath(root / found.path)
    if not _is_inside(target, real):
        raise FileChanged
    *folders, name = Path(target).relative_to(real).parts
    # Step by step: somebody may put a link to a file of the server's in the place of a folder meanwhile.
    at = os.open(real, _FOLDER)
    try:
        for folder in folders:
            inner = os.open(folder, _FOLDER | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = inner
        file = os.open(name, _FILE, dir_fd=at)
    finally:
        os.close(at)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise FileChanged
    return SteadyFile(file, found)


def _is_inside(path: str, folder: str) -> bool:
    return path.startswith(f"{folder.rstrip('/')}/")


def _is_hidden(name: str) -> bool:
    """Return whether a name is that of a hidden file, of an editor's backup, or of the lock of an office program."""
    return name.startswith((".", "~$")) or name.endswith("~")


def _in_words(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return _GONE
    if isinstance(error, NotADirectoryError):
        return "it is no folder now: nothing of it is forgotten"
    return f"it cannot be read: {error.strerror}"
