"""One answer under way: its text as it comes, and at the end how it came about."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from services.answers.admission import Poll, Slot
from services.answers.request import Question
from services.backend.protocols import Generation
from services.backend.types import Finish, TokenChoice
from services.errors import EngineFailure, Unavailable
from services.models.profile import Chosen


class Answer:
    """Owned by the thread that opened it, which must close it."""

    def __init__(
        self,
        generation: Generation,
        poll: Poll,
        trims: bool,
        finished: Callable[[str], dict[str, Any]],
        end: ExitStack,
        model: str,
    ) -> None:
        self.model = model
        """The profile's name, or the file's where none is used."""
        self._generation = generation
        self._poll = poll
        self._trims = trims
        self._finished = finished
        self._end = end
        self.summary: dict[str, Any] = {}
        """After the last chunk: the whole answer, and how it came about."""

    @property
    def queue_position(self) -> int | None:
        """See `Generation.queue_position`."""
        return self._generation.queue_position

    @property
    def choices(self) -> list[TokenChoice]:
        """See `Generation.choices`."""
        return self._generation.choices

    @property
    def finish(self) -> Finish:
        """How it ended, after the last chunk."""
        return finish_of(self._generation)

    def chunks(self) -> Iterator[str]:
        """The text as it comes, without white space at its ends, and "" while there is none to give.

        The exchange is stored before the iteration ends.

        Raises what `Generation.chunks` raises, and StorageFailed.
        """
        parts = []
        chunks = self._generation.chunks(self._poll)
        for chunk in trim(chunks) if self._trims else chunks:
            parts.append(chunk)
            yield chunk
        self.summary = self._finished("".join(parts))

    def whole(self) -> str:
        """The whole text, and the end. Raises what `chunks` raises."""
        try:
            return "".join(self.chunks())
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the session and the model; cancel what is not finished. Calling it again does nothing."""
        self._end.close()


class Deadline:
    """How long one answer may take. Owned by the thread that waits for it."""

    def __init__(self, poll: Poll, seconds: float, slot: Slot) -> None:
        """`slot` is what it may have to give up as long as it has not begun."""
        self._poll = poll
        self._seconds = seconds
        self.slot = slot
        self._ends = time.monotonic() + seconds
        self._generation: Generation | None = None
        self._checks: list[Poll] = []

    def anew(self, slot: Slot | None = None) -> Deadline:
        """The same from now on, for the same caller."""
        return Deadline(self._poll, self._seconds, slot or self.slot)

    def watch(self, check: Poll) -> None:
        """Have `check` called too while waiting, which raises to give up."""
        self._checks.append(check)

    def attach(self, generation: Generation) -> None:
        """This is what is to end in time."""
        self._generation = generation

    def poll(self) -> None:
        """What is called while waiting: at the end an answer that has begun is stopped, and keeps what it has said.

        Raises Unavailable where nothing has been said yet, or where it has to give way before it begins, and what the
        caller's own and what is watched raise.
        """
        has_said = self._generation is not None and self._generation.spent.completion_tokens > 0
        # In a slot of the engine it has begun, though it says nothing yet.
        if has_said or (self._generation is not None and self._generation.queue_position == 0):
            self.slot.begin()
        self.look()
        if time.monotonic() < self._ends:
            return
        if self._generation is None or not has_said:
            what = f"there was no answer within {self._seconds:g} seconds"
            raise Unavailable(what, code="timeout", retry_after=10)
        self._generation.stop()

    def look(self) -> None:
        """Raise what the caller's own and what is watched raise, and Unavailable where it has to give way."""
        self._poll()
        for check in self._checks:
            check()
        self.slot.check()


def finish_of(generation: Generation) -> Finish:
    """How a generation ended. Raises EngineFailure where it does not say."""
    if generation.finish is None:
        raise EngineFailure("the engine ended the answer without saying why")
    return generation.finish


def summary(text: str, question: Question, chosen: Chosen, generation: Generation) -> dict[str, Any]:
    """The whole answer, as /answer tells it."""
    finish = asdict(finish_of(generation))
    return {
        "result": text,
        "session_id": question.session_id,
        "model": chosen.profile.model,
        "profile": chosen.name,
        "finish_reason": finish["reason"],
        "usage": {name: finish[name] for name in ("prompt_tokens", "cached_tokens", "completion_tokens")},
        "timings": finish["timings"],
    }


def trim(chunks: Iterable[str]) -> Iterator[str]:
    """The same text without white space at its beginning and end. Only pieces that came empty are empty."""
    held, begun = "", False
    for chunk in chunks:
        if not chunk:
            yield ""
            continue
        text = held + chunk if begun else (held + chunk).lstrip()
        body = text.rstrip()
        held = text[len(body) :]
        if body:
            begun = True
            yield body
