"""A JSON file that several threads and processes may change and a power cut may not break.

The file holds one object. It is replaced whole: the new text is written beside it, synced, and renamed over it, so a
reader sees the old file or the new one. Writers take turns by a lock file, which other processes honour too.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from services.errors import DamagedFile, StorageFailed
from services.json_text import parse_json, place_of, readable, second_of

JsonObject = dict[str, Any]
Stamp = tuple[int, int, int]
Check = Callable[[JsonObject], None]


class Misfit(ValueError):
    """Raised by a file's check: what stands at `path` is not what it should be, and why."""

    def __init__(self, path: Sequence[str | int], reason: str) -> None:
        super().__init__(reason)
        self.path = path


class JsonTable(Protocol):
    """A JSON object that several threads and processes may change; see `JsonFile`."""

    def read(self) -> JsonObject:
        """The object as it stands. Not to be changed."""
        ...

    def edit(self) -> AbstractContextManager[JsonObject]:
        """Give a shallow copy of the object to change, and store it durably on leaving."""
        ...

    def clear(self) -> None:
        """Begin with none."""
        ...


class OpenTable(Protocol):
    """How a table is opened: `JsonFile`, or a cluster's."""

    def __call__(self, path: Path, check: Check | None = None, *, private: bool = False) -> JsonTable:
        """The table that `path` names."""
        ...


class _Twice(ValueError):
    """An object has the entry `name` twice."""

    def __init__(self, name: str) -> None:
        super().__init__(f'"{name}" stands there twice')
        self.name = name


class JsonFile:
    """One JSON object on disk, and the copy of it in memory.

    Owned by its store; any thread may call it. `_turn` protects the copy and serializes this process's writers; the
    lock file beside the data serializes processes. `check` gets each object read from disk and raises Misfit.
    Objects that `read` and `edit` give are shared: replace their entries, never change one in place.
    """

    def __init__(self, path: Path, check: Check | None = None, *, private: bool = False) -> None:
        self.path = path
        self._check = check
        self._draft = path.with_name(f".{path.name}.new")
        self._mode = 0o600 if private else 0o644
        self._turn = threading.RLock()
        self._seen: Stamp | None = None
        self._data: JsonObject = {}

    def read(self) -> JsonObject:
        """The object as it stands on disk; {} where there is no file. Parsed again only after the file has changed.

        Raises DamagedFile with the line at fault.
        """
        with self._turn:
            stamp = self.stamp()
            if stamp != self._seen:
                self._data = self.load()
                self._seen = stamp
            return self._data

    @contextmanager
    def edit(self) -> Iterator[JsonObject]:
        """Give a shallow copy of the object to change, and store it durably on leaving.

        Nothing is stored where the block raises or leaves the object as it was.
        Raises DamagedFile where the file cannot be read, StorageFailed where it cannot be written.
        """
        with self._turn, self.alone():
            before = self.read()
            data = dict(before)
            yield data
            if data != before:
                draft, stamp = self.draft(readable(data))
                self.put_in_place(draft)
                self._seen, self._data = stamp, data

    def clear(self) -> None:
        """Remove the file. Raises OSError."""
        self.path.unlink()

    @contextmanager
    def alone(self, purpose: str = "lock") -> Iterator[None]:
        """Hold a lock file, which keeps other processes from doing the same. Raises StorageFailed."""
        try:
            lock = os.open(
                self.path.with_name(f".{self.path.name}.{purpose}"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise self.unwritable(error) from error
        try:
            give_to_owner(lock, self.path)
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def stamp(self) -> Stamp | None:
        """What changes with the file; None where there is none."""
        try:
            return stamp_of(self.path.stat())
        except FileNotFoundError:
            return None

    def load(self) -> JsonObject:
        """The object as it stands on disk, parsed anew; {} where there is no file. Raises DamagedFile."""
        try:
            text = self._text()
        except FileNotFoundError:
            return {}
        try:
            data = parse_json(text, object_pairs_hook=_once_each)
        except json.JSONDecodeError as error:
            raise DamagedFile(self.path, error.msg, line=error.lineno, column=error.colno) from error
        except _Twice as error:
            raise self._damaged(str(error), second_of(text, error.name)) from error
        except RecursionError as error:
            raise DamagedFile(self.path, "it is nested too deeply") from error
        if not isinstance(data, dict):
            raise DamagedFile(self.path, "should hold one JSON object: { … }", line=1)
        if self._check:
            try:
                self._check(data)
            except Misfit as error:
                raise self._damaged(str(error), place_of(text, error.path)) from error
        return data

    def _text(self) -> str:
        try:
            # Editors of Windows put a mark at the beginning, which is no part of the text.
            return self.path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise DamagedFile(self.path, "a byte there is not UTF-8 text", line=line) from error
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DamagedFile(self.path, f"cannot be read: {error.strerror}") from error

    def _damaged(self, reason: str, place: tuple[int, int]) -> DamagedFile:
        return DamagedFile(self.path, reason, line=place[0], column=place[1])

    def draft(self, pieces: Iterable[str]) -> tuple[Path, Stamp]:
        """Write a text beside the file, durably; give the draft, and the stamp that the file will have.

        Raises StorageFailed.
        """
        draft = self._draft
        try:
            with os.fdopen(os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, self._mode), "w", encoding="utf-8") as out:
                give_to_owner(out.fileno(), self.path)
                out.writelines(pieces)
                out.flush()
                os.fsync(out.fileno())
                return draft, stamp_of(os.fstat(out.fileno()))
        except OSError as error:
            self.drop_draft()
            raise self.unwritable(error) from error

    def drop_draft(self) -> None:
        """Remove a draft that is not to be put in place."""
        with contextlib.suppress(OSError):
            self._draft.unlink()

    def put_in_place(self, draft: Path) -> None:
        """Rename a draft over the file, and sync the folder, so that the new name lasts too. Raises StorageFailed."""
        try:
            draft.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise self.unwritable(error) from error

    def unwritable(self, error: OSError) -> StorageFailed:
        """What to raise where the file, or one beside it, cannot be written."""
        return StorageFailed(f"{self.path.parent.name}/{self.path.name} cannot be written: {error.strerror}")


def give_to_owner(file: int, path: Path) -> None:
    """Where root has opened a new file, give it to whoever owns the folder of `path`: the server may be a user's own."""
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.fchown(file, owner.st_uid, owner.st_gid)


def sync_folder(folder: Path) -> None:
    """Make names that were added to a folder last. Raises OSError."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _once_each(pairs: list[tuple[str, Any]]) -> JsonObject:
    """An object whose names differ: of two equal ones JSON would drop the first without a word."""
    data = dict(pairs)
    if len(data) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Twice(twice)
    return data


def stamp_of(found: os.stat_result) -> Stamp:
    """What changes whenever a file does: every write of ours is a new inode."""
    return found.st_mtime_ns, found.st_size, found.st_ino
