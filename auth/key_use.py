"""The time of each key's last use: in memory, and from time to time in a table, for after a restart."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Container, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol

from typing_extensions import override

from services.errors import HearthError
from services.storage.database import open_database
from services.storage.sqlite_file import SqliteFile

log = logging.getLogger(__name__)

# Seconds between a use and its time in the table: no request waits for the disk.
WRITE_AFTER = 20.0
_ADD = "INSERT INTO last_use (key, time) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET time = max(time, excluded.time)"


class LastUse(Protocol):
    """The table of the times (ISO 8601, UTC), by the keys' ids. Any thread may call it. All raise HearthError."""

    def read(self) -> Mapping[str, str]:
        """Return all times."""
        ...

    def write(self, used: Mapping[str, str], known: Container[str]) -> None:
        """Store the times of `used` that are later, and forget those of keys that are not among `known`."""
        ...

    def close(self) -> None:
        """Close the table; the next call opens it again."""
        ...


class LocalLastUse(LastUse):
    """The table in data/hearth.sqlite, opened by the first call. `_lock` lets one thread at a time use it."""

    def __init__(self, path: Path) -> None:
        """`path` is the database."""
        self._path = path
        self._lock = threading.Lock()
        self._file: SqliteFile | None = None

    @override
    def read(self) -> dict[str, str]:
        with self._lock:
            if not self._file and not self._path.exists():
                # Listing keys makes no database.
                return {}
            file = self._opened()
            with file.explained():
                return dict(file.db.execute("SELECT key, time FROM last_use"))

    @override
    def write(self, used: Mapping[str, str], known: Container[str]) -> None:
        with self._lock:
            file = self._opened()
            with file.explained(), file.transaction():
                file.db.executemany(_ADD, used.items())
                gone = [row for row in file.db.execute("SELECT key FROM last_use") if row[0] not in known]
                file.db.executemany("DELETE FROM last_use WHERE key = ?", gone)

    @override
    def close(self) -> None:
        with self._lock:
            if self._file:
                self._file.db.close()
            self._file = None

    def _opened(self) -> SqliteFile:
        if not self._file:
            self._file = open_database(self._path)
        return self._file


class KeyUse:
    """The times. Any thread may call it; `_lock` protects them. The first use starts a thread that writes."""

    def __init__(self, table: LastUse, known: Callable[[], Container[str]], write_after: float = WRITE_AFTER) -> None:
        """`known` gives the ids of all keys: only their times are kept. A use is written after `write_after` seconds."""
        self._table = table
        self._known = known
        self._write_after = write_after
        self._lock = threading.Lock()
        self._used: dict[str, str] = {}
        self._closing = threading.Event()
        self._writer: threading.Thread | None = None

    def times(self) -> dict[str, str]:
        """Return the time of each key's last use, by any server on this table, by the keys' ids."""
        try:
            times = dict(self._table.read())
        except HearthError as error:
            log.warning("when keys were last used is known since the start only: %s", error.message)
            times = {}
        with self._lock:
            for id_, time in self._used.items():
                times[id_] = max(time, times.get(id_, time))
        return times

    def note(self, id_: str) -> None:
        """Note that the key is used now."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        with self._lock:
            self._used[id_] = now
            if not self._writer and not self._closing.is_set():
                self._writer = threading.Thread(target=self._write_soon, name="key use", daemon=True)
                self._writer.start()

    def close(self) -> None:
        """Write the times that are not in the table yet, and close it."""
        self._closing.set()
        if self._writer:
            self._writer.join()
        self._table.close()

    def _write_soon(self) -> None:
        """The writer's thread, which writes once."""
        self._closing.wait(self._write_after)
        with self._lock:
            if not self._closing.is_set():
                self._writer = None
            used = dict(self._used)
        try:
            known = self._known()
            self._table.write({id_: time for id_, time in used.items() if id_ in known}, known)
        except (HearthError, OSError) as error:
            log.warning("when keys were last used is kept in memory only: %s", error)
