"""A generation in the engine's process, whose events go to the server over the socket."""

from __future__ import annotations

import queue
from collections.abc import Callable

from typing_extensions import override

from services.backend.codec import Message, choice_to_json, error_to_json, to_json
from services.backend.types import Finish, Mark
from services.engine.loop.generation import EngineGeneration
from services.engine.loop.sequence import Sequence
from services.errors import HearthError

Outbox = queue.SimpleQueue[Message]


class OutgoingGeneration(EngineGeneration):
    """Puts its events into the outbox of the process, under its number. On the engine's thread, but for its making."""

    def __init__(self, sequence: Sequence, wake: Callable[[], None], number: int, outbox: Outbox) -> None:
        super().__init__(sequence, wake)
        self._number = number
        self._outbox = outbox
        self._n_tokens = self._n_choices = 0
        """The numbers of tokens and choices that are sent."""
        self._has_left = False
        self._has_prompt = False

    @override
    def move(self, queue_position: int) -> None:
        if queue_position != self.queue_position:
            self.queue_position = queue_position
            self._outbox.put({"of": self._number, "queue_position": queue_position})

    @override
    def put(self, event: str | Finish | HearthError) -> None:
        message: Message = {"of": self._number}
        if tokens := self.tokens[self._n_tokens :]:
            self._n_tokens += len(tokens)
            message["tokens"] = tokens
        if choices := self.choices[self._n_choices :]:
            self._n_choices += len(choices)
            message["choices"] = [choice_to_json(choice) for choice in choices]
        if self.prompt_choices and not self._has_prompt:
            self._has_prompt = True
            message["prompt_choices"] = [choice_to_json(choice) for choice in self.prompt_choices]
        if isinstance(event, str):
            message["text"] = event
            if isinstance(event, Mark):
                message["mark"] = True
        else:
            if isinstance(event, Finish):
                message["finish"] = to_json(event)
            else:
                message["error"] = error_to_json(event)
            message["left"], self._has_left = to_json(self.spent), True
        self._outbox.put(message)

    @override
    def leave(self) -> None:
        if not self._has_left:
            self._outbox.put({"of": self._number, "left": to_json(self.spent)})
