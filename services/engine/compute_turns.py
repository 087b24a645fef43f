"""Turns at the cores: vectors of texts are computed between the steps of answers, and not beside them.

llama.cpp's threads spin while they wait for each other: two computations at once slow each other down many times over.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Seconds without a step after which no answer is under way.
_IDLE = 0.02
# Seconds between two polls of what waits for its turn.
_POLL_SECONDS = 0.25


class ComputeTurns:
    """The turns of one process. Any thread may call it; `_changed` protects the counts and wakes those that wait.

    Steps of answers may run beside each other. After a piece of a text that took a second, answers have a second too before
    the next piece, unless there are none.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._n_steps = self._n_waiting = 0
        """Steps that run, and that wait for a piece."""
        self._last_step = -_IDLE
        self._owed = 0.0
        """Seconds that steps may take before the next piece."""
        self._is_claimed = False
        """True while a piece waits for the steps that run, or is computed."""

    @contextmanager
    def step(self) -> Iterator[None]:
        """Take a turn for a step of answers: at once, or after the piece that is being computed."""
        with self._changed:
            self._n_waiting += 1
            while self._is_claimed:
                self._changed.wait()
            self._n_waiting -= 1
            self._n_steps += 1
        began = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                self._n_steps -= 1
                self._last_step = time.monotonic()
                self._owed -= self._last_step - began
                self._changed.notify_all()

    @contextmanager
    def piece(self, poll: Callable[[], None]) -> Iterator[None]:
        """Take a turn for a piece of a text; `poll` is called while waiting for it, and raises to give up."""
        self._claim(poll)
        began = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                now = time.monotonic()
                self._owed = now - began
                if self._n_waiting:
                    self._last_step = now
                self._is_claimed = False
                self._changed.notify_all()

    def _claim(self, poll: Callable[[], None]) -> None:
        polled = time.monotonic()
        while True:
            with self._changed:
                if not self._is_claimed and self._is_due():
                    # From here on no step begins.
                    self._is_claimed = True
                    while self._n_steps:
                        self._changed.wait()
                    return
                self._changed.wait(_IDLE)
            if time.monotonic() - polled > _POLL_SECONDS:
                polled = time.monotonic()
                poll()

    def _is_due(self) -> bool:
        """Return whether answers have had their time since the last piece, or there are none."""
        is_idle = not (self._n_steps or self._n_waiting) and time.monotonic() - self._last_step > _IDLE
        return self._owed <= 0 or is_idle
