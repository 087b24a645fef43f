"""The requests in flight of each key: how many there are, and how many tokens are reserved for them."""

from __future__ import annotations

import threading
from collections import defaultdict
from contextlib import AbstractContextManager
from typing import Protocol

from typing_extensions import override


class InFlight(Protocol):
    """The counts, by the key's id. Any thread may call it."""

    def begin(self, key: str, ticket: str, most: int | None) -> bool:
        """Count a request as in flight, unless `most` are already; return whether it is counted."""
        ...

    def end(self, key: str, ticket: str) -> None:
        """Count a request as over, and release the tokens that were reserved for it."""
        ...

    def count(self, key: str) -> int:
        """Return how many requests are in flight."""
        ...

    def reserved(self, key: str) -> int:
        """Return how many tokens are reserved."""
        ...

    def reserve(self, key: str, ticket: str, n_tokens: int) -> None:
        """Reserve so many tokens more for a request in flight."""
        ...

    def alone(self, key: str) -> AbstractContextManager[object]:
        """Lock a key's tokens, so that no other request reads them and reserves some meanwhile."""
        ...


class LocalInFlight(InFlight):
    """One server's counts. `_lock` protects them; `_reserving` is the lock that `alone` gives out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reserving = threading.Lock()
        self._reserved: defaultdict[str, dict[str, int]] = defaultdict(dict)
        """Tokens, by key and ticket."""

    @override
    def begin(self, key: str, ticket: str, most: int | None) -> bool:
        with self._lock:
            if most and len(self._reserved[key]) >= most:
                return False
            self._reserved[key][ticket] = 0
            return True

    @override
    def end(self, key: str, ticket: str) -> None:
        with self._lock:
            del self._reserved[key][ticket]
            if not self._reserved[key]:
                del self._reserved[key]

    @override
    def count(self, key: str) -> int:
        with self._lock:
            return len(self._reserved.get(key, ()))

    @override
    def reserved(self, key: str) -> int:
        with self._lock:
            return sum(self._reserved.get(key, {}).values())

    @override
    def reserve(self, key: str, ticket: str, n_tokens: int) -> None:
        with self._lock:
            self._reserved[key][ticket] += n_tokens

    @override
    def alone(self, key: str) -> AbstractContextManager[object]:
        return self._reserving
