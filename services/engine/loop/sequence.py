"""One request's progress through the engine: state for the scheduler, which knows nothing of the caller."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Sequence as Many
from typing import Protocol

from services.backend.types import Finish, FinishReason, GenerationRequest, Spent, TokenChoice
from services.engine.llama.progress import Shown
from services.engine.llama.sampling import Sampled
from services.engine.loop.ngrams import NGrams

# The most tokens of a prompt that are read at once where each one's logits are wanted: a row may take a megabyte.
MOST_ROWS = 32


class TokenSampler(Protocol):
    """Chooses the next token from the logits of one row of the last batch."""

    @property
    def is_over(self) -> bool:
        """True if the answer ends behind the tokens so far."""
        ...

    @property
    def is_cut(self) -> bool:
        """True if an answer that ended here would not be whole."""
        ...

    @property
    def was_closed(self) -> bool:
        """True if the text of a constraint was closed by force."""
        ...

    @property
    def n_thought_tokens(self) -> int:
        """The number of tokens of thoughts so far."""
        ...

    @property
    def rest(self) -> Shown:
        """What of the tokens so far is not shown yet: if the answer ends here, the end of a thought."""
        ...

    def sample(self, row: int, left: int) -> Sampled | None:
        """Return the next token of `left` at most, after the token in row `row` of the batch; None: there can be none."""
        ...

    def resume(self, token: int, left: int) -> Sampled:
        """Accept a token that another engine sampled, of `left` more then. Raises InvalidRequest if it does not fit."""
        ...

    def prompt_choice(self, row: int, token: int) -> TokenChoice:
        """Return how likely a prompt's token was, behind row `row` of the batch."""
        ...

    def stop_thinking(self) -> None:
        """End the open thought at the next token, and every later one as soon as it begins."""
        ...

    def close(self) -> None:
        """Free its memory."""
        ...


