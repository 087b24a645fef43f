"""The usage of keys, in data/hearth.sqlite: one row a key and day (UTC), and the tokens charged to each account.

A key's accounts are those of its chain: the key, the one by which it was minted, and so on. What a key has used stays
charged to them when it is revoked.
"""

from __future__ import annotations

import csv
import io
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple, dataclass, fields
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Protocol

from typing_extensions import override

from auth.write_behind import WriteBehind
from services.backend.status import Amounts
from services.backend.types import Spent
from services.errors import HearthError, StorageFailed
from services.logs import visible
from services.storage.database import open_database
from services.storage.json_file import JsonFile
from services.storage.schema import CHARGED

log = logging.getLogger(__name__)

# The row of all guests, whom a gate let in without a key: they may have any number of ids.
GUESTS = "guests"


@dataclass(frozen=True)
class Used(Amounts):
    """Counts of requests and tokens, and seconds of CPU."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cpu_seconds: float = 0.0

    @property
    def tokens(self) -> int:
        """The tokens that limits count: read and written."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class UsageRow:
    """The usage of a key on a day (ISO 8601)."""

    key: str
    day: str
    used: Used


_COUNTS = tuple(field.name for field in fields(Used))
# Seconds that a statement waits for another connection, which may have locked the file; the writer tries again.
_BUSY = 0.4
# Seconds that a reader waits for the writer.
_PATIENCE = 2.0
_ADD = (
    f"INSERT INTO usage (key, day, {', '.join(_COUNTS)}) VALUES (?, ?, {', '.join('?' * len(_COUNTS))}) "  # noqa: S608
    f"ON CONFLICT (key, day) DO UPDATE SET {', '.join(f'{name} = {name} + excluded.{name}' for name in _COUNTS)}"
)
_CHARGE = (
    "INSERT INTO charged (account, day, tokens) VALUES (?, ?, ?) "
    "ON CONFLICT (account, day) DO UPDATE SET tokens = tokens + excluded.tokens"
)


@dataclass(frozen=True)
class Entry:
    """An amount to be added to a row, and the accounts that its tokens are charged to."""

    row: UsageRow
    accounts: tuple[str, ...] = ()


class UsageTable(Protocol):
    """The usage of keys. Any thread may call it."""

    def add(self, key: str, spent: Spent, accounts: Iterable[str] = (), n_requests: int = 1) -> None:
        """Count a request of a key, today, and charge its tokens to these accounts. As a rule it is durable on return."""
        ...

    def charged(self, account: str) -> int:
        """Return the tokens that an account is charged for today. Raises Unavailable."""
        ...

    def charges(self) -> dict[str, int]:
        """Return today's charges of all accounts. Raises StorageFailed, Unavailable."""
        ...

    def charge(self, account: str, n_tokens: int) -> None:
        """Charge so many tokens more to an account. Raises as `charges` does."""
        ...

    def begin_charges(self, ancestors: Callable[[], Mapping[str, Sequence[str]]]) -> None:
        """Charge the usage of today that was stored before accounts were charged; once only.

        `ancestors` returns the accounts of each key. Raises as `charges` does.
        """
        ...

    def rows(self, key: str | None = None, first: str = "", last: str = "9999") -> list[UsageRow]:
        """Return the rows from the day `first` to `last`, of one key or of all, the earliest first.

        Raises StorageFailed, Unavailable.
        """
        ...

    def totals(self) -> dict[str, Used]:
        """Return the sum of each key's usage over all days. Raises as `rows` does."""
        ...

    def close(self) -> None:
        """Store the entries that are not stored yet, and close it."""
        ...


