"""How much of a prompt is read, as streams tell it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class ReadingProgress:
    """The progress of one prompt's reading. Owned by the thread that streams."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` returns seconds."""
        self._clock = clock
        self._first: tuple[float, int] | None = None
        self._told = 0

    def told(self, n_read: int, of: int) -> dict[str, Any] | None:
        """Return the progress after `n_read` of `of` tokens; None if that was told already.

        `seconds_left` supposes that the rest is read as fast as what was read since the first call; None: it is unknown.
        """
        if n_read <= self._told:
            return None
        self._told, now = n_read, self._clock()
        if self._first is None:
            self._first = now, n_read
        since, before = self._first
        left = (of - n_read) * (now - since) / (n_read - before) if n_read > before else None
        return {"read": n_read, "of": of, "seconds_left": None if left is None else round(left, 1)}
