"""A SQLite file of ours: opened, and what goes wrong with it told as one of our errors."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from services.errors import DamagedFile, StorageFailed, Unavailable
from services.storage.json_file import give_to_owner, not_now


class TableFile:
    """One file, and the connection to it. Its owner sees to it that one thread at a time uses it."""

    def __init__(self, path: Path, holds: str, set_up: Iterable[str], patience: float = 5.0) -> None:
        """`holds` is what the table is of, as errors name it; `set_up` are the statements that make it.

        `patience` is how many seconds a statement waits for another program that has locked the file.

        Raises DamagedFile where the file is no such table, StorageFailed where it cannot be used, Unavailable.
        """
        self._path = path
        self._holds = holds
        with self.explained():
            path.touch(mode=0o600)
            with path.open("rb") as file:
                give_to_owner(file.fileno(), path)
            self.db = sqlite3.connect(path, patience, check_same_thread=False, isolation_level=None)
            for statement in set_up:
                self.db.execute(statement)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Store what is done within whole, or not at all."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.db.execute("COMMIT")
        except BaseException:
            # SQLite has done so itself where the disk is full.
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            raise

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Raise what goes wrong with the file as one of our errors."""
        name = f"{self._path.parent.name}/{self._path.name}"
        try:
            yield
        except (sqlite3.OperationalError, sqlite3.IntegrityError, sqlite3.ProgrammingError) as error:
            # Locked, full, read-only, closed; or no file can be opened now, of which SQLite says no more than that.
            raise self._not_now() or StorageFailed(f"{name} cannot be used: {error}") from error
        except sqlite3.DatabaseError as error:
            what = f"is no table of {self._holds} ({error}); move it away to begin with none"
            raise DamagedFile(self._path, what) from error
        except OSError as error:
            raise not_now(f"{name} cannot be used", error) or StorageFailed(
                f"{name} cannot be used: {error.strerror}"
            ) from error

    def _not_now(self) -> Unavailable | None:
        """What to raise where the system has no room to open a file; None where it has."""
        try:
            # Not the file itself: to close that once would give up SQLite's locks on it.
            os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            return not_now(f"{self._path.parent.name}/{self._path.name} cannot be used", error)
        return None
