"""A generation on some worker, read from its stream."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

from services.backend.codec import Message, choice_from_json, error_from_json, from_json
from services.backend.types import Finish, GenerationRequest, Spent, TokenChoice
from services.cluster.redis_client import away, is_away
from services.cluster.streams import Streams
from services.errors import Unavailable

log = logging.getLogger(__name__)

_POLL_MS = 250
# Seconds for which Redis may be away before whoever waits is told.
_MOST_AWAY = 120.0
# Seconds between two looks whether Redis still knows of a request of which it says nothing.
_LOOK = 5.0
# Seconds that a caller who leaves waits for what its answer has cost.
_LAST_STEP = 3.0


class Requests(Protocol):
    """Who has sent a request."""

    streams: Streams
    is_closed: bool
    """Whether this node stops."""

    def order(self, id_: str, order: str) -> int:
        """Want a request to "stop" or "cancel"; return how many workers have begun it."""
        ...

    def begun(self, generation: StreamGeneration) -> None:
        """A worker has begun it."""
        ...

    def done(self, generation: StreamGeneration) -> None:
        """Nobody reads it any more."""
        ...


class StreamGeneration:
    """See `Generation`. The thread that submitted it reads it; any may stop it."""

    def __init__(self, requests: Requests, id_: str, request: GenerationRequest) -> None:
        self.finish: Finish | None = None
        self.tokens: list[int] = []
        self.choices: list[TokenChoice] = []
        self.queue_position: int | None = None
        self.spent = Spent()
        self.id = id_
        self.request = request
        self._requests = requests
        self._after, self._number = "0", 0
        self._is_over = False
        self._never_began = False
        self._is_dropped = False

    def chunks(self, poll: Callable[[], None]) -> Iterator[str]:
        """See `Generation.chunks`. Raises Unavailable too, where Redis is away for long or has forgotten the request."""
        looked = last = time.monotonic()
        while self.finish is None:
            poll()
            if self._requests.is_closed:
                raise Unavailable("the server is stopping", code="stopping", retry_after=5)
            if self._never_began:
                # It was stopped in the queue, where it now stays until somebody throws it away.
                self.finish, self._is_over = Finish("cancelled", len(self.request.tokens), 0, 0), True
                return
            try:
                events = self._read(_POLL_MS)
                last = time.monotonic()
                if not events and last - looked > _LOOK:
                    looked = last
                    self._check_known()
            except Exception as error:
                self._bear(error, last)
                events = []
            if not events:
                yield ""
            for event in events:
                if text := self._take(event):
                    yield text

    def stop(self) -> None:
        """See `Generation.stop`."""
        self._never_began = self._order("stop") == 0

    def cancel(self) -> None:
        """See `Generation.cancel`; it returns once it is known what the answer has cost, and forgets it."""
        if self._is_dropped:
            return
        self._is_dropped = True
        if not self._is_over and self._order("cancel"):
            self._await_end()
        self._requests.done(self)

    def _order(self, order: str) -> int:
        """Tell whoever computes it; return how many workers have begun it. Where Redis is away, nobody can be told."""
        try:
            return self._requests.order(self.id, order)
        except Exception as error:
            if not is_away(error):
                raise
            log.warning("a request could not be told to %s: %s", order, error)
            return 1

    def _await_end(self) -> None:
        deadline = time.monotonic() + _LAST_STEP
        try:
            while not self._is_over and time.monotonic() < deadline:
                for event in self._read(_POLL_MS):
                    self._take(event)
        except Exception as error:
            log.debug("what a request has cost is not known: %s", error)

    def _read(self, milliseconds: int) -> list[Message]:
        events = []
        for entry, number, event in self._requests.streams.read(self.id, self._after, milliseconds):
            self._after = entry
            if number > self._number + 1:
                raise lost()
            if number > self._number:
                self._number = number
                events.append(event)
        return events

    def _check_known(self) -> None:
        look = self._requests.streams.look(self.id)
        if look is None:
            raise lost()
        # Another node may have stopped it.
        self._never_began = self._never_began or (look.order == "cancel" and not look.attempts)

    def _bear(self, error: Exception, last: float) -> None:
        """Go on where Redis is away for a while: what is written is there when it is back."""
        if not is_away(error):
            raise error
        if time.monotonic() - last > _MOST_AWAY:
            raise away() from error
        time.sleep(_POLL_MS / 1000)

    def _take(self, event: Message) -> str:
        """Take an event in, and return its text. Raises what the worker has raised."""
        if "worker" in event:
            self.queue_position = 0
            self._requests.begun(self)
        self.tokens += event.get("tokens", ())
        self.choices += [choice_from_json(choice) for choice in event.get("choices", ())]
        if text := event.get("text", ""):
            self.spent = replace(self.spent, completion_tokens=len(self.tokens))
        if "spent" in event:
            self.spent, self._is_over = from_json(Spent, event["spent"]), True
        if "finish" in event:
            self.finish = from_json(Finish, event["finish"])
        if "error" in event:
            self._is_over = True
        if self._is_over and not self.finish and not self._is_dropped:
            raise error_from_json(event["error"]) if "error" in event else lost()
        return str(text)


def lost() -> Unavailable:
    """What a caller gets whose request is not there any more."""
    what = "the cluster has lost this request; nothing was stored, and asking again is safe"
    return Unavailable(what, code="request_lost", retry_after=2)
