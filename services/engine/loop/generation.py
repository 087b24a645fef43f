"""A generation as the engine delivers it: text, tokens, and how it ended, put into its caller's queue."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from typing_extensions import override

from services.backend.delivery import Delivery
from services.backend.types import Finish, FinishReason, Mark, Spent
from services.engine.llama.sampling import Sampled
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
        request = sequence.request
        self._text = TextAssembler(request.stop, request.marks)
        # The other engine may have delivered more than its tokens allow, as at an end, or less.
        self._n_delivered = request.delivered
        """Characters to come that the caller has already; those of marks count too."""

    def replay(self) -> FinishReason | None:
        """Go through the tokens of another engine; return why the answer ends with them, if it does.

        Raises InvalidRequest if the request's constraint does not allow them.
        """
        sequence = self.sequence
        assert sequence.sampler is not None
        tokens, most = sequence.request.resume_tokens, sequence.request.max_tokens
        for n, token in enumerate(tokens):
            self._deliver(self._read(sequence.sampler.resume(token, most - n), n + 1))
        return sequence.ending(self._text.stopped)

    def accept(self, sampled: Sampled) -> bool:
        """Deliver a token and the text that its bytes complete; return whether a stop string ends the answer."""
        pieces = self._read(sampled, self.sequence.n_generated)
        if len(pieces) > 1 and sampled.known.mark:
            # The text before a special token belongs to the choices before it.
            self._deliver(pieces[:-1])
            pieces = pieces[-1:]
        self.tokens.append(sampled.token)
        if sampled.choice:
            self.choices.append(sampled.choice)
        self._deliver(pieces)
        return self._text.stopped

    def _read(self, sampled: Sampled, n_generated: int) -> list[str]:
        """The text that a token completes, the answer's token number `n_generated`, and marks."""
        known = sampled.known
        # Before so many tokens no stop string ends the answer.
        searches = n_generated >= self.sequence.request.sampling.min_tokens
        if sampled.parts is None:
            return self._text.add(known.piece, known.mark, searches)
        pieces = []
        for data, is_thought in sampled.parts:
            pieces += self._text.add(data, known.mark, searches and not is_thought)
        return pieces

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
    def stop_thinking(self) -> None:
        # The next step heeds it.
        self.sequence.thinks_no_more = True

    @override
    def cancel(self) -> None:
        self.sequence.cancelled = True
        self._wake()

    def _deliver(self, pieces: Iterable[str]) -> None:
        """Put text and marks, but for what the caller has already."""
        for piece in pieces:
            known = min(self._n_delivered, len(piece))
            self._n_delivered -= known
            if not known:
                self.put(piece)
            elif piece[known:] and not isinstance(piece, Mark):
                self.put(piece[known:])
