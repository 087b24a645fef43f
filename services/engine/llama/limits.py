"""The tokens that may not come next, whatever a constraint says: the request's own limits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from services.backend.types import GenerationRequest, Prompt, Sampling
from services.engine.llama.prefix_table import PrefixTable
from services.engine.llama.vocabulary import Vocabulary
from services.errors import InvalidRequest

Ids = npt.NDArray[np.int32]


def biases_of(vocabulary: Vocabulary, sampling: Sampling) -> list[tuple[int, float]]:
    """Return tokens, and what is added to their logits. Raises InvalidRequest for ids that do not exist."""
    vocabulary.check((token for token, _ in sampling.logit_bias), "logit_bias")
    found = list(sampling.logit_bias)
    for text, bias in sampling.text_bias:
        found += [(token, bias) for token in vocabulary.tokenize(Prompt(text, bos=False))]
    return found


class TokenLimits:
    """Rules out the ends of an answer that is too short or may not end, banned texts, and tokens that are not allowed.

    A bias of minus infinity rules a token out too, and so does the model's own file.

    Made on any thread, then owned by the engine's.
    """

    def __init__(self, vocabulary: Vocabulary, request: GenerationRequest) -> None:
        """Raises InvalidRequest for ids that do not exist, and for an empty text."""
        sampling = request.sampling
        vocabulary.check(request.stop_tokens, "stop_token_ids")
        vocabulary.check(sampling.allowed_tokens, "allowed_token_ids")
        self._n_least = sampling.min_tokens
        self._n_written = 0
        # Here rather than in a step, since the first call takes a while.
        ends = vocabulary.endings if sampling.ignore_eos or sampling.min_tokens else ()
        stops = request.stop_tokens
        never = [*vocabulary.suppressed, *(token for token, bias in biases_of(vocabulary, sampling) if bias == -np.inf)]
        if sampling.ignore_eos:
            never += [end for end in ends if end not in stops]
        self._never = np.array(never, np.int32)
        self._not_yet = np.array([*ends, *stops] if sampling.min_tokens else (), np.int32)
        self._allowed = np.array(sorted(set(sampling.allowed_tokens)), np.int32)
        self._banned = _Banned(sampling.banned, vocabulary.prefixes) if sampling.banned else None

    def masked(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the logits with minus infinity for each token that is ruled out: the same array if none is."""
        ruled_out = [self._never] if len(self._never) else []
        if self._n_written < self._n_least:
            ruled_out.append(self._not_yet)
        if self._banned:
            ruled_out += self._banned.tokens()
        if not ruled_out and not len(self._allowed):
            return logits
        if len(self._allowed):
            masked = np.full_like(logits, -np.inf)
            masked[self._allowed] = logits[self._allowed]
        else:
            masked = logits.copy()
        for tokens in ruled_out:
            masked[tokens] = -np.inf
        return masked

    def add(self, written: bytes) -> None:
        """Add a token's bytes to the answer."""
        self._n_written += 1
        if self._banned:
            self._banned.add(written)


class _Banned:
    """Texts that may not be written, and the end of what is."""

    def __init__(self, texts: Sequence[str], table: PrefixTable) -> None:
        if not all(texts):
            raise InvalidRequest("bad_words: a text is empty", param="bad_words")
        banned = {text.encode() for text in texts}
        self._always = table.containing(banned)
        rests: dict[bytes, set[bytes]] = {}
        for text in banned:
            for n in range(1, len(text)):
                rests.setdefault(text[:n], set()).add(text[n:])
        self._behind: dict[bytes, Ids] = {}
        """The tokens that complete a text, by what has to be written before them."""
        for before, each in rests.items():
            tokens = np.concatenate([table.beginning_with(rest) for rest in each])
            if len(tokens):
                self._behind[before] = tokens
        self._n_kept = max(map(len, banned)) - 1
        self._end = b""

    def tokens(self) -> list[Ids]:
        """Return the tokens that would complete a text here."""
        end = self._end
        found = [tokens for n in range(1, len(end) + 1) if (tokens := self._behind.get(end[-n:])) is not None]
        return [self._always, *found]

    def add(self, written: bytes) -> None:
        self._end = (self._end + written)[-self._n_kept :] if self._n_kept else b""