class UsageStore(UsageTable):
    """The usage of one server. A thread of its own stores the entries, which count from the moment they are added.

    Any thread may call it. `_db` lets one of them use the file. The lock of `_pending` protects `_charges`, the stored
    charges of the day `_day`, so that limits hold while others lock the file.
    """

    def __init__(self, path: Path) -> None:
        """`path` is the database. Raises DamagedFile where it is none, StorageFailed where it cannot be used."""
        self._db = threading.Lock()
        self._file = open_database(path, _BUSY)
        self._pending = WriteBehind[Entry]("usage", self._db, self._store, self._count_stored)
        self._cleared = ""
        self._day = ""
        self._version = -1
        self._charges: dict[str, int] = {}
        self._left = JsonFile(path.with_name("usage.unkept.json"), private=True)
        self._store_left()
        with self._file.explained():
            self._read_charges()

    @override
    def add(self, key: str, spent: Spent, accounts: Iterable[str] = (), n_requests: int = 1) -> None:
        self._pending.add(Entry(UsageRow(row_name(key), today(), used_by(spent, n_requests)), tuple(accounts)))

    def add_row(self, row: UsageRow) -> None:
        """Add to a key's usage of a day."""
        self._pending.add(Entry(row), waits=False)

    @override
    def charged(self, account: str) -> int:
        # No request waits for the file: while it is in use, the charges that were read last count.
        if self._db.acquire(blocking=False):
            try:
                with suppress(HearthError), self._file.explained():
                    self._read_charges()
            finally:
                self._db.release()
        day = today()
        with self._pending.waiting() as entries:
            waiting = sum(e.row.used.tokens for e in entries if e.row.day == day and account in e.accounts)
            return waiting + (self._charges.get(account, 0) if self._day == day else 0)

    @override
    def charges(self) -> dict[str, int]:
        with self._using():
            self._read_charges()
            with self._pending.waiting() as entries:
                charges = Counter(self._charges)
                for entry in entries:
                    if entry.row.day == self._day:
                        charges.update(dict.fromkeys(entry.accounts, entry.row.used.tokens))
        return dict(charges)

    @override
    def charge(self, account: str, n_tokens: int) -> None:
        with self._using():
            self._file.db.execute(_CHARGE, (account, today(), n_tokens))
            self._version = -1

    @override
    def begin_charges(self, ancestors: Callable[[], Mapping[str, Sequence[str]]]) -> None:
        db, known = self._file.db, ancestors()
        with self._using():
            if db.execute("PRAGMA user_version").fetchone()[0] >= CHARGED:
                return
            with self._file.transaction():
                query = "SELECT key, prompt_tokens + completion_tokens FROM usage WHERE day = ?"
                for key, n_tokens in db.execute(query, (today(),)).fetchall():
                    for account in known.get(key, ()):
                        db.execute(_CHARGE, (account, today(), n_tokens))
                db.execute(f"PRAGMA user_version={CHARGED}")
            self._version = -1

    @override
    def rows(self, key: str | None = None, first: str = "", last: str = "9999") -> list[UsageRow]:
        query = f"SELECT key, day, {', '.join(_COUNTS)} FROM usage WHERE day BETWEEN ? AND ? AND (? IS NULL OR key = ?)"  # noqa: S608
        name = None if key is None else row_name(key)
        with self._using():
            stored = {(k, d): Used(*counts) for k, d, *counts in self._file.db.execute(query, (first, last, name, name))}
            with self._pending.waiting() as entries:
                for row in (entry.row for entry in entries):
                    if first <= row.day <= last and name in (None, row.key):
                        stored[row.key, row.day] = stored.get((row.key, row.day), Used()) + row.used
        return [UsageRow(k, d, used) for (k, d), used in sorted(stored.items(), key=lambda row: (row[0][1], row[0][0]))]

    @override
    def totals(self) -> dict[str, Used]:
        sums = ", ".join(f"SUM({name})" for name in _COUNTS)
        with self._using():
            rows = self._file.db.execute(f"SELECT key, {sums} FROM usage GROUP BY key")  # noqa: S608
            totals = {key: Used(*counts) for key, *counts in rows}
            with self._pending.waiting() as entries:
                for row in (entry.row for entry in entries):
                    totals[row.key] = totals.get(row.key, Used()) + row.used
        return totals

    @override
    def close(self) -> None:
        """Store the entries that are not stored yet, and close the file; those that it does not take are kept aside."""
        self._pending.close()
        with self._db:
            self._file.db.close()
        with self._pending.waiting() as entries:
            if not entries:
                return
            try:
                with self._left.edit() as data:
                    data["entries"] = [*data.get("entries", ()), *map(asdict, entries)]
                log.error("they are kept in %s, and counted at the next start", self._left.path.name)
            except HearthError as error:
                log.error("they are lost: %s", error.message)

    def _store_left(self) -> None:
        """Store the entries that could not be stored when the server last stopped."""
        try:
            entries = [
                Entry(UsageRow(row["key"], row["day"], Used(**row["used"])), tuple(each["accounts"]))
                for each in self._left.read().get("entries", ())
                for row in [each["row"]]
            ]
            if entries:
                self._store(entries)
                # After a kill between both they count twice, rather than not at all.
                self._left.clear()
        except (HearthError, OSError, LookupError, TypeError) as error:
            log.error("what is in %s is not counted yet: %s", self._left.path.name, error)

    @contextmanager
    def _using(self) -> Iterator[None]:
        """Use the file. Raises DamagedFile, StorageFailed."""
        if not self._db.acquire(timeout=_PATIENCE):
            raise StorageFailed("the usage is being written; try again")
        try:
            with self._file.explained():
                yield
        finally:
            self._db.release()

    def _store(self, entries: Sequence[Entry]) -> None:
        day = today()
        with self._file.explained(), self._file.transaction():
            if self._cleared != day:
                # Limits are of one day, and the accounts of guests, one an address, would grow without end.
                yesterday = (date.fromisoformat(day) - timedelta(days=1)).isoformat()
                self._file.db.execute("DELETE FROM charged WHERE day < ?", (yesterday,))
            for row in (entry.row for entry in entries):
                self._file.db.execute(_ADD, (row.key, row.day, *astuple(row.used)))
            for entry in entries:
                for account in entry.accounts:
                    self._file.db.execute(_CHARGE, (account, entry.row.day, entry.row.used.tokens))
        self._cleared = day

    def _count_stored(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            for account in entry.accounts if entry.row.day == self._day else ():
                self._charges[account] = self._charges.get(account, 0) + entry.row.used.tokens

    def _read_charges(self) -> None:
        """Read the charges again, if another connection has changed the file, or a new day has begun."""
        day, (version,) = today(), self._file.db.execute("PRAGMA data_version").fetchone()
        if (day, version) == (self._day, self._version):
            return
        charges = dict(self._file.db.execute("SELECT account, tokens FROM charged WHERE day = ?", (day,)))
        with self._pending.waiting():
            self._day, self._version, self._charges = day, version, charges


def entries(rows: list[UsageRow], names: dict[str, str | None]) -> list[dict[str, Any]]:
    """Return the rows, each as a flat object with the key's name."""
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
    """Return the rows as CSV with a header line (RFC 4180)."""
    written = io.StringIO()
    table = csv.DictWriter(written, ["key", "name", "day", *_COUNTS])
    table.writeheader()
    for row in rows:
        name = visible(row["name"] or "")
        # A spreadsheet would compute a cell that begins so.
        table.writerow({**row, "name": f"'{name}" if name.startswith(("=", "+", "-", "@")) else name})
    return written.getvalue()


def today() -> str:
    """Return today's date in UTC (ISO 8601)."""
    return datetime.now(timezone.utc).date().isoformat()


def used_by(spent: Spent, n_requests: int = 1) -> Used:
    """Return the usage of one request, or of what is none and costs tokens."""
    return Used(n_requests, spent.prompt_tokens, spent.cached_tokens, spent.completion_tokens, spent.cpu_seconds)


def row_name(key: str) -> str:
    """Return the name of a key's usage row."""
    return GUESTS if key.startswith("guest-") else key
