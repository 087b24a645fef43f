"""Sampling the next token: llama.cpp's samplers for one sequence."""

from __future__ import annotations

import ctypes
import secrets
import time
from collections.abc import Sequence as Many
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from services.backend.types import GenerationRequest, Sampling, TokenChoice
from services.engine.llama import log as native_log
from services.engine.llama.grammar import grammar_of
from services.engine.llama.vocabulary import Vocabulary
from services.errors import InvalidRequest

# llama.cpp's own default (common/common.h, penalty_last_n).
PENALTY_LAST_N = 64
# Presence and frequency penalties count over the answer, or its last so many tokens.
ANSWER_LAST_N = 4096
# The last quarter of the answer's tokens, within these bounds, is reserved for closing what a grammar has opened.
LEAST_CLOSING, MOST_CLOSING = 16, 256
# Seconds of CPU that a grammar may take over one token: all sequences wait meanwhile, so the answer then ends.
SLOWEST = 1.0
# Below this temperature the likeliest token is taken: dividing by so little overflows 32-bit logits.
LEAST_TEMPERATURE = 1e-4
# llama.h, struct llama_token_data.
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class ChainSampler:
    """One sequence's samplers. Made on any thread, then owned by the engine's.

    The order is llama.cpp's: biases, penalties, top_k, top_p, min_p, temperature. Temperature 0 takes the likeliest token.
    A grammar checks the sampled token, and filters the whole vocabulary only if it refuses that one.
    """

    def __init__(self, context: Any, vocabulary: Vocabulary, request: GenerationRequest) -> None:
        """The repeat penalty counts the prompt's last tokens too.

        Raises InvalidRequest if the JSON schema cannot be converted, or a bias is for a token that does not exist.
        """
        sampling = request.sampling
        self._context = context
        self._vocabulary = vocabulary
        self._closing = min(MOST_CLOSING, max(LEAST_CLOSING, request.max_tokens // 4))
        self._row = ctypes.c_float * vocabulary.size
        self._n_top = sampling.n_top
        self._grammar = _grammar(vocabulary, sampling.json_schema) if sampling.json_schema else None
        # Here rather than in a step, since the first call takes a while.
        self._closers = np.array(vocabulary.closers if sampling.json_schema else (), np.int32)
        self._chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        self._adjusts = False
        self._is_slow = False
        for sampler in self._adjusting(sampling, request.tokens):
            self._adjusts = True
            llama_cpp.llama_sampler_chain_add(self._chain, sampler)
        self._takes_likeliest = sampling.temperature < LEAST_TEMPERATURE
        for sampler in _choosing(sampling):
            llama_cpp.llama_sampler_chain_add(self._chain, sampler)
        try:
            for token in request.resume_tokens:
                self._accept_resumed(token, sampler)
        except InvalidRequest:
            self.close()
            raise

    def _adjusting(self, sampling: Sampling, prompt: Many[int]) -> list[Any]:
        """The samplers that change logits."""
        size, samplers = self._vocabulary.size, []
        if sampling.logit_bias:
            for token, _ in sampling.logit_bias:
                self._vocabulary.check([token], "logit_bias")
            entries = (llama_cpp.llama_logit_bias * len(sampling.logit_bias))(*sampling.logit_bias)
            samplers.append(llama_cpp.llama_sampler_init_logit_bias(size, len(entries), entries))
        if sampling.repeat_penalty != 1:
            repeat = llama_cpp.llama_sampler_init_penalties(size, PENALTY_LAST_N, sampling.repeat_penalty, 0.0, 0.0)
            for token in prompt[-PENALTY_LAST_N:]:
                llama_cpp.llama_sampler_accept(repeat, token)
            samplers.append(repeat)
        if sampling.presence_penalty or sampling.frequency_penalty:
            both = sampling.frequency_penalty, sampling.presence_penalty
            samplers.append(llama_cpp.llama_sampler_init_penalties(size, ANSWER_LAST_N, 1.0, *both))
        return samplers

    def _accept_resumed(self, token: int, chooser: Any) -> None:
        """Accept a token that another engine sampled, and advance `chooser`'s random numbers by one draw."""
        _apply(chooser, np.zeros(2, _CANDIDATE))
        if self._grammar is not None:
            # llama.cpp aborts the process if a grammar accepts a token that it does not allow.
            if not np.isfinite(self._allowed(np.array([token]))[0]):
                raise InvalidRequest(
                    "resume_tokens: the grammar does not allow what was said so far", param="resume_tokens"
                )
            llama_cpp.llama_sampler_accept(self._grammar, token)
        llama_cpp.llama_sampler_accept(self._chain, token)

    def sample(self, row: int, left: int) -> int | None:
        """Return the next token, after row `row` of the last batch; `left` tokens may follow, this one included.

        None if the grammar allows none, or takes too long.
        """
        if self._grammar is not None:
            return self._sample_by_grammar(self._logits(row), left)
        if self._takes_likeliest and not self._adjusts:
            # The chain would first copy the whole vocabulary into a list of candidates.
            return int(self._logits(row).argmax())
        return int(llama_cpp.llama_sampler_sample(self._chain, self._context, row))

    def choice(self, row: int, token: int) -> TokenChoice | None:
        """Return the log probability of `token` there, by the model alone, and of the top tokens; None unless requested."""
        if self._n_top is None:
            return None
        logits = self._logits(row).astype(np.float64)
        logprobs = logits - logits.max()
        logprobs -= np.log(np.exp(logprobs).sum())
        top = np.argpartition(-logprobs, self._n_top)[: self._n_top] if self._n_top else np.empty(0, int)
        piece = self._vocabulary.piece
        ranked = sorted(((float(logprobs[each]), int(each)) for each in top), reverse=True)
        return TokenChoice(piece(token), float(logprobs[token]), tuple((piece(each), logprob) for logprob, each in ranked))

    def close(self) -> None:
        """Free the samplers."""
        for sampler in (self._chain, self._grammar):
            if sampler is not None:
                llama_cpp.llama_sampler_free(sampler)
        self._chain = self._grammar = None

    def _logits(self, row: int) -> npt.NDArray[np.float32]:
        # np.ctypeslib.as_array takes ten times as long, for each token.
        first = llama_cpp.llama_get_logits_ith(self._context, row).contents
        return np.frombuffer(memoryview(self._row.from_address(ctypes.addressof(first))), np.float32)

    def _sample_by_grammar(self, logits: npt.NDArray[np.float32], left: int) -> int | None:
        if self._is_slow:
            return None
        started = time.thread_time()
        token = self._choose_by_grammar(logits, left)
        self._is_slow = time.thread_time() - started > SLOWEST
        return token

    def _choose_by_grammar(self, logits: npt.NDArray[np.float32], left: int) -> int | None:
        # With few tokens left, take the token that ends the JSON text soonest, so that it parses.
        token = self._closing_token() if left <= self._closing else None
        if token is None:
            token = self._choose(_candidates(logits))
            if not np.isfinite(self._allowed(np.array([token]))[0]):
                candidates = _candidates(logits)
                _apply(self._grammar, candidates)
                allowed = candidates[np.isfinite(candidates["logit"])]
                if not len(allowed):
                    return None
                token = self._choose(allowed)
        # llama.cpp aborts the process if a grammar accepts a token that it does not allow.
        llama_cpp.llama_sampler_accept(self._grammar, token)
        llama_cpp.llama_sampler_accept(self._chain, token)
        return token

    def _closing_token(self) -> int | None:
        allowed = np.isfinite(self._allowed(self._closers))
        return int(self._closers[allowed.argmax()]) if allowed.any() else None

    def _allowed(self, tokens: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """0 for each token that the grammar allows next, minus infinity for the others."""
        candidates = np.zeros(len(tokens), _CANDIDATE)
        candidates["id"] = tokens
        _apply(self._grammar, candidates)
        return candidates["logit"]

    def _choose(self, candidates: npt.NDArray[Any]) -> int:
        array = _apply(self._chain, candidates)
        return int(array.data[array.selected].id)


def _candidates(logits: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    candidates = np.zeros(len(logits), _CANDIDATE)
    candidates["id"] = np.arange(len(logits))
    candidates["logit"] = logits
    return candidates


def _apply(sampler: Any, candidates: npt.NDArray[Any]) -> Any:
    """Apply a sampler to the candidates in place; return llama.cpp's view of them, with the index that it selected."""
    data = candidates.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token_data))
    array = llama_cpp.llama_token_data_array(data, len(candidates), -1, False)
    llama_cpp.llama_sampler_apply(sampler, ctypes.byref(array))
    return array


def _grammar(vocabulary: Vocabulary, schema: str) -> Any:
    sampler = llama_cpp.llama_sampler_init_grammar(vocabulary.pointer, grammar_of(schema).encode(), b"root")
    if not sampler:
        reason = native_log.take_errors()
        raise InvalidRequest(
            f"llama.cpp cannot keep to the JSON schema, which may be too large or repeat too much: {reason}",
            param="response_format",
            code="bad_schema",
        )
    return sampler


def _choosing(sampling: Sampling) -> list[Any]:
    """The samplers that select the token, in order."""
    if sampling.temperature < LEAST_TEMPERATURE:
        return [llama_cpp.llama_sampler_init_greedy()]
    seed = secrets.randbelow(2**32 - 1) if sampling.seed is None else sampling.seed
    return [
        llama_cpp.llama_sampler_init_top_k(sampling.top_k),
        llama_cpp.llama_sampler_init_top_p(sampling.top_p, 1),
        llama_cpp.llama_sampler_init_min_p(sampling.min_p, 1),
        llama_cpp.llama_sampler_init_temp(sampling.temperature),
        llama_cpp.llama_sampler_init_dist(seed),
    ]
