"""What a caller reads of its request: text as it comes, the end, or an error. A queue lies between it and the engine."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator

from services.backend.types import Finish, TokenChoice
from services.errors import HearthError

POLL_SECONDS = 0.25
# While a prompt is read no tokens come, at which it would be seen that the caller has left.
LOOK_SECONDS = 0.02


class Delivery:
    """One request's. `put` is the engine's side, the rest the caller's."""

    def __init__(self) -> None:
        self.finish: Finish | None = None
        self.tokens: list[int] = []
        self.choices: list[TokenChoice] = []
        self.queue_position: int | None = None
        self._events: queue.SimpleQueue[str | Finish | HearthError] = queue.SimpleQueue()

    def put(self, event: str | Finish | HearthError) -> None:
        """Hand the caller text, the end, or an error."""
        self._events.put(event)

    def chunks(self, poll: Callable[[], None]) -> Iterator[str]:
        """See `Generation.chunks`."""
        silent_since, begun = time.monotonic(), False
        while self.finish is None:
            poll()
            try:
                event = self._events.get(timeout=POLL_SECONDS if begun or self.queue_position else LOOK_SECONDS)
            except queue.Empty:
                if time.monotonic() - silent_since >= POLL_SECONDS:
                    silent_since = time.monotonic()
                    yield ""
                continue
            silent_since, begun = time.monotonic(), True
            if isinstance(event, HearthError):
                raise event
            if isinstance(event, Finish):
                self.finish = event
            else:
                yield event
