"""llama.cpp's samplers for one sequence, in llama.cpp's own order (common/sampling.cpp)."""

from __future__ import annotations

import ctypes
import secrets
from collections.abc import Iterator
from collections.abc import Sequence as Many
from typing import Any

import numpy as np
import numpy.typing as npt

from services.backend.types import SAMPLERS, GenerationRequest, Sampling
from services.engine.llama.bindings import llama_cpp
from services.engine.llama.limits import biases_of
from services.engine.llama.vocabulary import Vocabulary
from services.errors import InvalidRequest

# Presence and frequency penalties count over the answer, or its last so many tokens.
ANSWER_LAST_N = 4096
# Below this temperature the likeliest token is taken: dividing by so little overflows 32-bit logits.
LEAST_TEMPERATURE = 1e-4
# llama.cpp's own value (common/sampling.cpp) for the tokens from which mirostat 1 estimates.
_MIROSTAT_M = 100
# llama.h, struct llama_token_data.
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
_SEEDS = 2**32 - 1
_LEAST_P = 1e-30


class SamplerChain:
    """Chooses tokens. Made on any thread, then owned by the engine's.

    The biases come first, then the samplers in the request's order, and the draw; mirostat replaces those that leave out
    unlikely tokens. Each token takes one draw from the random numbers, whether it is drawn or not, so that another engine
    can go on with an answer; only mirostat's state begins anew there.
    """

    def __init__(self, context: Any, vocabulary: Vocabulary, request: GenerationRequest) -> None:
        """The repeat penalty and DRY count the prompt's last tokens too.

        Raises InvalidRequest if a bias is for a token that does not exist, or a sampler for none.
        """
        sampling = request.sampling
        self._context = context
        self._vocabulary = vocabulary
        self._seed = secrets.randbelow(_SEEDS) if sampling.seed is None else sampling.seed
        self._ids = np.arange(vocabulary.size, dtype=np.int32)
        self._n_accepted = 0
        # Those of minus infinity are not the chain's: see TokenLimits.
        biases = [entry for entry in biases_of(vocabulary, sampling) if entry[1] > -np.inf]
        names = _names(sampling)
        self._takes_likeliest = _takes_likeliest(sampling)
        self._has_mirostat = bool(sampling.mirostat) and not self._takes_likeliest
        n_most = len(request.tokens) + request.max_tokens
        xtc = names.index("xtc") if "xtc" in names else len(names)
        self._filters = _chain(self._made(names[:xtc], sampling, request.tokens, n_most, biases))
        self._xtc: Any = None
        """XTC, whose turn is drawn here, and what comes behind it."""
        self._behind: Any = None
        self._xtc_probability = sampling.xtc_probability
        if xtc < len(names):
            keeps = max(sampling.min_keep, 1)
            self._xtc = llama_cpp.llama_sampler_init_xtc(1.0, sampling.xtc_threshold, keeps, self._seed % 2**32)
            self._behind = _chain(self._made(names[xtc + 1 :], sampling, request.tokens, n_most))
        self._is_plain = self._takes_likeliest and not llama_cpp.llama_sampler_chain_n(self._filters)
        self._chooser = self._choosing(sampling)
        self._all: Any = None
        if not self._xtc:
            self._all = _chain([self._filters, self._chooser])

    def sample(self, row: int, logits: npt.NDArray[np.float32]) -> int:
        """Choose and accept the next token, behind row `row` of the last batch, whose logits are `logits`."""
        if self._is_plain:
            # The chain would first copy the whole vocabulary into a list of candidates.
            self._n_accepted += 1
            return int(logits.argmax())
        if self._all:
            self._n_accepted += 1
            return int(llama_cpp.llama_sampler_sample(self._all, self._context, row))
        token = self.choose(logits)
        self.accept(token)
        return token

    def choose(self, logits: npt.NDArray[np.float32]) -> int:
        """Choose the next token, without accepting it."""
        if self._is_plain:
            return int(logits.argmax())
        return self._apply(_candidates(self._ids, logits), self._chooser)

    def choose_masked(self, logits: npt.NDArray[np.float32]) -> int | None:
        """Choose the next token as `choose` does, among those whose logits are not minus infinity; None if all are."""
        if self._is_plain:
            token = int(logits.argmax())
            return None if logits[token] == -np.inf else token
        # llama.cpp's samplers are not made for tokens of no probability.
        tokens = np.flatnonzero(logits > -np.inf).astype(np.int32)
        return self._apply(_candidates(tokens, logits[tokens]), self._chooser) if len(tokens) else None

    def choose_among(self, logits: npt.NDArray[np.float32], tokens: npt.NDArray[Any]) -> int:
        """Choose again, among `tokens` alone, after `choose`: with random numbers of its own, by the token's position."""
        if self._is_plain:
            return int(tokens[logits[tokens].argmax()])
        candidates = _candidates(tokens, logits[tokens])
        if self._takes_likeliest or self._has_mirostat:
            return self._apply(candidates, self._chooser)
        chooser = llama_cpp.llama_sampler_init_dist(self._position_seed(1))
        try:
            return self._apply(candidates, chooser)
        finally:
            llama_cpp.llama_sampler_free(chooser)

    def skip(self) -> None:
        """Take the draw of a token that is not drawn."""
        if not self._takes_likeliest and not self._has_mirostat:
            candidates = np.zeros(2, _CANDIDATE)
            llama_cpp.llama_sampler_apply(self._chooser, ctypes.byref(_array(candidates)))

    def accept(self, token: int) -> None:
        """Add a token to the answer."""
        self._n_accepted += 1
        if not self._is_plain:
            llama_cpp.llama_sampler_accept(self._filters, token)
        if self._behind:
            llama_cpp.llama_sampler_accept(self._behind, token)

    def close(self) -> None:
        """Free the samplers."""
        for sampler in [self._all] if self._all else [self._filters, self._xtc, self._behind, self._chooser]:
            if sampler is not None:
                llama_cpp.llama_sampler_free(sampler)
        self._all = self._filters = self._xtc = self._behind = self._chooser = None

    def _apply(self, candidates: npt.NDArray[Any], chooser: Any) -> int:
        """Return the candidate that the filters and `chooser` select."""
        array = _array(candidates)
        view = ctypes.byref(array)
        llama_cpp.llama_sampler_apply(self._filters, view)
        if self._xtc:
            if self._position_seed(2) / _SEEDS <= self._xtc_probability:
                llama_cpp.llama_sampler_apply(self._xtc, view)
            llama_cpp.llama_sampler_apply(self._behind, view)
        llama_cpp.llama_sampler_apply(chooser, view)
        return int(array.data[array.selected].id)

    def _position_seed(self, purpose: int) -> int:
        """Return a random number that depends on the seed and the token's position alone, below 2**32 - 1."""
        words = np.random.SeedSequence([self._seed % 2**32, self._n_accepted, purpose]).generate_state(1)
        return int(words[0]) % _SEEDS

    def _made(
        self,
        names: Many[str],
        sampling: Sampling,
        prompt: Many[int],
        n_most: int,
        biases: Many[tuple[int, float]] = (),
    ) -> Iterator[Any]:
        """Yield the named samplers that are on, behind one for the biases; a sequence has `n_most` tokens at most."""
        if biases:
            entries = (llama_cpp.llama_logit_bias * len(biases))(*biases)
            yield llama_cpp.llama_sampler_init_logit_bias(self._vocabulary.size, len(entries), entries)
        for name in names:
            if name == "penalties":
                yield from self._penalties(sampling, prompt, n_most)
            elif name == "dry":
                last_n = _bounded(sampling.dry_penalty_last_n, n_most)
                if sampling.dry_multiplier and last_n:
                    yield _told(_dry(self._vocabulary, sampling, last_n), prompt[-last_n:])
            elif name == "temperature":
                yield _temperature(sampling)
            else:
                yield from _narrowing(name, sampling)

    def _penalties(self, sampling: Sampling, prompt: Many[int], n_most: int) -> Iterator[Any]:
        size, last_n = self._vocabulary.size, _bounded(sampling.repeat_last_n, n_most)
        if sampling.repeat_penalty != 1 and last_n:
            repeat = llama_cpp.llama_sampler_init_penalties(size, last_n, sampling.repeat_penalty, 0.0, 0.0)
            yield _told(repeat, prompt[-last_n:])
        if sampling.presence_penalty or sampling.frequency_penalty:
            both = sampling.frequency_penalty, sampling.presence_penalty
            yield llama_cpp.llama_sampler_init_penalties(size, ANSWER_LAST_N, 1.0, *both)

    def _choosing(self, sampling: Sampling) -> Any:
        """Return the sampler that selects the token."""
        if self._takes_likeliest:
            return llama_cpp.llama_sampler_init_greedy()
        mirostat = sampling.mirostat_tau, sampling.mirostat_eta
        if sampling.mirostat == 1:
            return llama_cpp.llama_sampler_init_mirostat(self._vocabulary.size, self._seed, *mirostat, _MIROSTAT_M)
        if sampling.mirostat == 2:
            return llama_cpp.llama_sampler_init_mirostat_v2(self._seed, *mirostat)
        return llama_cpp.llama_sampler_init_dist(self._seed)