class Sequence:
    """The tokens of one request: those that are known, and how many of them are computed.

    Made by the caller's thread, then owned by the engine's; only `cancelled`, `stopped` and `thinks_no_more` are set by
    other threads.
    """

    def __init__(self, request: GenerationRequest) -> None:
        self.request = request
        self.tokens = [*request.tokens, *request.resume_tokens]
        self.n_computed = 0
        self.n_cached = 0
        self.slot: int | None = None
        self.head_at = 0
        """Reading pauses here for a template's head to be shared; 0: nowhere."""
        self.borders: Many[int] = ()
        """The ends of messages in the prompt, for a model that needs checkpoints."""
        self.pauses: Many[int] = ()
        """Reading pauses at these positions, ascending, for checkpoints to be made, and at `head_at`."""
        self.sampler: TokenSampler | None = None
        self.ngrams: NGrams | None = None
        """For drafts of what comes next; None: there are none."""
        self.n_drafted = self.n_draft_accepted = 0
        """The tokens that were computed ahead, and how many of them came true."""
        self.cancelled = False
        """True once its caller wants nothing more."""
        self.stopped = False
        """True once its caller wants no more text."""
        self.thinks_no_more = False
        """True once its caller wants no more thoughts."""
        self.rest: Shown = ()
        """The parts that were not shown yet when it ended."""
        self.cpu_seconds = 0.0
        """Its share of the CPU's time in the steps so far."""
        self._timings = _Timings()

    @property
    def account(self) -> str:
        """The account whose share of the slots it takes."""
        return self.request.account or self.request.owner

    @property
    def n_pending(self) -> int:
        """Known tokens that are not computed yet: the rest of the prompt, or the one that was sampled last."""
        return len(self.tokens) - self.n_computed

    @property
    def n_readable(self) -> int:
        """Pending tokens that may be computed in one step."""
        if self.wants_rows:
            return min(self.n_pending, MOST_ROWS)
        later = bisect_right(self.pauses, self.n_computed)
        ends = (len(self.tokens), self.head_at, *self.pauses[later : later + 1])
        return min(end for end in ends if end > self.n_computed) - self.n_computed

    @property
    def wants_rows(self) -> bool:
        """True if the logits after each pending token are wanted, and not only after the last one."""
        return self.request.prompt_logprobs and not self.is_decoding

    @property
    def is_decoding(self) -> bool:
        """True if the prompt is read, so that each step adds a token."""
        return self.n_generated > len(self.request.resume_tokens)

    @property
    def n_generated(self) -> int:
        """Tokens of the answer so far, the one that ends it included."""
        return len(self.tokens) - len(self.request.tokens)

    @property
    def n_left(self) -> int:
        """Tokens that may still be sampled."""
        return self.request.max_tokens - self.n_generated

    @property
    def spent(self) -> Spent:
        """The cost so far."""
        n_read = min(self.n_computed, len(self.request.tokens))
        return Spent(n_read, min(self.n_cached, n_read), self.n_generated, round(self.cpu_seconds, 6))

    @property
    def first_token_seconds(self) -> float:
        """The seconds from its submission to its first token, which has come."""
        return self._timings.between("submitted", "first_token")

    def start(self, slot: int, n_cached: int) -> None:
        """Occupy a slot whose KV cache holds the first `n_cached` tokens already."""
        self.slot, self.n_cached, self.n_computed = slot, n_cached, n_cached
        self._timings.mark("started")

    def append(self, token: int | None) -> None:
        """Add a sampled token; None where the grammar allows none."""
        if token is not None:
            self.tokens.append(token)
            if self.ngrams:
                self.ngrams.advance()
        self._timings.mark("first_token")

    def ending(self, stopped: bool) -> FinishReason | None:
        """Return why the answer ends behind its tokens, if it does; `stopped`: a stop string or the model has ended it."""
        sampler = self.sampler
        if stopped or (sampler and sampler.is_over):
            # Asked only here: a grammar's answer takes a while, and this is called for each token.
            return "length" if sampler and sampler.is_cut else "stop"
        return "length" if self.n_left < 1 else None

    def finish(self, reason: FinishReason) -> Finish:
        """End now, with the sampler still there; return how it ended."""
        self.rest = self.sampler.rest if self.sampler else ()
        # A phase that it was stopped before took no time.
        self._timings.mark("started")
        self._timings.mark("first_token")
        return Finish(
            reason=reason,
            prompt_tokens=len(self.request.tokens),
            cached_tokens=self.n_cached,
            completion_tokens=self.n_generated,
            reasoning_tokens=self.sampler.n_thought_tokens if self.sampler else 0,
            timings={**self._timings.milliseconds(), **self._drafts()},
            was_closed=self.sampler is not None and self.sampler.was_closed,
        )

    def _drafts(self) -> dict[str, float]:
        """The counts of drafted tokens, as llama-server names them; none where no draft was made."""
        return {"draft_n": self.n_drafted, "draft_n_accepted": self.n_draft_accepted} if self.n_drafted else {}


class _Timings:
    """The time of each event of a sequence."""

    def __init__(self) -> None:
        self._marks = {"submitted": time.perf_counter()}

    def mark(self, event: str) -> None:
        """Note the time of an event, where it has not happened before."""
        self._marks.setdefault(event, time.perf_counter())

    def between(self, first: str, then: str) -> float:
        """Return the seconds from one event to another, both of which have happened."""
        return self._marks[then] - self._marks[first]

    def milliseconds(self) -> dict[str, float]:
        """Mark the end; return the milliseconds of each phase: queued, prompt, both, the tokens after the first, all."""
        self.mark("ended")
        spans = {
            "queued_ms": ("submitted", "started"),
            "prompt_ms": ("started", "first_token"),
            "first_token_ms": ("submitted", "first_token"),
            "generation_ms": ("first_token", "ended"),
            "total_ms": ("submitted", "ended"),
        }
        return {name: round(self.between(*span) * 1000, 1) for name, span in spans.items()}
