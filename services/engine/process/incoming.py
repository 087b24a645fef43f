"""A generation in the engine's process, as its caller in the server reads it."""

from __future__ import annotations

import threading
from typing import Protocol

from typing_extensions import override

from services.backend.delivery import Delivery, Event
from services.backend.types import Spent
from services.engine.process.updates import Update

# How long a caller that cancels waits for the cost of its answer: a step takes less.
_LAST_STEP = 3.0


class EngineChannel(Protocol):
    """Sends orders to the engine's process."""

    @property
    def is_silent(self) -> bool:
        """True if it has not answered for so long that no answer is expected soon, or cannot."""
        ...

    def tell(self, do: str, **fields: object) -> None:
        """Send a message that is not answered."""
        ...


class IncomingGeneration(Delivery):
    """A generation in the engine's process. `take` is for the receiving thread, the rest for callers."""

    def __init__(self, number: int, channel: EngineChannel) -> None:
        super().__init__()
        self.number = number
        self.left = threading.Event()
        """Set once its sequence has left the engine."""
        self._channel = channel
        self._n_pieces = 0
        """The texts and marks that have come."""

    @property
    @override
    def spent(self) -> Spent:
        # Until it has left, the tokens that have come; text without tokens may have been left by another engine.
        return self._spent if self.left.is_set() else Spent(completion_tokens=len(self.tokens) or self._n_pieces)

    def take(self, update: Update) -> None:
        """Take in what has come of it."""
        n_before = len(self.choices)
        self.tokens += update.tokens
        self.choices += update.choices
        self.prompt_choices += update.prompt_choices
        self._n_pieces += len(update.pieces)
        if update.queue_position is not None:
            self.queue_position = update.queue_position
        if update.n_read is not None:
            self.n_read = update.n_read
        if update.left:
            self._spent = update.left
            self.left.set()
        events: list[tuple[Event, int]] = [(piece, n_before + n) for piece, n in update.pieces]
        if update.end:
            events.append((update.end, len(self.choices)))
        self.put_all(events)

    @override
    def stop(self) -> None:
        self._channel.tell("stop", number=self.number)

    @override
    def stop_thinking(self) -> None:
        self._channel.tell("stop_thinking", number=self.number)

    @override
    def cancel(self) -> None:
        # Returns once the answer's cost is known.
        if not self.left.is_set():
            self._channel.tell("cancel", number=self.number)
            if not self._channel.is_silent:
                self.left.wait(_LAST_STEP)
