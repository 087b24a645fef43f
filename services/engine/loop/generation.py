"""A generation as the engine delivers it: text, tokens, and how it ended, put into its caller's queue."""

from __future__ import annotations

from collections.abc import Callable

from typing_extensions import override

from services.backend.delivery import Delivery
from services.backend.types import Finish, FinishReason, Spent, TokenChoice
from services.engine.loop.sequence import Sequence
from services.engine.loop.text import TextAssembler


class EngineGeneration(Delivery):
    """One sequence's way out of the engine.

    Made by the thread that submits it, which alone calls `replay`. `stop`, `cancel` and `chunks` are for callers, the
    rest for the engine's thread.
    """

    def __init__(self, sequence: Sequence, wake: Callable[[], None]) -> None:
        """`wake` has the engine look at its sequences again."""
        super().__init__()
        self.sequence = sequence
        self._wake = wake
        self._text = TextAssembler(sequence.request.stop)
        self._n_delivered = 0
        """Characters to come that the caller has already."""

    def replay(self, piece: Callable[[int], bytes]) -> FinishReason | None:
        """Go through the tokens of another engine; return why the answer ends with them, if it does.

        `piece` gives a token's bytes.
        """
        request = self.sequence.request
        text = "".join(self._text.add(piece(token)) for token in request.resume_tokens)
        # The other engine may have delivered more, as at an end, or less than its tokens allow.
        self._n_delivered = max(request.delivered - len(text), 0)
        if text[request.delivered :]:
            self.put(text[request.delivered :])
        if self._text.stopped:
            return "stop"
        return "length" if self.sequence.n_left < 1 else None

    def accept(self, token: int, piece: bytes, choice: TokenChoice | None) -> bool:
        """Deliver a token and the text that its bytes, `piece`, complete; return whether a stop string ends the answer."""
        self.tokens.append(token)
        if choice:
            self.choices.append(choice)
        self._deliver(self._text.add(piece))
        return self._text.stopped

    def end(self, finish: Finish) -> None:
        """Deliver the rest of the text, and how the answer ended."""
        if finish.reason != "cancelled":
            # Half a character, or what may begin a stop string, was never delivered, so nothing is lost.
            self._deliver(self._text.flush())
        self.put(finish)

    def move(self, queue_position: int) -> None:
        """Take note of the queue position, 0 once the sequence has a slot."""
        self.queue_position = queue_position

    @property
    @override
    def spent(self) -> Spent:
        return self.sequence.spent

    def leave(self) -> None:
        """Take note that the sequence has left the engine, after its last event."""

    @override
    def stop(self) -> None:
        self.sequence.stopped = True
        self._wake()

    @override
    def cancel(self) -> None:
        self.sequence.cancelled = True
        self._wake()

    def _deliver(self, text: str) -> None:
        """Put text, but for what the caller has already."""
        known = min(self._n_delivered, len(text))
        self._n_delivered -= known
        if text[known:]:
            self.put(text[known:])
