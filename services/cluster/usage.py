"""Who used how much, on all API nodes together: a hash a key and day in Redis."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Mapping
from dataclasses import astuple, fields

from auth.usage import UsageRow, Used, row_name, today, used_by
from services.backend import Spent
from services.cluster.link import Link, is_away, reached

log = logging.getLogger(__name__)

_COUNTS = tuple(field.name for field in fields(Used))
# KEYS: the row, the key's total, the rows, the keys, a mark that it is counted. What was counted is not counted twice where
# its reply was lost.
_ADD = """
if not redis.call('SET', KEYS[5], '1', 'NX', 'EX', 600) then return 0 end
for i = 3, #ARGV, 2 do
  redis.call('HINCRBYFLOAT', KEYS[1], ARGV[i], ARGV[i + 1])
  redis.call('HINCRBYFLOAT', KEYS[2], ARGV[i], ARGV[i + 1])
end
redis.call('SADD', KEYS[3], ARGV[2])
redis.call('SADD', KEYS[4], ARGV[1])
return 1
"""


class RedisUsage:
    """See `Usage`. All but `add` raise Unavailable where Redis is away; what it does not take is added later.

    Any thread may call it; `_turn` protects what is not added yet.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._redis = link.redis
        self._script = self._redis.register_script(_ADD)
        self._turn = threading.Lock()
        self._unkept: list[tuple[str, str, str, Used]] = []

    def add(self, key: str, spent: Spent) -> None:
        """See `Usage.add`."""
        self.add_row(UsageRow(row_name(key), today(), used_by(spent)))

    def add_row(self, row: UsageRow) -> None:
        """Add to what a key used on a day."""
        with self._turn:
            self._unkept.append((uuid.uuid4().hex, row.key, row.day, row.used))
            unkept, self._unkept = self._unkept, []
        for n, each in enumerate(unkept):
            try:
                self._keep(*each)
            except Exception as error:
                with self._turn:
                    self._unkept = [*unkept[n:], *self._unkept]
                if not is_away(error):
                    raise
                return log.error("usage is kept in memory only: %s", error)
        return None

    def on(self, key: str, day: str) -> Used:
        """See `Usage.on`."""
        with reached():
            return _used(self._redis.hgetall(self._row(row_name(key), day)))

    def rows(self, key: str | None = None, first: str = "", last: str = "9999") -> list[UsageRow]:
        """See `Usage.rows`."""
        with reached():
            keys = self._redis.smembers(self._link.key("usage")) if key is None else [row_name(key)]
            wanted = [
                (day, each) for each in keys for day in self._redis.smembers(self._days(each)) if first <= day <= last
            ]
            pipe = self._redis.pipeline(transaction=False)
            for day, each in sorted(wanted):
                pipe.hgetall(self._row(each, day))
            found = pipe.execute() if wanted else []
        return [UsageRow(each, day, _used(told)) for (day, each), told in zip(sorted(wanted), found, strict=True)]

    def totals(self) -> dict[str, Used]:
        """See `Usage.totals`."""
        with reached():
            keys = sorted(self._redis.smembers(self._link.key("usage")))
            return {key: _used(self._redis.hgetall(self._total(key))) for key in keys}

    def close(self) -> None:
        """See `Usage.close`."""

    def _keep(self, mark: str, key: str, day: str, used: Used) -> None:
        names = [self._row(key, day), self._total(key), self._days(key), self._link.key("usage")]
        counts = [each for pair in zip(_COUNTS, astuple(used), strict=True) for each in pair]
        self._script([*names, self._link.key("counted", mark)], [key, day, *counts])

    def _row(self, key: str, day: str) -> str:
        return self._link.key("usage", key, day)

    def _total(self, key: str) -> str:
        return self._link.key("usage", key, "total")

    def _days(self, key: str) -> str:
        return self._link.key("usage", key, "days")


def _used(told: Mapping[str, str]) -> Used:
    whole = {name: int(float(told.get(name, 0))) for name in _COUNTS if name != "cpu_seconds"}
    return Used(**whole, cpu_seconds=float(told.get("cpu_seconds", 0)))