def _names(sampling: Sampling) -> list[str]:
    """Return the names of the samplers that apply, in their order. Raises InvalidRequest for what is no sampler's name."""
    names = list(sampling.samplers or SAMPLERS)
    for name in names:
        if name not in SAMPLERS:
            known = ", ".join(SAMPLERS)
            raise InvalidRequest(f'samplers: "{name}" is none of the samplers {known}', param="samplers")
        if names.count(name) > 1:
            raise InvalidRequest(f'samplers: "{name}" is named twice', param="samplers")
    if _takes_likeliest(sampling):
        return [name for name in names if name in ("penalties", "dry")]
    if sampling.mirostat:
        return [name for name in names if name in ("penalties", "dry", "temperature")]
    # At a higher threshold no two tokens can be above it.
    has_xtc = sampling.xtc_probability > 0 and sampling.xtc_threshold <= 0.5
    return [name for name in names if name != "xtc" or has_xtc]


def _takes_likeliest(sampling: Sampling) -> bool:
    """Return whether the temperature leaves nothing to chance."""
    is_cold = sampling.temperature < LEAST_TEMPERATURE and sampling.dynatemp_range <= 0
    return is_cold and "temperature" in (sampling.samplers or SAMPLERS)


def _temperature(sampling: Sampling) -> Any:
    temperature, spread = sampling.temperature, sampling.dynatemp_range
    if spread <= 0:
        return llama_cpp.llama_sampler_init_temp(temperature)
    lowest, highest = max(temperature - spread, LEAST_TEMPERATURE), max(temperature + spread, LEAST_TEMPERATURE)
    middle = (lowest + highest) / 2
    return llama_cpp.llama_sampler_init_temp_ext(middle, middle - lowest, sampling.dynatemp_exponent)


