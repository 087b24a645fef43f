"""A generation as the engine delivers it: text, tokens, and how it ended, put into its caller's queue."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from typing_extensions import override

from services.backend.delivery import Delivery
from services.backend.types import Finish, FinishReason, Mark, Spent
from services.engine.llama.progress import Part
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
        self._text = TextAssembler(request.stop, request.marks, request.keeps_stop)
        # The other engine may have delivered more than its tokens allow, as at an end, or less.
        self._n_delivered = request.delivered
        """Characters to come that the caller has already; those of marks count too."""
        self._is_behind_thought = False
        """True if nothing but white space has come behind the last thought."""

    def replay(self) -> FinishReason | None:
        """Go through the tokens of another engine; return why the answer ends with them, if it does.

        Raises InvalidRequest if the request's constraint does not allow them.
        """
        sequence = self.sequence
        assert sequence.sampler is not None
        tokens, most = sequence.request.resume_tokens, sequence.request.max_tokens
        for n, token in enumerate(tokens):
            self._deliver(self._read(sequence.sampler.resume(token, most - n), n + 1))
        self.flush()
        return sequence.ending(self._text.stopped or (bool(tokens) and tokens[-1] in sequence.request.stop_tokens))

    def accept(self, sampled: Sampled) -> bool:
        """Deliver a token and the text that its bytes complete; return whether a stop string or token ends the answer."""
        request = self.sequence.request
        is_stop = sampled.token in request.stop_tokens
        if is_stop and not request.keeps_stop:
            self.note(sampled)
            return True
        pieces = self._read(sampled, self.sequence.n_generated)
        if len(pieces) > 1 and sampled.known.mark:
            # The text before a special token belongs to the choices before it.
            self._deliver(pieces[:-1])
            pieces = pieces[-1:]
        self.tokens.append(sampled.token)
        if sampled.choice:
            self.choices.append(sampled.choice)
        self._deliver(pieces)
        return is_stop or self._text.stopped

    def note(self, sampled: Sampled) -> None:
        """Take note of the token that ends the answer and is no part of it, if the choices are of the prompt's tokens too.

        Evaluations that score a text sum up all choices but the last, which is of a token behind the text.
        """
        if sampled.choice and self.sequence.request.prompt_logprobs:
            self.choices.append(sampled.choice)

    def _read(self, sampled: Sampled, n_generated: int) -> list[str]:
        """The text that a token completes, the answer's token number `n_generated`, and marks."""
        known = sampled.known
        # Before so many tokens no stop string ends the answer.
        searches = n_generated >= self.sequence.request.sampling.min_tokens
        if sampled.parts is None:
            return self._text.add(known.piece, known.mark, searches)
        pieces = []
        for part in sampled.parts:
            n = self._n_blank(part)
            if n:
                pieces += self._text.add(part.data[:n], None, False)
            if n < len(part.data) or not n:
                pieces += self._text.add(part.data[n:], part.mark, searches and not part.is_thought)
        return pieces

    def _n_blank(self, part: Part) -> int:
        """The bytes of white space in front of an answer behind a thought: it is not shown, so no stop string is in it."""
        if part.is_thought:
            self._is_behind_thought = True
        if part.is_thought or part.mark or not self._is_behind_thought:
            return 0
        text = part.data.lstrip()
        self._is_behind_thought = not text
        return len(part.data) - len(text)

    def end(self, finish: Finish) -> None:
        """Deliver the rest of the text, and how the answer ended."""
        if finish.reason != "cancelled":
            # Half a character, or what may begin a stop string, was never delivered, so nothing is lost.
            for part in self.sequence.rest:
                self._deliver(self._text.add(part.data, part.mark, False))
            self._deliver(self._text.flush())
        self.put(replace(finish, stop_string=self._text.stop_string) if finish.reason == "stop" else finish)

    def move(self, queue_position: int) -> None:
        """Take note of the queue position, 0 once the sequence has a slot."""
        self.queue_position = queue_position

    def read(self, n_read: int) -> None:
        """Take note of how many tokens of the prompt are read, before it is read to its end."""
        self.n_read = n_read

    @property
    @override
    def spent(self) -> Spent:
        return self.sequence.spent

    def flush(self) -> None:
        """Hand on what was put in this step: once for all sequences, since that wakes a thread."""

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
