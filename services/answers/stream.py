"""One answer in flight: its events as they come, and at the end how it came about."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from services.answers.admission import Poll
from services.answers.grounding import Given
from services.answers.trimming import trimmed
from services.backend.protocols import Generation
from services.backend.types import Finish, TokenChoice
from services.errors import EngineFailure
from services.models.profile import Chosen
from services.replies.events import Content, Event, Reply, ReplyBuilder
from services.replies.reader import Reader

_USAGE = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")


class Answer:
    """Owned by the thread that opened it, which must close it."""

    def __init__(
        self,
        generation: Generation,
        reader: Reader,
        poll: Poll,
        finished: Callable[[Reply, Finish], dict[str, Any]],
        end: ExitStack,
        model: str,
        trims: bool = True,
        trims_start: bool = True,
        n_prompt: int = 0,
        n_left_out: int = 0,
        given: Given | None = None,
    ) -> None:
        """`finished` is called with the whole reply and how it ended, and returns the summary.

        `end` releases everything that is held. `model` is the profile's name, or the file's where none is used.
        `trims`: white space at the ends is left out, at the content's beginning only if `trims_start`. `n_prompt` is the
        number of the prompt's tokens, `n_left_out` that of the turns of `AnswerRequest.history` which it leaves out.
        `given` has the passages of own files in the prompt; None: the request names none.
        """
        self.given = given
        self.n_prompt = n_prompt
        self.n_left_out = n_left_out
        self.model = model
        self._generation = generation
        self._reader = reader
        self._poll = poll
        self._trims = trims
        self._trims_start = trims_start
        self._finished = finished
        self._end = end
        self.reply = Reply()
        """After the last event: everything that the model wrote, taken apart."""
        self.summary: dict[str, Any] = {}
        """After the last event: the whole answer, and how it came about."""

    @property
    def queue_position(self) -> int | None:
        """The generation's position in the queue: 0 once it has a slot, None before the position is known."""
        return self._generation.queue_position

    @property
    def n_read(self) -> int:
        """The tokens of the prompt that are read so far; a prompt that is read at once stays at 0."""
        return self._generation.n_read

    @property
    def choices(self) -> list[TokenChoice]:
        """The choices of the tokens that were read so far, if `Sampling.n_top` asks for them."""
        return self.choices_from(0)

    @property
    def n_choices(self) -> int:
        """The number of `choices`."""
        return self._generation.n_choices

    def choices_from(self, first: int) -> list[TokenChoice]:
        """Return those of `choices` from number `first` on."""
        return self._generation.choices[first : self._generation.n_choices]

    @property
    def prompt_choices(self) -> Sequence[TokenChoice]:
        """The choices of the prompt's tokens but the first, once the text begins, if the request asks for them."""
        return self._generation.prompt_choices

    @property
    def finish(self) -> Finish:
        """The end of the generation, after the last event."""
        return finish_of(self._generation, self.reply)

    def events(self) -> Iterator[Event | None]:
        """Yield what the model writes as it comes, and None while there is nothing.

        The exchange is stored before the iteration ends. Raises as `Generation.chunks` does, and StorageFailed.
        """
        reply = ReplyBuilder()
        for event in trimmed(self._read(), self._trims_start) if self._trims else self._read():
            if event is not None:
                reply.add(event)
            yield event
        finish = self._generation.finish
        self.reply = reply.reply(finish is not None and finish.was_closed)
        self.summary = self._finished(self.reply, self.finish)

    def chunks(self) -> Iterator[str]:
        """Yield the content alone as it comes, and "" while there is none. Raises as `events` does."""
        for event in self.events():
            yield event.text if isinstance(event, Content) else ""

    def whole(self) -> str:
        """Return the whole content, and close the answer. Raises as `events` does."""
        try:
            return "".join(self.chunks())
        finally:
            self.close()

    def close(self) -> None:
        """Release the session and the model; cancel what is not finished. Calling it again does nothing."""
        self._end.close()

    def _read(self) -> Iterator[Event | None]:
        for piece in self._generation.chunks(self._poll):
            # A piece may only be the beginning of something, or its end.
            yield from (self._reader.add(piece) if piece else ()) or (None,)
        if self._reason != "stop":
            self._reader.cut()
        yield from self._reader.end()

    @property
    def _reason(self) -> str:
        """Why the generation ended, once the last piece has come."""
        return self._generation.finish.reason if self._generation.finish else "stop"


def finish_of(generation: Generation, reply: Reply) -> Finish:
    """Return how a generation of this reply ended: with a call that is not whole, it was cut.

    Raises EngineFailure if that is unknown.
    """
    if generation.finish is None:
        raise EngineFailure("the engine ended the answer without saying why")
    if reply.is_cut and generation.finish.reason == "stop":
        return replace(generation.finish, reason="length")
    return generation.finish


def summary(reply: Reply, session_id: int | None, chosen: Chosen, finish: Finish) -> dict[str, Any]:
    """Return the whole answer and how it came about, as /answer's reply has it."""
    return {
        "result": reply.content,
        **({"reasoning": reply.reasoning} if reply.reasoning else {}),
        **({"tool_calls": [call.described() for call in reply.calls]} if reply.calls else {}),
        "session_id": session_id,
        "model": chosen.profile.model,
        "profile": chosen.name,
        "finish_reason": finish.reason,
        "usage": {name: getattr(finish, name) for name in _USAGE},
        "timings": finish.timings,
    }
