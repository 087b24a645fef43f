"""An open SQLite file, with its failures raised as this project's errors."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from services.errors import DamagedFile, StorageFailed, Unavailable
from services.storage.json_file import give_to_owner, not_now

# SQLite's own version, as (3, 40, 1).
VERSION = sqlite3.sqlite_version_info


class SqliteFile:
    """A connection to one file. Its owner lets one thread at a time use it."""

    def __init__(self, path: Path, kind: str, set_up: Iterable[str] = (), patience: float = 5.0) -> None:
        """Open `path`, or make it, for this user only; `set_up` are the statements to begin with.

        `kind` is what errors say that the file should be. A statement waits `patience` seconds for another connection's
        lock. Raises DamagedFile where the file is no SQLite file, StorageFailed where it cannot be used, Unavailable.
        """
        self._path = path
        self._kind = kind
        with self.explained():
            _make(path)
            self.db = sqlite3.connect(path, patience, check_same_thread=False, isolation_level=None)
            try:
                for statement in set_up:
                    self.db.execute(statement)
            except BaseException:
                self.db.close()
                raise

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Store all changes of the block, or none where it raises."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.db.execute("COMMIT")
        except BaseException:
            # Where the disk is full, SQLite has rolled back itself.
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            raise

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Raise SQLite's errors as DamagedFile, StorageFailed or Unavailable, naming the file."""
        name = f"{self._path.parent.name}/{self._path.name}"
        try:
            yield
        except (sqlite3.OperationalError, sqlite3.IntegrityError, sqlite3.ProgrammingError) as error:
            # Locked, full, read-only or closed; or no file can be opened now, which SQLite does not distinguish.
            raise self._not_now() or StorageFailed(f"{name} cannot be used: {error}") from error
        except sqlite3.DatabaseError as error:
            what = f"is no {self._kind} ({error}); move it away to begin with an empty one"
            raise DamagedFile(self._path, what) from error
        except OSError as error:
            raise not_now(f"{name} cannot be used", error) or StorageFailed(
                f"{name} cannot be used: {error.strerror}"
            ) from error

    def rows(self, query: str) -> Iterator[tuple[Any, ...]]:
        """Read row by row. Raises as `explained` does, so that it names this file while another is written."""
        with self.explained():
            yield from self.db.execute(query)

    def columns(self, table: str) -> list[str]:
        """The names of a table's columns; [] if there is no such table. Raises as `rows` does."""
        return [row[1] for row in self.rows(f"PRAGMA table_info({table})")]

    def _not_now(self) -> Unavailable | None:
        """Return the error where the system has no room to open a file; None where it has."""
        try:
            # Not the file itself: closing that would release SQLite's locks on it.
            os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            return not_now(f"{self._path.parent.name}/{self._path.name} cannot be used", error)
        return None


def _make(path: Path) -> None:
    """Make an empty file for this user only, unless there is one.

    One that exists is not opened: to close any descriptor of a file releases all locks that this process holds on it, those
    of other connections too (POSIX).
    """
    with suppress(FileExistsError):
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            give_to_owner(file, path)
        finally:
            os.close(file)
