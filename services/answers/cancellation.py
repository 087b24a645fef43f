"""Ending answers where they are, on the word of whoever asked: what is said so far is kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from services.backend.protocols import Generation
from services.sessions.history import SessionKey


class CancelToken:
    """Whether one answer is to end. Its own thread gives it the generation; any thread may ask for the end."""

    def __init__(self) -> None:
        self._wanted = False
        self._generation: Generation | None = None

    def ask(self) -> None:
        """End the answer, as soon as there is one."""
        # In this order, and `attach` in the other: one of the two sees what the other has set.
        self._wanted = True
        if self._generation:
            self._generation.stop()

    def attach(self, generation: Generation) -> None:
        """This is the generation to stop."""
        self._generation = generation
        if self._wanted:
            generation.stop()


class Cancellations:
    """The open answers of sessions. Any thread may call it; `_lock` protects the table."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[SessionKey, list[CancelToken]] = {}

    @contextmanager
    def of(self, key: SessionKey) -> Iterator[CancelToken]:
        """What ends the answer that is open meanwhile."""
        stop = CancelToken()
        with self._lock:
            self._open.setdefault(key, []).append(stop)
        try:
            yield stop
        finally:
            with self._lock:
                self._open[key].remove(stop)
                if not self._open[key]:
                    del self._open[key]

    def ask(self, key: SessionKey) -> bool:
        """End the session's open answers, those that wait for their turn too; False where there is none."""
        with self._lock:
            stops = list(self._open.get(key, ()))
        for stop in stops:
            stop.ask()
        return bool(stops)
