"""The usage of keys on all API nodes together: in Redis a hash a key and day, and a hash a day of accounts' charges."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields

from typing_extensions import override

from auth.usage import Entry, UsageRow, UsageTable, Used, row_name, today, used_by
from auth.write_behind import WriteBehind
from services.backend.types import Spent
from services.cluster.redis_client import RedisClient, reached

_COUNTS = tuple(field.name for field in fields(Used))
# Seconds for which a day's charges are kept.
_CHARGED_FOR = 3 * 86_400
# KEYS: the row, the key's total, the key's days, the keys, a mark that this entry is counted, the day's charges. ARGV: the
# key, the day, for how long charges are kept, the tokens, the number of accounts, these, then names and counts. Thanks to
# the mark an entry that is sent again, since its reply was lost, counts once.
_ADD = """
if not redis.call('SET', KEYS[5], '1', 'NX', 'EX', 600) then return 0 end
local n_accounts = tonumber(ARGV[5])
for i = 6, 5 + n_accounts do redis.call('HINCRBY', KEYS[6], ARGV[i], ARGV[4]) end
if n_accounts > 0 then redis.call('EXPIRE', KEYS[6], ARGV[3]) end
for i = 6 + n_accounts, #ARGV, 2 do
  redis.call('HINCRBYFLOAT', KEYS[1], ARGV[i], ARGV[i + 1])
  redis.call('HINCRBYFLOAT', KEYS[2], ARGV[i], ARGV[i + 1])
end
redis.call('SADD', KEYS[3], ARGV[2])
redis.call('SADD', KEYS[4], ARGV[1])
return 1
"""
# KEYS: a mark that charges have begun, the day's charges. ARGV: for how long they are kept, accounts and tokens.
_BEGIN = """
if not redis.call('SET', KEYS[1], '1', 'NX') then return 0 end
for i = 2, #ARGV, 2 do redis.call('HINCRBY', KEYS[2], ARGV[i], ARGV[i + 1]) end
if #ARGV > 1 then redis.call('EXPIRE', KEYS[2], ARGV[1]) end
return 1
"""


@dataclass(frozen=True)
class _Marked:
    """An entry, and the name under which it is counted once."""

    entry: Entry
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)


class RedisUsage(UsageTable):
    """The usage in Redis. All but `add` raise Unavailable where Redis is away; what it does not take is added later.

    Any thread may call it: a thread of its own stores what is added.
    """

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._redis = client.redis
        self._add = self._redis.register_script(_ADD)
        self._begin = self._redis.register_script(_BEGIN)
        self._pending = WriteBehind[_Marked]("usage", threading.Lock(), self._store)

    @override
    def add(self, key: str, spent: Spent, accounts: Iterable[str] = (), n_requests: int = 1) -> None:
        row = UsageRow(row_name(key), today(), used_by(spent, n_requests))
        self._pending.add(_Marked(Entry(row, tuple(accounts))))

    def add_row(self, row: UsageRow) -> None:
        """Add to a key's usage of a day."""
        self._pending.add(_Marked(Entry(row)), waits=False)

    @override
    def charged(self, account: str) -> int:
        # Entries that Redis has not taken yet count too.
        day = today()
        with reached():
            stored = int(self._redis.hget(self._charges(day), account) or 0)
        with self._pending.waiting() as entries:
            rows = (each.entry.row for each in entries if account in each.entry.accounts)
            return stored + sum(row.used.tokens for row in rows if row.day == day)

    @override
    def charges(self) -> dict[str, int]:
        with reached():
            return {account: int(n) for account, n in self._redis.hgetall(self._charges(today())).items()}

    @override
    def charge(self, account: str, n_tokens: int) -> None:
        with reached():
            self._redis.hincrby(self._charges(today()), account, n_tokens)
            self._redis.expire(self._charges(today()), _CHARGED_FOR)

    @override
    def begin_charges(self, ancestors: Callable[[], Mapping[str, Sequence[str]]]) -> None:
        mark = self._client.key("usage", "charges", "begun")
        with reached():
            if self._redis.exists(mark):
                return
        known, charges = ancestors(), []
        for row in self.rows(first=today(), last=today()):
            for account in known.get(row.key, ()):
                charges += [account, row.used.tokens]
        with reached():
            self._begin([mark, self._charges(today())], [_CHARGED_FOR, *charges])

    @override
    def rows(self, key: str | None = None, first: str = "", last: str = "9999") -> list[UsageRow]:
        with reached():
            keys = self._redis.smembers(self._client.key("usage")) if key is None else [row_name(key)]
            wanted = [
                (day, each) for each in keys for day in self._redis.smembers(self._days(each)) if first <= day <= last
            ]
            pipe = self._redis.pipeline(transaction=False)
            for day, each in sorted(wanted):
                pipe.hgetall(self._row(each, day))
            found = pipe.execute() if wanted else []
        return [UsageRow(each, day, _used(fields)) for (day, each), fields in zip(sorted(wanted), found, strict=True)]

    @override
    def totals(self) -> dict[str, Used]:
        with reached():
            keys = sorted(self._redis.smembers(self._client.key("usage")))
            return {key: _used(self._redis.hgetall(self._total(key))) for key in keys}

    @override
    def close(self) -> None:
        self._pending.close()

    def _store(self, entries: Sequence[_Marked]) -> None:
        for each in entries:
            row, accounts = each.entry.row, each.entry.accounts
            names = [self._row(row.key, row.day), self._total(row.key), self._days(row.key), self._client.key("usage")]
            counts = [value for pair in zip(_COUNTS, astuple(row.used), strict=True) for value in pair]
            charged = [_CHARGED_FOR, row.used.tokens, len(accounts), *accounts]
            with reached():
                self._add(
                    [*names, self._client.key("counted", each.mark), self._charges(row.day)],
                    [row.key, row.day, *charged, *counts],
                )

    def _row(self, key: str, day: str) -> str:
        return self._client.key("usage", key, day)

    def _total(self, key: str) -> str:
        return self._client.key("usage", key, "total")

    def _days(self, key: str) -> str:
        return self._client.key("usage", key, "days")

    def _charges(self, day: str) -> str:
        return self._client.key("usage", "charges", "of", day)


def _used(fields: Mapping[str, str]) -> Used:
    whole = {name: int(float(fields.get(name, 0))) for name in _COUNTS if name != "cpu_seconds"}
    return Used(**whole, cpu_seconds=float(fields.get("cpu_seconds", 0)))
