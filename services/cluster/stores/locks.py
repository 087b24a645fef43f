"""The locks of a cluster's sessions in Redis: one API node at a time answers a session."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import redis
from typing_extensions import override

from services.cluster.redis_client import RedisClient, reached
from services.cluster.registry import Liveness
from services.sessions.locks import LocalSessionLocks, SessionLocks

# Seconds after which a lock that is not renewed ends: longer than Redis may be away. One of an API node that is gone is
# released sooner.
HELD_FOR = 180
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('EXPIRE', KEYS[1], ARGV[2]) end return 0"


class RedisSessionLocks(SessionLocks):
    """Locks in Redis, which end unless `renew` is called. Any thread may call it; `_lock` protects the tables of locks."""

    def __init__(self, client: RedisClient, node: str, liveness: Liveness) -> None:
        """`node` is the name of this API node's process."""
        self._client = client
        self._node = node
        self._liveness = liveness
        self._here = LocalSessionLocks()
        self._release = client.redis.register_script(_RELEASE)
        self._renew = client.redis.register_script(_RENEW)
        self._lock = threading.Lock()
        self._held: dict[str, str] = {}
        """By their names in Redis, the tokens of the locks that this node holds."""
        self._released: dict[str, str] = {}
        """The same of released locks that may still stand in Redis."""

    @override
    @contextmanager
    def lock(self, entry: str, poll: Callable[[], None]) -> Iterator[None]:
        key, token = self._client.key("turn", entry), f"{self._node} {uuid.uuid4().hex}"
        with self._here.lock(entry, poll):
            try:
                with reached():
                    self._acquire(key, token, poll)
                with self._lock:
                    self._held[key] = token
                yield
            finally:
                with self._lock:
                    self._held.pop(key, None)
                    self._released[key] = token
                with suppress(redis.RedisError):
                    self._release_all()

    def renew(self) -> None:
        """Renew the locks that this node holds, and release those that it could not. Raises what Redis's client raises."""
        try:
            self._for_each(self._held, lambda key, token: self._renew([key], [token, HELD_FOR]))
        finally:
            self._release_all()

    def _acquire(self, key: str, token: str, poll: Callable[[], None]) -> None:
        for n in itertools.count(1):
            if self._client.redis.set(key, token, nx=True, ex=HELD_FOR):
                return
            holder = self._client.redis.get(key)
            # Redis may have set it before, and its reply been lost.
            if holder == token:
                return
            if n % 5 == 0:
                poll()
            if n % 20 == 0 and holder and self._liveness.is_gone(holder.partition(" ")[0]):
                self._release([key], [holder])
            time.sleep(0.05)

    def _release_all(self) -> None:
        """Release the locks that are not released yet. Raises what Redis's client raises."""
        self._for_each(self._released, self._release_one)

    def _release_one(self, key: str, token: str) -> None:
        self._release([key], [token])
        with self._lock:
            if self._released.get(key) == token:
                del self._released[key]

    def _for_each(self, locks: Mapping[str, str], call: Callable[[str, str], object]) -> None:
        """Call `call` for each lock, whichever fail. Raises the last failure."""
        with self._lock:
            copied = dict(locks)
        problem: redis.RedisError | None = None
        for key, token in copied.items():
            try:
                call(key, token)
            except redis.RedisError as error:
                problem = error
        if problem:
            raise problem
