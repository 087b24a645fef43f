"""Sampling the next token of one sequence: what has to come, what may come, and the model's choice of it."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import llama_cpp
import numpy as np
import numpy.typing as npt

from services.backend.thoughts import Parts
from services.backend.types import Constraint, GenerationRequest, TokenChoice
from services.engine.llama.chain import SamplerChain
from services.engine.llama.constraint import Matcher
from services.engine.llama.steering import Steering
from services.engine.llama.vocabulary import TokenText, Vocabulary

# Seconds of CPU that a constraint may take over one token: all sequences wait meanwhile, so the answer then ends.
SLOWEST = 1.0


class Sampled(NamedTuple):
    """A token that was sampled, its text, and its choice, where the request asks for that.

    `parts` are its bytes in the answer, cut where a thought begins or ends; None: no part of a thought.
    """

    token: int
    known: TokenText
    parts: Parts | None
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
        """`matcher` makes a constraint's. Raises InvalidRequest for what that refuses, and for an unknown token's bias."""
        sampling = request.sampling
        self._context = context
        self._vocabulary = vocabulary
        self._row = ctypes.c_float * vocabulary.size
        self._n_top = sampling.n_top
        self._steering: Steering | None = None
        constraint = sampling.constraint
        if constraint or request.thoughts:
            make = (lambda: matcher(constraint)) if constraint else None
            self._steering = Steering(request, vocabulary, make)
        self._chain = SamplerChain(context, vocabulary, request)
        self._n_sampled = 0
        self._n_least = sampling.min_tokens
        self._ignores_end = sampling.ignore_eos
        # Here rather than in a step, since the first call takes a while.
        holds = self._ignores_end or self._n_least
        self._endings = np.array(vocabulary.endings if holds else (), np.int32)
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
    def n_thought_tokens(self) -> int:
        """The number of tokens of thoughts so far."""
        return self._steering.n_thought_tokens if self._steering else 0

    def stop_thinking(self) -> None:
        """End the open thought at the next token, and every later one as soon as it begins."""
        if self._steering:
            self._steering.stop_thinking()

    def resume(self, token: int, left: int) -> Sampled:
        """Accept a token that another engine sampled, of `left` more then.

        Raises InvalidRequest if the constraint does not allow it.
        """
        self._n_sampled += 1
        parts = self._steering.resume(token, left) if self._steering else None
        self._chain.skip()
        self._chain.accept(token)
        return Sampled(token, self._vocabulary.known(token), parts, None)

    def sample(self, row: int, left: int) -> Sampled | None:
        """Return the next token, after row `row` of the last batch; `left` tokens may follow, this one included.

        None if the constraint allows none, or takes too long.
        """
        logits = self._logits(row)
        steering = self._steering
        if steering is None:
            token = self._sample_free(row, logits)
            chosen: int | None = token
        else:
            chosen = self._sample_steered(steering, row, logits, left)
        if chosen is None:
            return None
        self._n_sampled += 1
        parts = steering.accept(chosen) if steering else None
        return Sampled(chosen, self._vocabulary.known(chosen), parts, self._choice(logits, chosen))

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
        # np.ctypeslib.as_array takes ten times as long, for each token.
        first = llama_cpp.llama_get_logits_ith(self._context, row).contents
        return np.frombuffer(memoryview(self._row.from_address(ctypes.addressof(first))), np.float32)

    def _sample_free(self, row: int, logits: npt.NDArray[np.float32]) -> int:
        """Sample where nothing constrains the answer; the token is accepted by the chain."""
        if not len(self._endings):
            return self._chain.sample(row, logits)
        with self._held(logits):
            return self._chain.sample(row, logits)

    @contextmanager
    def _held(self, logits: npt.NDArray[np.float32]) -> Iterator[None]:
        """Rule out the tokens that end an answer meanwhile, where the answer may not end by itself here."""
        if not self._ignores_end and self._n_sampled >= self._n_least:
            yield
            return
        kept = logits[self._endings]
        # llama.cpp samples from these very numbers.
        logits[self._endings] = -np.inf
        try:
            yield
        finally:
            logits[self._endings] = kept

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
        with self._held(logits):
            token = self._choose(steering, logits)
        settled = None if token is None else steering.settle(token, left)
        self._is_slow = time.thread_time() - started > SLOWEST
        if settled is not None:
            self._chain.accept(settled)
        return settled

    def _choose(self, steering: Steering, logits: npt.NDArray[np.float32]) -> int | None:
        token = self._chain.choose(logits)
        if steering.allows(token):
            return token
        masked = logits.copy()
        steering.mask(masked)
        allowed = np.flatnonzero(masked > -np.inf).astype(np.int32)
        return self._chain.choose_among(masked, allowed) if len(allowed) else None


def choice_of(vocabulary: Vocabulary, logits: npt.NDArray[np.float32], token: int, n_top: int) -> TokenChoice:
    """Return the log probability of `token` by a row of logits, and of the `n_top` likeliest tokens."""
    exact = logits.astype(np.float64)
    logprobs = exact - exact.max()
    logprobs -= np.log(np.exp(logprobs).sum())
    top = np.argpartition(-logprobs, n_top)[:n_top] if n_top else np.empty(0, int)
    ranked = sorted(((float(logprobs[each]), int(each)) for each in top), reverse=True)
    likeliest = tuple((vocabulary.known(each).written, logprob) for logprob, each in ranked)
    return TokenChoice(vocabulary.known(token).written, float(logprobs[token]), likeliest)
