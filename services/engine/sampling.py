"""Choosing the next token: llama.cpp's sampler chain for one sequence."""

from __future__ import annotations

import secrets
from collections.abc import Sequence as Many
from typing import Any

import llama_cpp
import numpy as np

from services.backend import Sampling

# llama.cpp's own default (common/common.h, penalty_last_n).
PENALTY_LAST_N = 64


class ChainSampler:
    """One sequence's sampler. Owned by the engine's thread.

    The order is llama.cpp's: repeat penalty, top_k, top_p, min_p, temperature. Temperature 0 takes the likeliest token.
    """

    def __init__(self, context: Any, vocabulary_size: int, sampling: Sampling, prompt: Many[int]) -> None:
        """`prompt` are the tokens so far, whose last ones count as said for the repeat penalty."""
        self._context = context
        self._vocabulary_size = vocabulary_size
        self._takes_likeliest = sampling.temperature == 0 and sampling.repeat_penalty == 1
        self._chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        for sampler in _samplers(sampling, vocabulary_size):
            llama_cpp.llama_sampler_chain_add(self._chain, sampler)
        if sampling.repeat_penalty != 1:
            for token in prompt[-PENALTY_LAST_N:]:
                llama_cpp.llama_sampler_accept(self._chain, token)

    def sample(self, row: int) -> int:
        """The next token, after the token in row `row` of the batch that was just decoded."""
        if self._takes_likeliest:
            # The chain would first copy the whole vocabulary into a list of candidates.
            logits = llama_cpp.llama_get_logits_ith(self._context, row)
            return int(np.ctypeslib.as_array(logits, shape=(self._vocabulary_size,)).argmax())
        return int(llama_cpp.llama_sampler_sample(self._chain, self._context, row))

    def close(self) -> None:
        """Free it."""
        if self._chain is not None:
            llama_cpp.llama_sampler_free(self._chain)
            self._chain = None


def _samplers(sampling: Sampling, vocabulary_size: int) -> list[Any]:
    chain = []
    if sampling.repeat_penalty != 1:
        penalties = llama_cpp.llama_sampler_init_penalties
        chain.append(penalties(vocabulary_size, PENALTY_LAST_N, sampling.repeat_penalty, 0.0, 0.0))
    if sampling.temperature == 0:
        return [*chain, llama_cpp.llama_sampler_init_greedy()]
    seed = secrets.randbelow(2**32 - 1) if sampling.seed is None else sampling.seed
    return [
        *chain,
        llama_cpp.llama_sampler_init_top_k(sampling.top_k),
        llama_cpp.llama_sampler_init_top_p(sampling.top_p, 1),
        llama_cpp.llama_sampler_init_min_p(sampling.min_p, 1),
        llama_cpp.llama_sampler_init_temp(sampling.temperature),
        llama_cpp.llama_sampler_init_dist(seed),
    ]
