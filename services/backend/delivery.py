"""The queue between the engine and the caller of a request: text as it comes, the end, or an error."""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from typing_extensions import override

from services.backend.protocols import Generation
from services.backend.types import Finish, Mark, Spent, TokenChoice
from services.errors import HearthError

POLL_SECONDS = 0.25
# While a prompt is read no text comes, after which the caller would be polled.
READING_POLL_SECONDS = 0.02
# While text comes the caller is polled once in so many seconds, and not for each token.
_STREAMING_POLL_SECONDS = 0.1

Event = str | Finish | HearthError


class Delivery(Generation):
    """One request's queue of events. `put` is the engine's side, the rest the caller's."""

    def __init__(self) -> None:
        self.finish: Finish | None = None
        self.tokens: list[int] = []
        self.choices: list[TokenChoice] = []
        self.n_choices = 0
        self.prompt_choices: list[TokenChoice] = []
        self.queue_position: int | None = None
        self.n_read = 0
        self._spent = Spent()
        self._events: queue.SimpleQueue[Sequence[tuple[Event, int]]] = queue.SimpleQueue()
        """Events that came together, each with the number of choices at its time."""
        self._unread: deque[tuple[Event, int]] = deque()
        """Events that the caller has taken from the queue and not read yet."""

    @property
    @override
    def spent(self) -> Spent:
        return self._spent

    def put(self, event: Event) -> None:
        """Queue text, the end, or an error for the caller; the choices so far belong to what is queued so far."""
        self._events.put(((event, len(self.choices)),))

    def put_all(self, events: Sequence[tuple[Event, int]]) -> None:
        """Queue events that came together, each with the number of choices at its time: the caller wakes once."""
        if events:
            self._events.put(events)

    @override
    def chunks(self, poll: Callable[[], None]) -> Iterator[str]:
        polled = silent_since = time.monotonic()
        begun = False
        poll()
        while self.finish is None:
            now = time.monotonic()
            if now - polled >= _STREAMING_POLL_SECONDS:
                polled = now
                poll()
            timeout = POLL_SECONDS if begun or self.queue_position else READING_POLL_SECONDS
            if not self._await_events(timeout):
                # Nothing has come for a while: the time for a look.
                polled = time.monotonic()
                poll()
                if polled - silent_since >= POLL_SECONDS:
                    silent_since = polled
                    yield ""
                continue
            begun = True
            if text := self._next_chunk():
                yield text
            silent_since = time.monotonic()

    def _await_events(self, timeout: float) -> bool:
        """Take all events that have come, waiting `timeout` seconds for the first; return whether there are any."""
        try:
            if not self._unread:
                self._unread += self._events.get(timeout=timeout)
            while not self._events.empty():
                self._unread += self._events.get_nowait()
        except queue.Empty:
            return bool(self._unread)
        return True

    def _next_chunk(self) -> str:
        """Read the next event: a mark, or all text up to the next event of another kind; "" for the end. Raise an error."""
        event, self.n_choices = self._unread.popleft()
        if isinstance(event, HearthError):
            raise event
        if isinstance(event, Finish):
            self.finish = event
            return ""
        if isinstance(event, Mark):
            return event
        texts = [event]
        while self._unread and type(self._unread[0][0]) is str:
            text, self.n_choices = self._unread.popleft()
            texts.append(str(text))
        return "".join(texts)
