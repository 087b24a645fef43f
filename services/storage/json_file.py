"""A JSON file that several threads and processes may change and a power cut may not break.

The file holds one object. It is replaced whole: the new text is written beside it, synced, and renamed over it, so that a
reader sees the old file or the new one. Writers hold the lock of a lock file, against other processes too. A name that is a
symbolic link stays one: all of this happens beside the file that it leads to.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from typing_extensions import override

from services.errors import DamagedFile, HearthError, StorageFailed, Unavailable
from services.storage.json_text import parse_json, position_of, position_of_second, readable

JsonObject = dict[str, Any]
Stamp = tuple[int, int, int]
Check = Callable[[JsonObject], None]
# Seconds to wait for a lock that another program holds; after a timeout the next callers wait only `_IMPATIENCE`, for
# `HELD_FOR` seconds.
PATIENCE, HELD_FOR, _IMPATIENCE = 5.0, 1.0, 0.02
# Seconds between two tries to lock.
_RETRY = 0.005
# What people read who do not run the server.
_NOT_NOW = "the server cannot do that just now; try again soon"


class SchemaError(ValueError):
    """Raised by a file's check: the value at `path` is not as it should be, for a reason."""

    def __init__(self, path: Sequence[str | int], reason: str) -> None:
        super().__init__(reason)
        self.path = path


class JsonTable(Protocol):
    """A JSON object that several threads and processes may change. Any thread may call it."""

    def read(self) -> JsonObject:
        """Return the object as it is now. Not to be changed. Raises DamagedFile, Unavailable."""
        ...

    def edit(self) -> AbstractContextManager[JsonObject]:
        """Give a shallow copy of the object to change, and store it durably at the end of the block.

        Nothing is stored where the block raises or leaves the object as it was. Raises DamagedFile where it cannot be read,
        StorageFailed where it cannot be written, Unavailable.
        """
        ...

    def clear(self) -> None:
        """Remove the object. Raises OSError, Unavailable."""
        ...


class OpenTable(Protocol):
    """The constructor of a table: `JsonFile`, or a cluster's."""

    def __call__(self, path: Path, check: Check | None = None, *, private: bool = False) -> JsonTable:
        """Open the table that `path` names; `check` raises SchemaError, `private` keeps it from other users."""
        ...


class _Twice(ValueError):
    """Raised for an object that has the entry `name` twice."""

    def __init__(self, name: str) -> None:
        super().__init__(f'"{name}" stands there twice')
        self.name = name


