"""Who used how much, in data/usage.sqlite: one row a key and day (UTC), and the tokens that each account is charged for.

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

from auth.write_behind import WriteBehind
from services.backend.status import Amounts
from services.backend.types import Spent
from services.errors import HearthError, StorageFailed
from services.logs import visible
from services.storage.json_file import JsonFile
from services.storage.sqlite_file import TableFile

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
# Milliseconds that a statement waits for another program, which may have locked the file; the writer tries again.
_BUSY = 100
# Seconds that a reader waits for the writer.
_PATIENCE = 2.0
_SET_UP = (
    "PRAGMA journal_mode=WAL",
    # What is committed outlives a power cut.
    "PRAGMA synchronous=FULL",
    "CREATE TABLE IF NOT EXISTS usage (key TEXT NOT NULL, day TEXT NOT NULL, requests INTEGER NOT NULL, "
    "prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, "
    "cpu_seconds REAL NOT NULL, PRIMARY KEY (key, day))",
    f"SELECT key, day, {', '.join(_COUNTS)} FROM usage LIMIT 1",  # noqa: S608
    "CREATE TABLE IF NOT EXISTS charged (account TEXT NOT NULL, day TEXT NOT NULL, tokens INTEGER NOT NULL, "
    "PRIMARY KEY (account, day))",
    "CREATE INDEX IF NOT EXISTS charged_day ON charged (day)",
    f"PRAGMA busy_timeout={_BUSY}",
)
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
    """A row that is added to what is stored, and the accounts that its tokens are charged to."""

    row: UsageRow
    accounts: tuple[str, ...] = ()


class UsageTable(Protocol):
    """Who used how much. Any thread may call it."""

    def add(self, key: str, spent: Spent, accounts: Iterable[str] = ()) -> None:
        """Count a request of a key, today, and charge its tokens to these accounts. As a rule it is durable on return."""
        ...

    def charged(self, account: str) -> int:
        """How many tokens an account is charged for today. Raises Unavailable."""
        ...

    def charges(self) -> dict[str, int]:
        """The same of all accounts. Raises StorageFailed, Unavailable."""
        ...

    def charge(self, account: str, n_tokens: int) -> None:
        """Charge an account for so many tokens more. Raises as `charges` does."""
        ...

    def begin_charges(self, ancestors: Callable[[], Mapping[str, Sequence[str]]]) -> None:
        """Charge what was used today before accounts were charged; once only. `ancestors` gives the accounts of each key.

        Raises as `charges` does.
        """
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
    """See `UsageTable`. What is added is stored by a thread of its own, and counts from the moment it was added.

    Any thread may call it. `_db` lets one of them use the file; `_charges`, what accounts are charged for on the day
    `_day` as far as it is stored, is protected by the lock of `_unkept`, so that limits hold while others lock the file.
    """

    def __init__(self, path: Path) -> None:
        """Raises DamagedFile where the file is no table of usage, StorageFailed where it cannot be used."""
        self._db = threading.Lock()
        self._file = TableFile(path, "usage", _SET_UP)
        self._unkept = WriteBehind[Entry]("usage", self._db, self._keep, self._kept)
        self._cleared = ""
        self._day = ""
        self._version = -1
        self._charges: dict[str, int] = {}
        self._left = JsonFile(path.with_suffix(".unkept.json"), private=True)
        self._take_up()
        with self._file.explained():
            self._look()

    def add(self, key: str, spent: Spent, accounts: Iterable[str] = ()) -> None:
        """See `UsageTable.add`."""
        self._unkept.add(Entry(UsageRow(row_name(key), today(), used_by(spent)), tuple(accounts)))

    def add_row(self, row: UsageRow) -> None:
        """Add to what a key used on a day."""
        self._unkept.add(Entry(row), waits=False)

    def charged(self, account: str) -> int:
        """See `UsageTable.charged`. Nobody waits for the file: while it cannot be read, what was known counts."""
        if self._db.acquire(blocking=False):
            try:
                with suppress(HearthError), self._file.explained():
                    self._look()
            finally:
                self._db.release()
        day = today()
        with self._unkept.waiting() as entries:
            waiting = sum(e.row.used.tokens for e in entries if e.row.day == day and account in e.accounts)
            return waiting + (self._charges.get(account, 0) if self._day == day else 0)

    def charges(self) -> dict[str, int]:
        """See `UsageTable.charges`."""
        with self._using():
            self._look()
            with self._unkept.waiting() as entries:
                charges = Counter(self._charges)
                for entry in entries:
                    if entry.row.day == self._day:
                        charges.update(dict.fromkeys(entry.accounts, entry.row.used.tokens))
        return dict(charges)

    def charge(self, account: str, n_tokens: int) -> None:
        """See `UsageTable.charge`."""
        with self._using():
            self._file.db.execute(_CHARGE, (account, today(), n_tokens))
            self._version = -1

    def begin_charges(self, ancestors: Callable[[], Mapping[str, Sequence[str]]]) -> None:
        """See `UsageTable.begin_charges`."""
        db, known = self._file.db, ancestors()
        with self._using():
            if db.execute("PRAGMA user_version").fetchone() != (0,):
                return
            with self._file.transaction():
                query = "SELECT key, prompt_tokens + completion_tokens FROM usage WHERE day = ?"
                for key, n_tokens in db.execute(query, (today(),)).fetchall():
                    for account in known.get(key, ()):
                        db.execute(_CHARGE, (account, today(), n_tokens))
                db.execute("PRAGMA user_version = 1")
            self._version = -1

    def on(self, key: str, day: str) -> Used:
        """See `UsageTable.on`."""
        return sum((row.used for row in self.rows(key, day, day)), Used())

    def rows(self, key: str | None = None, first: str = "", last: str = "9999") -> list[UsageRow]:
        """See `UsageTable.rows`."""
        query = f"SELECT key, day, {', '.join(_COUNTS)} FROM usage WHERE day BETWEEN ? AND ? AND (? IS NULL OR key = ?)"  # noqa: S608
        name = None if key is None else row_name(key)
        with self._using():
            stored = {(k, d): Used(*counts) for k, d, *counts in self._file.db.execute(query, (first, last, name, name))}
            with self._unkept.waiting() as entries:
                for row in (entry.row for entry in entries):
                    if first <= row.day <= last and name in (None, row.key):
                        stored[row.key, row.day] = stored.get((row.key, row.day), Used()) + row.used
        return [UsageRow(k, d, used) for (k, d), used in sorted(stored.items(), key=lambda row: (row[0][1], row[0][0]))]

    def totals(self) -> dict[str, Used]:
        """See `UsageTable.totals`."""
        sums = ", ".join(f"SUM({name})" for name in _COUNTS)
        with self._using():
            rows = self._file.db.execute(f"SELECT key, {sums} FROM usage GROUP BY key")  # noqa: S608
            totals = {key: Used(*counts) for key, *counts in rows}
            with self._unkept.waiting() as entries:
                for row in (entry.row for entry in entries):
                    totals[row.key] = totals.get(row.key, Used()) + row.used
        return totals

    def close(self) -> None:
        """Store what is not stored yet, and close the file. The next start counts what that does not take."""
        self._unkept.close()
        with self._db:
            self._file.db.close()
        with self._unkept.waiting() as entries:
            if not entries:
                return
            try:
                with self._left.edit() as data:
                    data["entries"] = [*data.get("entries", ()), *map(asdict, entries)]
                log.error("they are kept in %s, and counted at the next start", self._left.path.name)
            except HearthError as error:
                log.error("they are lost: %s", error.message)

    def _take_up(self) -> None:
        """Store what could not be when the server last stopped."""
        try:
            entries = [
                Entry(UsageRow(row["key"], row["day"], Used(**row["used"])), tuple(each["accounts"]))
                for each in self._left.read().get("entries", ())
                for row in [each["row"]]
            ]
            if entries:
                self._keep(entries)
                # After a kill just here they count twice, rather than not at all.
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

    def _keep(self, entries: Sequence[Entry]) -> None:
        day = today()
        with self._file.explained(), self._file.transaction():
            if self._cleared != day:
                # Limits are of today. Guests have an account an address, and would be ever more.
                yesterday = (date.fromisoformat(day) - timedelta(days=1)).isoformat()
                self._file.db.execute("DELETE FROM charged WHERE day < ?", (yesterday,))
            for row in (entry.row for entry in entries):
                self._file.db.execute(_ADD, (row.key, row.day, *astuple(row.used)))
            for entry in entries:
                for account in entry.accounts:
                    self._file.db.execute(_CHARGE, (account, entry.row.day, entry.row.used.tokens))
        self._cleared = day

    def _kept(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            for account in entry.accounts if entry.row.day == self._day else ():
                self._charges[account] = self._charges.get(account, 0) + entry.row.used.tokens

    def _look(self) -> None:
        """Learn what accounts are charged for, where another program has stored some of it, or a day has begun."""
        day, (version,) = today(), self._file.db.execute("PRAGMA data_version").fetchone()
        if (day, version) == (self._day, self._version):
            return
        charges = dict(self._file.db.execute("SELECT account, tokens FROM charged WHERE day = ?", (day,)))
        with self._unkept.waiting():
            self._day, self._version, self._charges = day, version, charges


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
        name = visible(row["name"] or "")
        # What begins so a spreadsheet would compute.
        table.writerow({**row, "name": f"'{name}" if name.startswith(("=", "+", "-", "@")) else name})
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
