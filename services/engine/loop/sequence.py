"""One request's progress through the engine, and the generation that its caller reads."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from services.backend.delivery import Delivery
from services.backend.types import Finish, FinishReason, GenerationRequest, Spent, TokenChoice
from services.engine.loop.text import TextAssembler
from services.errors import HearthError


class TokenSampler(Protocol):
    """Chooses the next token from the logits of one row of the last batch."""

    def sample(self, row: int, left: int) -> int | None:
        """The next token of `left` at most, after the token in row `row` of the batch; None: there can be none."""
        ...

    def choice(self, row: int, token: int) -> TokenChoice | None:
        """How that token was chosen, where the request asks for it."""
        ...

    def close(self) -> None:
        """Free it."""
        ...


class Sequence:
    """The tokens of one request: those that are known, and how many of them are computed.

    Made by the caller's thread, then owned by the engine's; only `cancelled` and `stopped` are set from outside.
    """

    def __init__(self, request: GenerationRequest, generation: EngineGeneration) -> None:
        self.request = request
        self.generation = generation
        self.tokens = [*request.tokens, *request.resume_tokens]
        self.n_computed = 0
        self.n_cached = 0
        self.slot: int | None = None
        self.pause_at = 0
        """Reading stops once for what is computed up to here to be copied; 0: nowhere."""
        self.sampler: TokenSampler | None = None
        self.text = TextAssembler(request.stop)
        self.cancelled = False
        """Whether its caller has left."""
        self.cpu_seconds = 0.0
        """Its share of the CPU's time in the steps so far."""
        self.stopped = False
        """Whether its caller wants no more than there is."""
        self._clock = _Timings()
        self._undelivered = 0

    @property
    def account(self) -> str:
        """Whose share of the slots it takes."""
        return self.request.account or self.request.owner

    @property
    def n_pending(self) -> int:
        """Known tokens that are not computed yet: the rest of the prompt, or the one that was sampled last."""
        return len(self.tokens) - self.n_computed

    @property
    def n_readable(self) -> int:
        """Pending tokens that may be computed in one step."""
        return self.pause_at - self.n_computed if self.n_computed < self.pause_at else self.n_pending

    @property
    def n_read(self) -> int:
        """Tokens computed for this request so far: all but those that the slot's KV cache held already."""
        return self.n_computed - self.n_cached

    @property
    def is_decoding(self) -> bool:
        """Whether the prompt is read, so that each step adds a token."""
        return self.n_generated > len(self.request.resume_tokens)

    @property
    def n_generated(self) -> int:
        """How many tokens the answer has so far, the one that ends it included."""
        return len(self.tokens) - len(self.request.tokens)

    def replay(self, piece: Callable[[int], bytes]) -> FinishReason | None:
        """Go through the tokens that were given, which the caller knows; return why the answer ends with them, if it does.

        `piece` gives a token's bytes. Before the sequence is in the engine.
        """
        said = "".join(self.text.add(piece(token)) for token in self.request.resume_tokens)
        # The other engine may have said more, as at an end, or less than can be said of its tokens.
        self._undelivered = max(self.request.delivered - len(said), 0)
        if said[self.request.delivered :]:
            self.generation.put(said[self.request.delivered :])
        if self.text.stopped:
            return "stop"
        return "length" if self.n_left < 1 else None

    def start(self, slot: int, n_cached: int) -> None:
        """Take a slot whose KV cache holds the first `n_cached` tokens already."""
        self.slot, self.n_cached, self.n_computed = slot, n_cached, n_cached
        self._clock.mark("started")

    @property
    def n_left(self) -> int:
        """How many tokens may still be sampled."""
        return self.request.max_tokens - self.n_generated

    @property
    def first_token_seconds(self) -> float:
        """For how long its caller waited for the first token, which has come."""
        return self._clock.between("submitted", "first_token")

    @property
    def spent(self) -> Spent:
        """What it has cost so far."""
        n_read = min(self.n_computed, len(self.request.tokens))
        return Spent(n_read, min(self.n_cached, n_read), self.n_generated, round(self.cpu_seconds, 6))

    def accept(self, token: int, piece: bytes, choice: TokenChoice | None) -> FinishReason | None:
        """Take a sampled token and deliver its text; return why the answer ends with it, where it does."""
        self.tokens.append(token)
        self.generation.tokens.append(token)
        if choice:
            self.generation.choices.append(choice)
        self._clock.mark("first_token")
        self.deliver(self.text.add(piece))
        if self.text.stopped:
            return "stop"
        return "length" if self.n_generated >= self.request.max_tokens else None

    def end(self, token: int | None) -> None:
        """Take the token by which the model itself ends its answer; None where it has no token for that."""
        if token is not None:
            self.tokens.append(token)
        self._clock.mark("first_token")

    def deliver(self, text: str) -> None:
        """Hand text to the caller, but for what it has already."""
        known = min(self._undelivered, len(text))
        self._undelivered -= known
        if text[known:]:
            self.generation.put(text[known:])

    def finish(self, reason: FinishReason) -> float:
        """Deliver what is left, and how it ended; return for how many seconds it held its slot."""
        # What it was stopped before took no time.
        self._clock.mark("started")
        self._clock.mark("first_token")
        if reason != "cancelled":
            # Of half a character, or of what may begin a stop string, nothing is lost that was said.
            self.deliver(self.text.flush())
        timings = self._clock.timings()
        self.generation.put(
            Finish(
                reason=reason,
                prompt_tokens=len(self.request.tokens),
                cached_tokens=self.n_cached,
                completion_tokens=self.n_generated,
                timings=timings,
            )
        )
        return (timings["total_ms"] - timings["queued_ms"]) / 1000

    def fail(self, error: HearthError) -> None:
        """Tell the caller that there will be no answer."""
        self.generation.put(error)


class EngineGeneration(Delivery):
    """A request's way out of the engine; its caller may hold it itself."""

    def __init__(self, request: GenerationRequest, wake: Callable[[], None]) -> None:
        super().__init__()
        self.sequence = Sequence(request, self)
        self._wake = wake

    @property
    def spent(self) -> Spent:
        """See `Generation.spent`."""
        return self.sequence.spent

    def leave(self) -> None:
        """The sequence has left the engine, after whatever it had to say."""

    def stop(self) -> None:
        """See `Generation.stop`."""
        self.sequence.stopped = True
        self._wake()

    def cancel(self) -> None:
        """See `Generation.cancel`."""
        self.sequence.cancelled = True
        self._wake()


class _Timings:
    """When each thing first happened to a sequence."""

    def __init__(self) -> None:
        self._marks = {"submitted": time.perf_counter()}

    def mark(self, what: str) -> None:
        self._marks.setdefault(what, time.perf_counter())

    def between(self, first: str, then: str) -> float:
        """The seconds from one to the other, both of which have happened."""
        return self._marks[then] - self._marks[first]

    def timings(self) -> dict[str, float]:
        """Milliseconds: waiting in the queue, reading the prompt, both together, the tokens after the first, and all."""
        self.mark("ended")
        spans = {
            "queued_ms": ("submitted", "started"),
            "prompt_ms": ("started", "first_token"),
            "first_token_ms": ("submitted", "first_token"),
            "generation_ms": ("first_token", "ended"),
            "total_ms": ("submitted", "ended"),
        }
        return {name: round(self.between(*span) * 1000, 1) for name, span in spans.items()}