class JsonFile(JsonTable):
    """One JSON object on disk, and the copy of it in memory.

    Any thread may call it. `_lock` protects the copy, `_writing` serializes this process's writers, and the lock file
    beside the data serializes processes. Objects that `read` and `edit` give are shared: replace their entries, and
    change none in place.
    """

    def __init__(self, path: Path, check: Check | None = None, *, private: bool = False) -> None:
        self.path = path
        self._check = check
        self._mode = 0o600 if private else 0o644
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._held: dict[str, float] = {}
        """By a lock's purpose, the time until which another program is taken to hold it."""
        self._seen: Stamp | None = None
        self._data: JsonObject = {}

    @override
    def read(self) -> JsonObject:
        """Return the object on disk; {} if there is no file. It is parsed again only after the file has changed.

        Raises DamagedFile with the line at fault, Unavailable while the system has no room to open it.
        """
        with self._lock:
            stamp = self.stamp()
            if stamp != self._seen:
                self._data = self.load()
                self._seen = stamp
            return self._data

    @override
    @contextmanager
    def edit(self) -> Iterator[JsonObject]:
        # Without `_lock`: readers wait for no other program.
        with self._writing, self.locked():
            before = self.read()
            data = dict(before)
            yield data
            if data != before:
                draft, stamp = self.draft(readable(data))
                with self._lock:
                    self.put_in_place(draft)
                    self._seen, self._data = stamp, data

    @override
    def clear(self) -> None:
        self._target().unlink()

    @contextmanager
    def locked(self, purpose: str = "lock", patience: float = PATIENCE) -> Iterator[None]:
        """Hold the lock of a lock file, against other processes; wait at most `patience` seconds for it.

        Raises StorageFailed, and Unavailable where another program holds it.
        """
        try:
            target = self._target()
            lock = os.open(target.with_name(f".{target.name}.{purpose}"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self.unwritable(error) from error
        try:
            give_to_owner(lock, target)
            self._acquire(lock, purpose, patience)
            yield
        finally:
            os.close(lock)

    def _acquire(self, lock: int, purpose: str, patience: float) -> None:
        """Wait for a lock; hardly at all soon after a timeout. Raises Unavailable."""
        started = time.monotonic()
        if started < self._held.get(purpose, 0.0):
            patience = _IMPATIENCE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                self._held.pop(purpose, None)
                return
            if time.monotonic() - started >= patience:
                self._held[purpose] = time.monotonic() + HELD_FOR
                what = f"{self.path.parent.name}/{self.path.name} cannot be changed now: another program holds its lock"
                where = f".{self.path.name}.{purpose}"
                what = f"{what}, {where}; try again, or end it"
                raise Unavailable(what, code="file_locked", retry_after=5, public=_NOT_NOW)
            time.sleep(_RETRY)

    def stamp(self) -> Stamp | None:
        """Return the file's stamp; None if there is no file. Raises DamagedFile, Unavailable."""
        try:
            return stamp_of(self.path.stat())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unreadable(self.path, error) from error

    def load(self) -> JsonObject:
        """Parse the file, and return the object; {} if there is no file. Raises DamagedFile, Unavailable."""
        try:
            text = self._text()
        except FileNotFoundError:
            return {}
        try:
            data = parse_json(text, object_pairs_hook=_once_each)
        except json.JSONDecodeError as error:
            raise DamagedFile(self.path, error.msg, line=error.lineno, column=error.colno) from error
        except _Twice as error:
            raise self._damaged(str(error), position_of_second(text, error.name)) from error
        except RecursionError as error:
            raise DamagedFile(self.path, "it is nested too deeply") from error
        if not isinstance(data, dict):
            raise DamagedFile(self.path, "should hold one JSON object: { … }", line=1)
        if self._check:
            try:
                self._check(data)
            except SchemaError as error:
                raise self._damaged(str(error), position_of(text, error.path)) from error
        return data

    def _text(self) -> str:
        try:
            # Editors of Windows write a byte order mark at the beginning.
            return self.path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise DamagedFile(self.path, "a byte there is not UTF-8 text", line=line) from error
        except FileNotFoundError:
            raise
        except OSError as error:
            raise unreadable(self.path, error) from error

    def _damaged(self, reason: str, position: tuple[int, int]) -> DamagedFile:
        return DamagedFile(self.path, reason, line=position[0], column=position[1])

    def draft(self, pieces: Iterable[str]) -> tuple[Path, Stamp]:
        """Write a text beside the file, durably; return the draft, and the stamp that the file will have.

        Raises StorageFailed.
        """
        try:
            target = self._target()
            draft = _draft_of(target)
            with os.fdopen(os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, self._mode), "w", encoding="utf-8") as out:
                give_to_owner(out.fileno(), target)
                self._keep_access(out.fileno(), target)
                out.writelines(pieces)
                out.flush()
                os.fsync(out.fileno())
                return draft, stamp_of(os.fstat(out.fileno()))
        except OSError as error:
            self.drop_draft()
            raise self.unwritable(error) from error

    def drop_draft(self) -> None:
        """Remove a draft."""
        with contextlib.suppress(OSError):
            _draft_of(self._target()).unlink()

    def put_in_place(self, draft: Path) -> None:
        """Rename a draft over the file, durably. Raises StorageFailed."""
        try:
            target = self._target()
            draft.replace(target)
            sync_folder(target.parent)
        except OSError as error:
            raise self.unwritable(error) from error

    def unwritable(self, error: OSError) -> HearthError:
        """Return the error to raise where the file, or one beside it, cannot be written."""
        return unwritable(self.path, error)

    def _target(self) -> Path:
        """Return the file that the name leads to, which may be a symbolic link. Raises OSError."""
        return Path(os.path.realpath(self.path)) if self.path.is_symlink() else self.path

    def _keep_access(self, draft: int, target: Path) -> None:
        """Give a draft the owner and the permissions of the file that it replaces. Raises OSError."""
        try:
            before = target.stat()
        except FileNotFoundError:
            return
        is_private = self._mode & 0o077 == 0
        # A private file that others could read is made private.
        if not (is_private and before.st_mode & 0o007):
            os.fchmod(draft, before.st_mode & 0o777)
        with contextlib.suppress(PermissionError):
            os.fchown(draft, before.st_uid if os.geteuid() == 0 else -1, before.st_gid)


def unwritable(path: Path, error: OSError) -> HearthError:
    """Return the error where `path` cannot be written: StorageFailed, or Unavailable where that may pass soon."""
    what = f"{path.parent.name}/{path.name} cannot be written"
    return not_now(what, error) or StorageFailed(f"{what}: {error.strerror}")


def unreadable(path: Path, error: OSError) -> HearthError:
    """Return the error where `path` cannot be read: DamagedFile, or Unavailable where that may pass soon."""
    what = f"{path.parent.name}/{path.name} cannot be read"
    return not_now(what, error) or DamagedFile(path, f"cannot be read: {error.strerror}")


def not_now(what: str, error: OSError) -> Unavailable | None:
    """Return the error where the system, not the file, is at fault: too many open files, or no memory; else None."""
    if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return None
    what = f"{what} at the moment: {error.strerror}; try again"
    return Unavailable(what, code="no_resources", retry_after=2, public=_NOT_NOW)


def _draft_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.new")


def give_to_owner(file: int, path: Path) -> None:
    """As root, give a new file to the owner of its folder: the server may run as that user otherwise."""
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.fchown(file, owner.st_uid, owner.st_gid)


def sync_folder(folder: Path) -> None:
    """Make changes of a folder's names durable. Raises OSError."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _once_each(pairs: list[tuple[str, Any]]) -> JsonObject:
    """Make an object of pairs. Raises _Twice for a name that comes twice, of which `dict` would drop the first."""
    data = dict(pairs)
    if len(data) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Twice(twice)
    return data


def stamp_of(found: os.stat_result) -> Stamp:
    """Return a value that changes whenever a file does: each write of ours is a new inode."""
    return found.st_mtime_ns, found.st_size, found.st_ino
