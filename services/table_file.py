"""A SQLite file of ours: opened, and what goes wrong with it told as one of our errors."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from services.errors import DamagedFile, StorageFailed
from services.json_file import give_to_owner


class TableFile:
    """One file, and the connection to it. Its owner sees to it that one thread at a time uses it."""

    def __init__(self, path: Path, holds: str, set_up: Iterable[str]) -> None:
        """`holds` is what the table is of, as errors name it; `set_up` are the statements that make it.

        Raises DamagedFile where the file is no such table, StorageFailed where it cannot be used.
        """
        self._path = path
        self._holds = holds
        with self.explained():
            path.touch(mode=0o600)
            with path.open("rb") as file:
                give_to_owner(file.fileno(), path)
            self.db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            for statement in set_up:
                self.db.execute(statement)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Raise what goes wrong with the file as one of our errors."""
        name = f"{self._path.parent.name}/{self._path.name}"
        try:
            yield
        except (sqlite3.OperationalError, sqlite3.IntegrityError, sqlite3.ProgrammingError) as error:
            # Locked, full, read-only, closed.
            raise StorageFailed(f"{name} cannot be used: {error}") from error
        except sqlite3.DatabaseError as error:
            what = f"is no table of {self._holds} ({error}); move it away to begin with none"
            raise DamagedFile(self._path, what) from error
        except OSError as error:
            raise StorageFailed(f"{name} cannot be used: {error.strerror}") from error
