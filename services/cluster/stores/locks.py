"""The locks of a cluster's sessions in Redis: one API node at a time answers a session."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import redis

from services.cluster.redis_client import RedisClient, reached
from services.cluster.registry import Liveness
from services.sessions.locks import LocalSessionLocks

# Seconds after which a lock that nobody renews is released, longer than Redis may be away. A lock of an API node that is
# gone is released sooner.
HELD_FOR = 180
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('EXPIRE', KEYS[1], ARGV[2]) end return 0"


class RedisSessionLocks:
    """Locks in Redis. Any thread may call it; `_lock` protects the table of those held here, which a thread renews."""

    def __init__(self, client: RedisClient, node: str, liveness: Liveness) -> None:
        """`node` is this API node's name."""
        self._client = client
        self._node = node
        self._liveness = liveness
        self._here = LocalSessionLocks()
        self._release = client.redis.register_script(_RELEASE)
        self._renew = client.redis.register_script(_RENEW)
        self._lock = threading.Lock()
        self._held: dict[str, str] = {}
        self._left: dict[str, str] = {}
        """Locks that are released, and of which Redis is still to be told."""
        threading.Thread(target=self._keep, name="session locks", daemon=True).start()

    @contextmanager
    def lock(self, entry: str, poll: Callable[[], None]) -> Iterator[None]:
        """See `SessionLocks.lock`."""
        key, token = self._client.key("turn", entry), f"{self._node} {uuid.uuid4().hex}"
        with self._here.lock(entry, poll):
            try:
                with reached():
                    self._wait(key, token, poll)
                with self._lock:
                    self._held[key] = token
                yield
            finally:
                with self._lock:
                    self._held.pop(key, None)
                    self._left[key] = token
                self._let_go()

    def _wait(self, key: str, token: str, poll: Callable[[], None]) -> None:
        for n in itertools.count(1):
            # Redis may have taken it before, and its reply been lost.
            if self._client.redis.set(key, token, nx=True, ex=HELD_FOR):
                return
            holder = self._client.redis.get(key)
            if holder == token:
                return
            if n % 5 == 0:
                poll()
            if n % 20 == 0 and holder and self._liveness.is_gone(holder.partition(" ")[0]):
                self._release([key], [holder])
            time.sleep(0.05)

    def _keep(self) -> None:
        """The thread that renews."""
        while True:
            time.sleep(5)
            with self._lock:
                held = dict(self._held)
            for key, token in held.items():
                with suppress(redis.RedisError):
                    self._renew([key], [token, HELD_FOR])
            self._let_go()

    def _let_go(self) -> None:
        with self._lock:
            left = dict(self._left)
        for key, token in left.items():
            with suppress(redis.RedisError):
                self._release([key], [token])
                with self._lock:
                    if self._left.get(key) == token:
                        del self._left[key]
