"""One answer in flight: its text as it comes, and at the end how it came about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from services.answers.admission import Poll
from services.backend.protocols import Generation
from services.backend.types import Finish, TokenChoice
from services.errors import EngineFailure
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
        """`finished` is called with the whole text, and returns the summary; `end` releases everything that is held.

        `model` is the profile's name, or the file's where none is used.
        """
        self.model = model
        self._generation = generation
        self._poll = poll
        self._trims = trims
        self._finished = finished
        self._end = end
        self.summary: dict[str, Any] = {}
        """After the last chunk: the whole answer, and how it came about."""

    @property
    def queue_position(self) -> int | None:
        """The generation's position in the queue: 0 once it has a slot, None before the position is known."""
        return self._generation.queue_position

    @property
    def choices(self) -> list[TokenChoice]:
        """How the tokens so far were chosen, where `Sampling.n_top` asks for it."""
        return self._generation.choices

    @property
    def finish(self) -> Finish:
        """How it ended, after the last chunk."""
        return finish_of(self._generation)

    def chunks(self) -> Iterator[str]:
        """Yield the text as it comes, without white space at its ends, and "" while there is none.

        The exchange is stored before the iteration ends. Raises as `Generation.chunks` does, and StorageFailed.
        """
        parts = []
        chunks = self._generation.chunks(self._poll)
        for chunk in trim(chunks) if self._trims else chunks:
            parts.append(chunk)
            yield chunk
        self.summary = self._finished("".join(parts))

    def whole(self) -> str:
        """Return the whole text, and close the answer. Raises as `chunks` does."""
        try:
            return "".join(self.chunks())
        finally:
            self.close()

    def close(self) -> None:
        """Release the session and the model; cancel what is not finished. Calling it again does nothing."""
        self._end.close()


def finish_of(generation: Generation) -> Finish:
    """Return how a generation ended. Raises EngineFailure where it does not say."""
    if generation.finish is None:
        raise EngineFailure("the engine ended the answer without saying why")
    return generation.finish


def summary(text: str, session_id: int | None, chosen: Chosen, generation: Generation) -> dict[str, Any]:
    """Return the whole answer and how it came about, as /answer's reply has it."""
    finish = asdict(finish_of(generation))
    return {
        "result": text,
        "session_id": session_id,
        "model": chosen.profile.model,
        "profile": chosen.name,
        "finish_reason": finish["reason"],
        "usage": {name: finish[name] for name in ("prompt_tokens", "cached_tokens", "completion_tokens")},
        "timings": finish["timings"],
    }


def trim(chunks: Iterable[str]) -> Iterator[str]:
    """Yield the same text without white space at its beginning and end. Only chunks that came empty are empty."""
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
