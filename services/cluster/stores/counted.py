"""Counts of what each owner keeps in Redis until it expires: the number of entries, and the sum of their bytes."""

from __future__ import annotations

import time

from services.cluster.redis_client import RedisClient, reached
from services.sessions.table import Kept

# KEYS: an owner's entries by the time at which they are forgotten, their sizes, and the sum of these. ARGV: the time now,
# and of one entry its name, when it is forgotten ("": now), and its size. Entries whose time is over are taken out first.
_COUNT = """
local function drop(id)
  redis.call('ZREM', KEYS[1], id)
  redis.call('DECRBY', KEYS[3], redis.call('HGET', KEYS[2], id) or 0)
  redis.call('HDEL', KEYS[2], id)
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])) do drop(id) end
if ARGV[2] then
  drop(ARGV[2])
  if ARGV[3] ~= '' then
    redis.call('ZADD', KEYS[1], ARGV[3], ARGV[2])
    redis.call('HSET', KEYS[2], ARGV[2], ARGV[4])
    redis.call('INCRBY', KEYS[3], ARGV[4])
  end
end
return {redis.call('ZCARD', KEYS[1]), tonumber(redis.call('GET', KEYS[3]) or '0')}
"""


class Counted:
    """The counts of one kind of entries. Any thread may call it. All raise Unavailable where Redis is away."""

    def __init__(self, client: RedisClient, kind: str) -> None:
        """`kind` begins the names of the counts in Redis."""
        self._client = client
        self._kind = kind
        self._count = client.redis.register_script(_COUNT)

    def note(self, owner: str, id_: str, seconds: float | None, n_bytes: int) -> None:
        """Count an entry of so many bytes, which expires in `seconds`; None: never."""
        until = "+inf" if seconds is None else str(time.time() + seconds)
        with reached():
            self._count(self._names(owner), [time.time(), id_, until, n_bytes])

    def drop(self, owner: str, id_: str) -> None:
        """Count an entry no more."""
        with reached():
            self._count(self._names(owner), [time.time(), id_, ""])

    def kept(self, owner: str) -> Kept:
        """Return the number of an owner's entries, and their bytes."""
        with reached():
            return Kept(*self._count(self._names(owner), [time.time()]))

    def _names(self, owner: str) -> list[str]:
        """Return the names in Redis that the script takes."""
        return [self._client.key(f"{self._kind}_{name}", owner) for name in ("until", "sizes", "bytes")]
