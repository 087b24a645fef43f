"""Who used how much: one row a key and day (UTC) in data/usage.sqlite."""

from __future__ import annotations

import csv
import io
import logging
import threading
from dataclasses import asdict, astuple, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from services.backend import Spent
from services.errors import HearthError
from services.status import Amounts
from services.table_file import TableFile

log = logging.getLogger(__name__)

# Guests, whom a gate let in without a key, are one row: their ids are as many as they like.
GUESTS = "guests"


@dataclass(frozen=True)
class Used(Amounts):
    """What was used: counts of requests and tokens, and seconds of CPU."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cpu_seconds: float = 0.0

    @property
    def tokens(self) -> int:
        """Those that limits count: read and written."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class UsageRow:
    """What a key used on a day (ISO 8601)."""

    key: str
    day: str
    used: Used


_COUNTS = tuple(field.name for field in fields(Used))
_SET_UP = (
    # So a kill of the process loses nothing, and no answer waits for the disk.
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=NORMAL",
    "CREATE TABLE IF NOT EXISTS usage (key TEXT NOT NULL, day TEXT NOT NULL, requests INTEGER NOT NULL, "
    "prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, "
    "cpu_seconds REAL NOT NULL, PRIMARY KEY (key, day))",
    f"SELECT key, day, {', '.join(_COUNTS)} FROM usage LIMIT 1",  # noqa: S608
)
_ADD = (
    f"INSERT INTO usage (key, day, {', '.join(_COUNTS)}) VALUES (?, ?, {', '.join('?' * len(_COUNTS))}) "  # noqa: S608
    f"ON CONFLICT (key, day) DO UPDATE SET {', '.join(f'{name} = {name} + excluded.{name}' for name in _COUNTS)}"
)


class Usage(Protocol):
    """Who used how much. Any thread may call it."""

    def add(self, key: str, spent: Spent) -> None:
        """Count a request of a key, today."""
        ...

    def on(self, key: str, day: str) -> Used:
        """What a key used on a day. Raises StorageFailed, Unavailable."""
        ...

    def rows(self, key: str | None = None, first: str = "", last: str = "9999") -> list[UsageRow]:
        """What was used from the day `first` to `last`, by one key or by all, the earliest first. Raises as `on` does."""
        ...

    def totals(self) -> dict[str, Used]:
        """What each key has used since ever. Raises as `on` does."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class UsageStore:
    """The table. Any thread may call it; `_turn` lets one statement run at a time.

    A row that the disk does not take is kept in `_unkept`, and stored with the next.
    """

    def __init__(self, path: Path) -> None:
        """Raises DamagedFile where the file is no table of usage, StorageFailed where it cannot be used."""
        self._turn = threading.Lock()
        self._unkept: dict[tuple[str, str], Used] = {}
        self._file = TableFile(path, "usage", _SET_UP)

    def add(self, key: str, spent: Spent) -> None:
        """Count a request of a key, today."""
        self.add_row(UsageRow(row_name(key), today(), used_by(spent)))

    def add_row(self, row: UsageRow) -> None:
        """Add to what a key used on a day."""
        with self._turn:
            self._unkept[row.key, row.day] = self._unkept.get((row.key, row.day), Used()) + row.used
            try:
                self._keep()
            except HearthError as error:
                log.error("usage is kept in memory only: %s", error.message)

    def on(self, key: str, day: str) -> Used:
        """See `Usage.on`."""
        return sum((row.used for row in self.rows(key, day, day)), Used())

    def rows(self, key: str | None = None, first: str = "", last: str = "9999") -> list[UsageRow]:
        """See `Usage.rows`."""
        query = f"SELECT key, day, {', '.join(_COUNTS)} FROM usage WHERE day BETWEEN ? AND ? AND (? IS NULL OR key = ?)"  # noqa: S608
        name = None if key is None else row_name(key)
        with self._turn, self._file.explained():
            stored = {(k, d): Used(*counts) for k, d, *counts in self._file.db.execute(query, (first, last, name, name))}
            for (k, d), used in self._unkept.items():
                if first <= d <= last and name in (None, k):
                    stored[k, d] = stored.get((k, d), Used()) + used
        return [UsageRow(k, d, used) for (k, d), used in sorted(stored.items(), key=lambda row: (row[0][1], row[0][0]))]

    def totals(self) -> dict[str, Used]:
        """See `Usage.totals`."""
        sums = ", ".join(f"SUM({name})" for name in _COUNTS)
        with self._turn, self._file.explained():
            rows = self._file.db.execute(f"SELECT key, {sums} FROM usage GROUP BY key")  # noqa: S608
            totals = {key: Used(*counts) for key, *counts in rows}
            for (key, _), used in self._unkept.items():
                totals[key] = totals.get(key, Used()) + used
        return totals

    def close(self) -> None:
        """Close the file."""
        with self._turn:
            self._file.db.close()

    def _keep(self) -> None:
        with self._file.explained():
            for (key, day), used in list(self._unkept.items()):
                self._file.db.execute(_ADD, (key, day, *astuple(used)))
                del self._unkept[key, day]


def entries(rows: list[UsageRow], names: dict[str, str | None]) -> list[dict[str, Any]]:
    """The rows, each as a flat object with the key's name."""
    return [
        {
            "key": row.key,
            "name": names.get(row.key),
            "day": row.day,
            **asdict(row.used),
            "cpu_seconds": round(row.used.cpu_seconds, 3),
        }
        for row in rows
    ]


def as_csv(rows: list[dict[str, Any]]) -> str:
    """The rows as a table with a line of names first (RFC 4180)."""
    written = io.StringIO()
    table = csv.DictWriter(written, ["key", "name", "day", *_COUNTS])
    table.writeheader()
    for row in rows:
        name = row["name"] or ""
        # What begins so a spreadsheet would compute.
        table.writerow({**row, "name": f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name})
    return written.getvalue()


def today() -> str:
    """The day in UTC, as ISO 8601 writes it."""
    return datetime.now(timezone.utc).date().isoformat()


def used_by(spent: Spent) -> Used:
    """What one request has used."""
    return Used(1, spent.prompt_tokens, spent.cached_tokens, spent.completion_tokens, spent.cpu_seconds)


def row_name(key: str) -> str:
    """The name under which a key's usage is kept."""
    return GUESTS if key.startswith("guest-") else key
