"""A generation in the engine's process, whose events go to the server over the socket."""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from typing_extensions import override

from services.backend.types import Finish
from services.engine.loop.generation import EngineGeneration
from services.engine.loop.sequence import Sequence
from services.engine.process.updates import Update
from services.errors import HearthError

# An eye sees no steps between texts that come so soon after each other.
PAUSE = 0.05
# The first tokens of an answer are sent at once: before the first word come blanks and markers, which are not shown.
EAGER_TOKENS = 8


class Outbox:
    """Updates on their way to the thread that sends them, which sends all that have come at once. Any thread may put.

    Each message wakes a dozen threads of the server and its client, and every one of them holds up a thread that computes:
    so text that can wait is sent once in `PAUSE` seconds.
    """

    def __init__(self) -> None:
        self._updates: deque[Update] = deque()
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._is_awake = False
        """True if the sender will look at the updates by itself."""
        self._due = 0.0

    def put(self, update: Update, is_urgent: bool) -> None:
        """Add an update; send it at once if it is urgent."""
        self._updates.append(update)
        # In this order, and `take` in the other: a sender that is awake finds the update. Waking it takes 30 µs.
        if is_urgent or not self._is_awake:
            self._is_awake = True
            self._wakes.put(None)

    def take(self) -> list[Update]:
        """Wait for updates; return all that have come, which may be none. For one thread."""
        self._await(max(0.0, self._due - time.monotonic()))
        self._is_awake = False
        if not self._updates:
            self._await(None)
        self._is_awake = True
        self._due = time.monotonic() + PAUSE
        return [self._updates.popleft() for _ in range(len(self._updates))]

    def _await(self, seconds: float | None) -> None:
        """Wait to be woken, at most so long."""
        with suppress(queue.Empty):
            self._wakes.get(timeout=seconds)


class OutgoingGeneration(EngineGeneration):
    """Puts its events into the outbox of the process, under its number. On the engine's thread, but for its making."""

    def __init__(self, sequence: Sequence, wake: Callable[[], None], number: int, outbox: Outbox) -> None:
        super().__init__(sequence, wake)
        self._number = number
        self._outbox = outbox
        self._pieces: list[tuple[str, int]] = []
        self._end: Finish | HearthError | None = None
        """What was put since the last update."""
        self._n_tokens = self._n_choices = 0
        """The numbers of tokens and choices that are sent."""
        self._has_prompt = False
        """True once the choices of the prompt are."""

    @override
    def move(self, queue_position: int) -> None:
        if queue_position != self.queue_position:
            self.queue_position = queue_position
            self._outbox.put(Update(self._number, queue_position=queue_position), is_urgent=True)

    @override
    def read(self, n_read: int) -> None:
        self._outbox.put(Update(self._number, n_read=n_read), is_urgent=False)

    @override
    def put(self, event: str | Finish | HearthError) -> None:
        if isinstance(event, str):
            self._pieces.append((event, len(self.choices) - self._n_choices))
        else:
            self._end = event

    @override
    def flush(self) -> None:
        if self._pieces:
            is_urgent = self._n_tokens < EAGER_TOKENS
            self._outbox.put(self._update(), is_urgent)

    @override
    def leave(self) -> None:
        self._outbox.put(self._update(has_left=True), is_urgent=True)

    def _update(self, has_left: bool = False) -> Update:
        """Take what has come since the last update."""
        tokens, choices, pieces = self.tokens[self._n_tokens :], self.choices[self._n_choices :], self._pieces
        self._n_tokens += len(tokens)
        self._n_choices += len(choices)
        self._pieces = []
        prompt_choices = () if self._has_prompt else tuple(self.prompt_choices)
        self._has_prompt = self._has_prompt or bool(prompt_choices)
        left = self.spent if has_left else None
        return Update(self._number, tokens, choices, prompt_choices, pieces, self._end, left)
