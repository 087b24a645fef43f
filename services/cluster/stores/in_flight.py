"""What is under way of each key on all API nodes together."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from redis import RedisError

from services.cluster.redis_client import RedisClient, is_away, reached
from services.errors import Unavailable

log = logging.getLogger(__name__)

# Seconds after which what an API node has left behind counts no more, unless it renews it.
_LOST_AFTER = 60
# KEYS: tickets by when they are lost, tokens by ticket.
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
_HELD = """
local sum = 0
for _, ticket in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], '+inf')) do
  sum = sum + tonumber(redis.call('HGET', KEYS[2], ticket) or 0)
end
return sum
"""


class RedisInFlight:
    """See `InFlight`. All raise Unavailable where Redis is away. `_lock` protects the tickets, which a thread renews."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._redis = client.redis
        self._begin = self._redis.register_script(_BEGIN)
        self._reserved = self._redis.register_script(_HELD)
        self._lock = threading.Lock()
        self._mine: set[tuple[str, str]] = set()
        threading.Thread(target=self._keep, name="tickets", daemon=True).start()

    def begin(self, key: str, ticket: str, most: int | None) -> bool:
        """See `InFlight.begin`."""
        now = time.time()
        with reached():
            begun = bool(self._begin(self._keys(key), [now, now + _LOST_AFTER, ticket, most or 0]))
        if begun:
            with self._lock:
                self._mine.add((key, ticket))
        return begun

    def end(self, key: str, ticket: str) -> None:
        """See `InFlight.end`. Where Redis is away it ends by itself."""
        with self._lock:
            self._mine.discard((key, ticket))
        tickets, tokens = self._keys(key)
        try:
            pipe = self._redis.pipeline()
            pipe.zrem(tickets, ticket)
            pipe.hdel(tokens, ticket)
            pipe.execute()
        except Exception as error:
            if not is_away(error):
                raise

    def count(self, key: str) -> int:
        """See `InFlight.count`."""
        with reached():
            return int(self._redis.zcount(self._keys(key)[0], time.time(), "+inf"))

    def reserved(self, key: str) -> int:
        """See `InFlight.reserved`."""
        with reached():
            return int(self._reserved(self._keys(key), [time.time()]))

    def reserve(self, key: str, ticket: str, n_tokens: int) -> None:
        """See `InFlight.reserve`."""
        with reached():
            self._redis.hincrby(self._keys(key)[1], ticket, n_tokens)

    @contextmanager
    def alone(self, key: str) -> Iterator[None]:
        """See `InFlight.alone`. Raises Unavailable too where others take too long."""
        lock = self._redis.lock(f"{self._keys(key)[0]}:lock", timeout=5, blocking_timeout=5, sleep=0.01)
        with reached():
            if not lock.acquire():
                raise Unavailable("the limits of keys cannot be counted now", code="limits_unavailable", retry_after=2)
        try:
            yield
        finally:
            # One that took too long has ended, as it does by itself where Redis is away.
            with suppress(RedisError):
                lock.release()

    def _keys(self, key: str) -> list[str]:
        return [
            self._client.key("under_way", f"{{{key}}}", "tickets"),
            self._client.key("under_way", f"{{{key}}}", "tokens"),
        ]

    def _keep(self) -> None:
        """The thread that renews."""
        while True:
            time.sleep(_LOST_AFTER / 6)
            with self._lock:
                mine = list(self._mine)
            try:
                for key, ticket in mine:
                    self._redis.zadd(self._keys(key)[0], {ticket: time.time() + _LOST_AFTER}, xx=True)
            except Exception as error:
                log.warning("what is under way cannot be renewed: %s", error)
