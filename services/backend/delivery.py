"""The queue between the engine and the caller of a request: text as it comes, the end, or an error."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator

from typing_extensions import override

from services.backend.protocols import Generation
from services.backend.types import Finish, Spent, TokenChoice
from services.errors import HearthError

POLL_SECONDS = 0.25
# While a prompt is read no text comes, after which the caller would be polled.
READING_POLL_SECONDS = 0.02


class Delivery(Generation):
    """One request's queue of events. `put` is the engine's side, the rest the caller's."""

    def __init__(self) -> None:
        self.finish: Finish | None = None
        self.tokens: list[int] = []
        self.choices: list[TokenChoice] = []
        self.n_choices = 0
        self.prompt_choices: list[TokenChoice] = []
        self.queue_position: int | None = None
        self._spent = Spent()
        self._events: queue.SimpleQueue[tuple[str | Finish | HearthError, int]] = queue.SimpleQueue()
        """Each event with the number of choices at its time."""

    @property
    @override
    def spent(self) -> Spent:
        return self._spent

    def put(self, event: str | Finish | HearthError) -> None:
        """Queue text, the end, or an error for the caller; the choices so far belong to what is queued so far."""
        self._events.put((event, len(self.choices)))

    @override
    def chunks(self, poll: Callable[[], None]) -> Iterator[str]:
        silent_since, begun = time.monotonic(), False
        while self.finish is None:
            poll()
            try:
                timeout = POLL_SECONDS if begun or self.queue_position else READING_POLL_SECONDS
                event, n_choices = self._events.get(timeout=timeout)
            except queue.Empty:
                if time.monotonic() - silent_since >= POLL_SECONDS:
                    silent_since = time.monotonic()
                    yield ""
                continue
            silent_since, begun = time.monotonic(), True
            if isinstance(event, HearthError):
                raise event
            self.n_choices = n_choices
            if isinstance(event, Finish):
                self.finish = event
            else:
                yield event