def _narrowing(name: str, sampling: Sampling) -> Iterator[Any]:
    """Yield the sampler of this name that leaves out unlikely tokens, if it is on."""
    keeps = max(sampling.min_keep, 1)
    if name == "top_n_sigma" and sampling.top_n_sigma > 0:
        yield llama_cpp.llama_sampler_init_top_n_sigma(sampling.top_n_sigma)
    elif name == "top_k" and sampling.top_k > 0:
        yield llama_cpp.llama_sampler_init_top_k(sampling.top_k)
    elif name == "typ_p" and sampling.typical_p < 1:
        # It computes with the logarithms of all probabilities, of which none may be 0.
        yield llama_cpp.llama_sampler_init_min_p(_LEAST_P, 1)
        yield llama_cpp.llama_sampler_init_typical(sampling.typical_p, keeps)
    elif name == "top_p" and sampling.top_p < 1:
        yield llama_cpp.llama_sampler_init_top_p(sampling.top_p, keeps)
    elif name == "min_p" and sampling.min_p > 0:
        yield llama_cpp.llama_sampler_init_min_p(sampling.min_p, keeps)


def _dry(vocabulary: Vocabulary, sampling: Sampling, last_n: int) -> Any:
    breakers = [each.encode() for each in sampling.dry_sequence_breakers if each]
    texts = (ctypes.c_char_p * len(breakers))(*breakers)
    strength = sampling.dry_multiplier, sampling.dry_base, sampling.dry_allowed_length
    return llama_cpp.llama_sampler_init_dry(vocabulary.pointer, *strength, last_n, texts, len(breakers))


def _told(sampler: Any, tokens: Many[int]) -> Any:
    """Have a sampler accept tokens, and return it."""
    for token in tokens:
        llama_cpp.llama_sampler_accept(sampler, token)
    return sampler


def _bounded(last_n: int, most: int) -> int:
    """A number of last tokens, where -1 means all of at most `most`."""
    return most if last_n < 0 else min(last_n, most)


def _chain(samplers: Any) -> Any:
    """Return a chain of samplers, which then owns them. Frees those that were made if a later one cannot be."""
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    try:
        for sampler in samplers:
            llama_cpp.llama_sampler_chain_add(chain, sampler)
    except BaseException:
        llama_cpp.llama_sampler_free(chain)
        raise
    return chain


def _candidates(ids: npt.NDArray[Any], logits: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    candidates = np.empty(len(ids), _CANDIDATE)
    candidates["id"], candidates["logit"] = ids, logits
    return candidates


def _array(candidates: npt.NDArray[Any]) -> Any:
    """Return llama.cpp's view of candidates, in which it notes the index that it selects."""
    data = candidates.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token_data))
    return llama_cpp.llama_token_data_array(data, len(candidates), -1, False)
