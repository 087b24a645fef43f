"""Sampling the next token of one sequence: what has to come, what may come, and the model's choice of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from services.backend.types import Constraint, GenerationRequest, TokenChoice
from services.engine.llama.batch import logits_row
from services.engine.llama.chain import SamplerChain
from services.engine.llama.constraint import Matcher
from services.engine.llama.limits import TokenLimits
from services.engine.llama.logprobs import choice_of
from services.engine.llama.progress import Shown
from services.engine.llama.steering import Steering
from services.engine.llama.vocabulary import TokenText, Vocabulary

# Seconds of CPU that a constraint may take over one token: all sequences wait meanwhile, so the answer then ends.
SLOWEST = 1.0


class Sampled(NamedTuple):
    """A token that was sampled, its text, and its choice, where the request asks for that.

    `parts` are the bytes that the answer shows by now, of this token and of some before it, cut where a thought begins or
    ends; None: all of the token's, which is no part of a thought.
    """

    token: int
    known: TokenText
    parts: Shown | None
    choice: TokenChoice | None


class ChainSampler:
    """One sequence's sampler. Made on any thread, then owned by the engine's.

    A constraint checks the token that the model chooses, and filters the whole vocabulary only if it refuses that one.
    """

    def __init__(
        self,
        context: Any,
        vocabulary: Vocabulary,
        request: GenerationRequest,
        matcher: Callable[[Constraint], Matcher],
    ) -> None:
        """`matcher` makes a constraint's. Raises InvalidRequest for what that refuses, and for tokens that do not exist."""
        sampling = request.sampling
        self._context = context
        self._vocabulary = vocabulary
        self._n_top = sampling.n_top
        self._limits = TokenLimits(vocabulary, request)
        self._steering: Steering | None = None
        if sampling.constraint or request.thoughts:
            self._steering = Steering(request, vocabulary, matcher)
        self._chain = SamplerChain(context, vocabulary, request)
        self._is_slow = False

    @property
    def is_over(self) -> bool:
        """True if the answer ends here, since nothing more fits its constraint."""
        return self._steering is not None and self._steering.is_over

    @property
    def is_cut(self) -> bool:
        """True if an answer that ended here would not be whole."""
        return self._steering is not None and self._steering.is_cut

    @property
    def was_closed(self) -> bool:
        """True if the text of the constraint was closed by force, so that its end is not the model's own."""
        return self._steering is not None and self._steering.was_closed

    @property
    def n_thought_tokens(self) -> int:
        """The number of tokens of thoughts so far."""
        return self._steering.n_thought_tokens if self._steering else 0

    @property
    def rest(self) -> Shown:
        """What of the tokens so far is not shown yet: if the answer ends here, the end of a thought."""
        return self._steering.rest if self._steering else ()

    def stop_thinking(self) -> None:
        """End the open thought at the next token, and every later one as soon as it begins."""
        if self._steering:
            self._steering.stop_thinking()

    def resume(self, token: int, left: int) -> Sampled:
        """Accept a token that another engine sampled, of `left` more then.

        Raises InvalidRequest if the constraint does not allow it.
        """
        parts = self._steering.resume(token, left) if self._steering else None
        self._chain.skip()
        self._chain.accept(token)
        known = self._vocabulary.known(token)
        self._limits.add(known.written)
        return Sampled(token, known, parts, None)

    def sample(self, row: int, left: int) -> Sampled | None:
        """Return the next token, after row `row` of the last batch; `left` tokens may follow, this one included.

        None if the constraint and the request's limits allow none, or the constraint takes too long.
        """
        logits, steering = self._logits(row), self._steering
        chosen = self._sample_steered(steering, row, logits, left) if steering else self._sample_free(row, logits)
        if chosen is None:
            return None
        known = self._vocabulary.known(chosen)
        self._limits.add(known.written)
        parts = steering.accept(chosen) if steering else None
        return Sampled(chosen, known, parts, self._choice(logits, chosen))

    def prompt_choice(self, row: int, token: int) -> TokenChoice:
        """Return how likely a prompt's token was, behind row `row` of the last batch."""
        return choice_of(self._vocabulary, self._logits(row), token, self._n_top or 0)

    def close(self) -> None:
        """Free the samplers."""
        self._chain.close()

    def _choice(self, logits: npt.NDArray[np.float32], token: int) -> TokenChoice | None:
        """The log probability of `token`, by the model alone, and of the top tokens; None unless requested."""
        if self._n_top is None:
            return None
        return choice_of(self._vocabulary, logits, token, self._n_top)

    def _logits(self, row: int) -> npt.NDArray[np.float32]:
        return logits_row(self._context, row, self._vocabulary.size)

    def _sample_free(self, row: int, logits: npt.NDArray[np.float32]) -> int | None:
        """Sample where nothing constrains the answer; the token is accepted by the chain."""
        masked = self._limits.masked(logits)
        if masked is logits:
            return self._chain.sample(row, logits)
        token = self._chain.choose_masked(masked)
        if token is not None:
            self._chain.accept(token)
        return token

    def _sample_steered(self, steering: Steering, row: int, logits: npt.NDArray[np.float32], left: int) -> int | None:
        due = steering.due(left)
        if due is not None:
            self._chain.skip()
            self._chain.accept(due)
            return due
        if not steering.is_constrained:
            return self._sample_free(row, logits)
        if self._is_slow:
            return None
        started = time.thread_time()
        token = self._choose(steering, logits)
        settled = None if token is None else steering.settle(token, left)
        self._is_slow = time.thread_time() - started > SLOWEST
        if settled is not None:
            self._chain.accept(settled)
        return settled

    def _choose(self, steering: Steering, logits: npt.NDArray[np.float32]) -> int | None:
        masked = self._limits.masked(logits)
        token = self._chain.choose(logits) if masked is logits else self._chain.choose_masked(masked)
        if token is None or steering.allows(token):
            return token
        if masked is logits:
            masked = logits.copy()
        steering.mask(masked)
        allowed = np.flatnonzero(masked > -np.inf).astype(np.int32)
        return self._chain.choose_among(masked, allowed) if len(allowed) else None
