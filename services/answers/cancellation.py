"""Stopping answers, or their thoughts, at their client's wish: the text so far is kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from services.backend.protocols import Generation
from services.sessions.history import SessionKey


class CancelToken:
    """Stops one answer, or its thoughts. Its own thread attaches the generation; any thread may cancel."""

    def __init__(self) -> None:
        self._is_cancelled = False
        self._is_thought_over = False
        self._generation: Generation | None = None

    def cancel(self) -> None:
        """Stop the answer, as soon as there is one."""
        # In this order, and `attach` in the other: one of the two sees what the other has set.
        self._is_cancelled = True
        if self._generation:
            self._generation.stop()

    def stop_thinking(self) -> None:
        """End the answer's thoughts, as soon as there is an answer."""
        self._is_thought_over = True
        if self._generation:
            self._generation.stop_thinking()

    def attach(self, generation: Generation) -> None:
        """Stop this generation when cancelled."""
        self._generation = generation
        if self._is_thought_over:
            generation.stop_thinking()
        if self._is_cancelled:
            generation.stop()


class Cancellations:
    """The open answers of sessions. Any thread may call it; `_lock` protects the table."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[SessionKey, list[CancelToken]] = {}

    @contextmanager
    def token(self, key: SessionKey) -> Iterator[CancelToken]:
        """Yield a token that `cancel` reaches for as long as the answer is open."""
        token = CancelToken()
        with self._lock:
            self._open.setdefault(key, []).append(token)
        try:
            yield token
        finally:
            with self._lock:
                self._open[key].remove(token)
                if not self._open[key]:
                    del self._open[key]

    def cancel(self, key: SessionKey, thinking: bool = False) -> bool:
        """Stop the session's open answers, those that still wait too; return whether there was one.

        `thinking`: stop their thoughts alone.
        """
        with self._lock:
            tokens = list(self._open.get(key, ()))
        for token in tokens:
            (token.stop_thinking if thinking else token.cancel)()
        return bool(tokens)
