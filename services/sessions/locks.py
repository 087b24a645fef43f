"""The locks of sessions: prompts to one session are answered one after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from typing_extensions import override


class SessionLocks(Protocol):
    """A lock for each session. Any thread may call it."""

    def lock(self, entry: str, poll: Callable[[], None]) -> AbstractContextManager[None]:
        """Hold the lock of the session that the table names `entry`.

        `poll` is called every quarter of a second while waiting, and gives up by raising.
        """
        ...


class LocalSessionLocks(SessionLocks):
    """Locks in memory, for one server. Any thread may call it; `_lock` protects the table of locks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[str, tuple[threading.Lock, int]] = {}
        """By session: its lock, and the number of threads that hold it or wait for it."""

    @override
    @contextmanager
    def lock(self, entry: str, poll: Callable[[], None]) -> Iterator[None]:
        with self._lock:
            lock, n_users = self._locks.get(entry, (threading.Lock(), 0))
            self._locks[entry] = (lock, n_users + 1)
        try:
            while not lock.acquire(timeout=0.25):
                poll()
            try:
                yield
            finally:
                lock.release()
        finally:
            with self._lock:
                _, n_users = self._locks[entry]
                if n_users == 1:
                    del self._locks[entry]
                else:
                    self._locks[entry] = (lock, n_users - 1)
