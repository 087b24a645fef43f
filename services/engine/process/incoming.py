"""A generation in the engine's process, as its caller in the server reads it."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Protocol

from typing_extensions import override

from services.backend.codec import Message, choice_from_json, error_from_json, from_json
from services.backend.delivery import Delivery
from services.backend.types import Finish, Mark, Spent

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

    def take(self, message: Message) -> None:
        """Take in an event of it."""
        self.tokens += message.get("tokens", ())
        self.choices += [choice_from_json(choice) for choice in message.get("choices", ())]
        self.prompt_choices += [choice_from_json(choice) for choice in message.get("prompt_choices", ())]
        if "left" in message:
            self._spent = from_json(Spent, message["left"])
            self.left.set()
        if "text" in message:
            # Until it has left, about as many tokens as pieces.
            self._n_pieces += 1
            self._spent = replace(self._spent, completion_tokens=self._n_pieces)
            self.put(Mark(message["text"]) if "mark" in message else message["text"])
        elif "queue_position" in message:
            self.queue_position = message["queue_position"]
        elif "finish" in message:
            self.put(from_json(Finish, message["finish"]))
        elif "error" in message:
            self.put(error_from_json(message["error"]))

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
