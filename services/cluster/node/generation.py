"""A generation on some worker, read from its stream in Redis."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

from typing_extensions import override

from services.backend.codec import Message, choice_from_json, error_from_json, from_json
from services.backend.protocols import Generation
from services.backend.types import Finish, GenerationRequest, Mark, Spent, TokenChoice
from services.cluster.orders import Order
from services.cluster.redis_client import away, is_away
from services.cluster.streams import Streams
from services.errors import Unavailable

log = logging.getLogger(__name__)

_POLL_MS = 250
# Seconds for which Redis may be away before the answer fails.
_MOST_AWAY = 120.0
# Seconds without an event after which Redis is asked whether it still has the request.
_LOOK = 5.0
# Seconds that a cancelled generation waits for its cost.
_LAST_STEP = 3.0


class Sender(Protocol):
    """The backend that has sent a request."""

    streams: Streams
    is_closed: bool
    """Whether this node stops."""

    def order(self, id_: str, order: Order) -> int:
        """Give an order about a request; return how many workers have begun it."""
        ...

    def note_begun(self, generation: StreamGeneration) -> None:
        """Note that a worker has begun it."""
        ...

    def note_read(self, generation: StreamGeneration) -> None:
        """Note that it is read no more."""
        ...


class StreamGeneration(Generation):
    """A request in Redis. The thread that submitted it reads it; any may stop it."""

    def __init__(self, sender: Sender, id_: str, request: GenerationRequest) -> None:
        self.finish: Finish | None = None
        self.tokens: list[int] = []
        self.choices: list[TokenChoice] = []
        self.n_choices = 0
        self.prompt_choices: list[TokenChoice] = []
        self._n_before = 0
        """The number of choices of earlier attempts."""
        self.queue_position: int | None = None
        self.n_read = 0
        self._spent = Spent()
        self.id = id_
        self.request = request
        self._sender = sender
        self._after, self._number = "0", 0
        self._is_over = False
        self._never_began = False
        self._is_cancelled = False

    @property
    @override
    def spent(self) -> Spent:
        return self._spent

    @override
    def chunks(self, poll: Callable[[], None]) -> Iterator[str]:
        """Yield the text. Raises Unavailable too, where Redis is away for long or has forgotten the request."""
        looked = last = time.monotonic()
        while self.finish is None:
            poll()
            if self._sender.is_closed:
                raise Unavailable("the server is stopping", code="stopping", retry_after=5)
            if self._never_began:
                # It was stopped in the queue: the worker that takes it from there drops it.
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

    @override
    def stop(self) -> None:
        self._never_began = self._order(Order.STOP) == 0

    @override
    def stop_thinking(self) -> None:
        self._order(Order.STOP_THINKING)

    @override
    def cancel(self) -> None:
        """Break it off; return once its cost is known, or after seconds, and forget it."""
        if self._is_cancelled:
            return
        self._is_cancelled = True
        if not self._is_over and self._order(Order.CANCEL):
            self._await_end()
        self._sender.note_read(self)

    def _order(self, order: Order) -> int:
        """Give the order; return how many workers have begun the request. Where Redis is away it is not given."""
        try:
            return self._sender.order(self.id, order)
        except Exception as error:
            if not is_away(error):
                raise
            log.warning("a request could not be ordered to %s: %s", order.value, error)
            return 1

    def _await_end(self) -> None:
        deadline = time.monotonic() + _LAST_STEP
        try:
            while not self._is_over and time.monotonic() < deadline:
                for event in self._read(_POLL_MS):
                    self._take(event)
        except Exception as error:
            log.debug("the cost of a request is not known: %s", error)

    def _read(self, milliseconds: int) -> list[Message]:
        events = []
        for entry, number, event in self._sender.streams.read(self.id, self._after, milliseconds):
            self._after = entry
            if number > self._number + 1:
                raise lost()
            if number > self._number:
                self._number = number
                events.append(event)
        return events

    def _check_known(self) -> None:
        look = self._sender.streams.look(self.id)
        if look is None:
            raise lost()
        # Another node may have stopped it.
        self._never_began = self._never_began or (look.order == Order.CANCEL and not look.attempts)

    def _bear(self, error: Exception, last: float) -> None:
        """Go on where Redis is away for a while: the events are there when it is back."""
        if not is_away(error):
            raise error
        if time.monotonic() - last > _MOST_AWAY:
            raise away() from error
        time.sleep(_POLL_MS / 1000)

    def _take(self, event: Message) -> str:
        """Apply an event, and return its text. Raises what the worker has raised."""
        if "worker" in event:
            self.queue_position = 0
            self._n_before = len(self.choices)
            self._sender.note_begun(self)
        self.n_read = event.get("n_read", self.n_read)
        self.tokens += event.get("tokens", ())
        self.choices += [choice_from_json(choice) for choice in event.get("choices", ())]
        if choices := event.get("prompt_choices"):
            # Each attempt tells all of them.
            self.prompt_choices = [choice_from_json(choice) for choice in choices]
        self.n_choices = self._n_before + event.get("n_choices", 0)
        if text := event.get("text", ""):
            self._spent = replace(self._spent, completion_tokens=len(self.tokens))
        if "spent" in event:
            self._spent, self._is_over = from_json(Spent, event["spent"]), True
        if "finish" in event:
            self.finish = from_json(Finish, event["finish"])
        if "error" in event:
            self._is_over = True
        if self._is_over and not self.finish and not self._is_cancelled:
            raise error_from_json(event["error"]) if "error" in event else lost()
        return Mark(text) if "mark" in event else str(text)


def lost() -> Unavailable:
    """Return the error for a request that is not in Redis any more."""
    what = "the cluster has lost this request; nothing was stored, and asking again is safe"
    return Unavailable(what, code="request_lost", retry_after=2)
