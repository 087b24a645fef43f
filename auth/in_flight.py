"""What is under way of each key: how many requests, and how many tokens are held back for them."""

from __future__ import annotations

import threading
from collections import defaultdict
from contextlib import AbstractContextManager
from typing import Protocol


class InFlight(Protocol):
    """The counts, by the key's id. Any thread may call it."""

    def begin(self, key: str, ticket: str, most: int | None) -> bool:
        """Count a request as under way, unless `most` are already; return whether it is."""
        ...

    def end(self, key: str, ticket: str) -> None:
        """It is over, and what was held back for it is free."""
        ...

    def count(self, key: str) -> int:
        """How many requests are under way."""
        ...

    def reserved(self, key: str) -> int:
        """How many tokens are held back."""
        ...

    def reserve(self, key: str, ticket: str, n_tokens: int) -> None:
        """Hold so many tokens more back for a request that is under way."""
        ...

    def alone(self, key: str) -> AbstractContextManager[object]:
        """Nobody else looks at a key's tokens, and takes some, meanwhile."""
        ...


class LocalInFlight:
    """Those of one server. `_lock` protects the counts, `_looks` lets one look at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._looks = threading.Lock()
        self._reserved: defaultdict[str, dict[str, int]] = defaultdict(dict)
        """By key and ticket, how many tokens."""

    def begin(self, key: str, ticket: str, most: int | None) -> bool:
        """See `InFlight.begin`."""
        with self._lock:
            if most and len(self._reserved[key]) >= most:
                return False
            self._reserved[key][ticket] = 0
            return True

    def end(self, key: str, ticket: str) -> None:
        """See `InFlight.end`."""
        with self._lock:
            del self._reserved[key][ticket]
            if not self._reserved[key]:
                del self._reserved[key]

    def count(self, key: str) -> int:
        """See `InFlight.count`."""
        with self._lock:
            return len(self._reserved.get(key, ()))

    def reserved(self, key: str) -> int:
        """See `InFlight.reserved`."""
        with self._lock:
            return sum(self._reserved.get(key, {}).values())

    def reserve(self, key: str, ticket: str, n_tokens: int) -> None:
        """See `InFlight.reserve`."""
        with self._lock:
            self._reserved[key][ticket] += n_tokens

    def alone(self, key: str) -> AbstractContextManager[object]:
        """See `InFlight.alone`."""
        return self._looks
