"""The requests in flight of each key, on all API nodes together."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from redis import RedisError
from typing_extensions import override

from auth.in_flight import InFlight
from services.cluster.redis_client import RedisClient, is_away, reached
from services.errors import Unavailable

# Seconds after which a ticket that is not renewed counts no more: its API node is gone.
_LOST_AFTER = 60
# KEYS: tickets by the time at which they are lost, tokens by ticket. ARGV: the time now, when the ticket is lost, the
# ticket, how many there may be (0: any number).
_BEGIN = """
for _, ticket in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])) do
  redis.call('ZREM', KEYS[1], ticket)
  redis.call('HDEL', KEYS[2], ticket)
end
local most = tonumber(ARGV[4])
if most > 0 and not redis.call('ZSCORE', KEYS[1], ARGV[3]) and redis.call('ZCARD', KEYS[1]) >= most then return 0 end
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[3])
return 1
"""
# The same KEYS. ARGV: the time now.
_RESERVED = """
local sum = 0
for _, ticket in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], '+inf')) do
  sum = sum + tonumber(redis.call('HGET', KEYS[2], ticket) or 0)
end
return sum
"""


class RedisInFlight(InFlight):
    """The counts in Redis. All raise Unavailable where Redis is away.

    Any thread may call it; `_lock` protects this node's tickets, which are lost unless `renew` is called.
    """

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._redis = client.redis
        self._begin = self._redis.register_script(_BEGIN)
        self._reserved = self._redis.register_script(_RESERVED)
        self._lock = threading.Lock()
        self._tickets: set[tuple[str, str]] = set()

    @override
    def begin(self, key: str, ticket: str, most: int | None) -> bool:
        now = time.time()
        with reached():
            begun = bool(self._begin(self._keys(key), [now, now + _LOST_AFTER, ticket, most or 0]))
        if begun:
            with self._lock:
                self._tickets.add((key, ticket))
        return begun

    @override
    def end(self, key: str, ticket: str) -> None:
        with self._lock:
            self._tickets.discard((key, ticket))
        tickets, tokens = self._keys(key)
        try:
            pipe = self._redis.pipeline()
            pipe.zrem(tickets, ticket)
            pipe.hdel(tokens, ticket)
            pipe.execute()
        except Exception as error:
            # Where Redis is away the ticket ends by itself.
            if not is_away(error):
                raise

    @override
    def count(self, key: str) -> int:
        with reached():
            return int(self._redis.zcount(self._keys(key)[0], time.time(), "+inf"))

    @override
    def reserved(self, key: str) -> int:
        with reached():
            return int(self._reserved(self._keys(key), [time.time()]))

    @override
    def reserve(self, key: str, ticket: str, n_tokens: int) -> None:
        with reached():
            self._redis.hincrby(self._keys(key)[1], ticket, n_tokens)

    @override
    @contextmanager
    def alone(self, key: str) -> Iterator[None]:
        lock = self._redis.lock(f"{self._keys(key)[0]}:lock", timeout=5, blocking_timeout=5, sleep=0.01)
        with reached():
            if not lock.acquire():
                raise Unavailable("the limits of keys cannot be counted now", code="limits_unavailable", retry_after=2)
        try:
            yield
        finally:
            # It may have timed out, as it does where Redis is away.
            with suppress(RedisError):
                lock.release()

    def renew(self) -> None:
        """Renew this node's tickets. Raises what Redis's client raises."""
        with self._lock:
            tickets = list(self._tickets)
        for key, ticket in tickets:
            self._redis.zadd(self._keys(key)[0], {ticket: time.time() + _LOST_AFTER}, xx=True)

    def _keys(self, key: str) -> list[str]:
        return [
            self._client.key("under_way", f"{{{key}}}", "tickets"),
            self._client.key("under_way", f"{{{key}}}", "tokens"),
        ]
