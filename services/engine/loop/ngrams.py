"""N-gram lookup: the tokens that came behind an earlier occurrence of a sequence's last tokens. Pure Python.

An answer that repeats a part of its prompt, or of itself, goes on as that part does. Each new token is compared with the
one that was expected, whether that one was computed ahead or not, so that it costs nothing to learn how often such
expectations come true.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

# The last so many tokens are looked up.
N = 3
# The last tokens of a prompt that are indexed: each takes about 150 bytes, and 0.2 microseconds.
MOST_INDEXED = 32_768
# The share of the matches of each length that come true, before any is known; see `_level`.
_PRIOR = (0.3, 0.5, 0.65, 0.8, 0.9)
# How many observations the prior counts for, and what each new one leaves of the weight of those before.
_PRIOR_WEIGHT = 4.0
_DECAY = 0.97


class NGrams:
    """The n-grams of one sequence. Made by the thread that submits it, then owned by the engine's."""

    def __init__(self, tokens: Sequence[int]) -> None:
        """Index `tokens`, to which the owner appends each new token before it calls `advance`."""
        self._tokens = tokens
        start = max(0, len(tokens) - MOST_INDEXED)
        columns = [islice(tokens, start + n, None) for n in range(N)]
        # Less the last n-gram, behind which nothing is known yet.
        self._next = dict(zip(zip(*columns, strict=False), range(start + N, len(tokens)), strict=False))
        """Of each n-gram, the position behind its last occurrence."""
        self._n_true = [share * _PRIOR_WEIGHT for share in _PRIOR]
        self._n_matches = [_PRIOR_WEIGHT] * len(_PRIOR)
        self._expected: int | None = None
        """The position of the token that is expected next; None if the last tokens did not occur before."""
        self._length = 0
        """How many tokens before it match the last ones; at least, since no more are compared than come."""
        self._look_up()

    def advance(self) -> None:
        """Take note of a token that was appended."""
        tokens = self._tokens
        last = len(tokens) - 1
        if self._expected is not None:
            is_true = tokens[self._expected] == tokens[last]
            level = _level(self._length)
            self._n_true[level] = _DECAY * self._n_true[level] + is_true
            self._n_matches[level] = _DECAY * self._n_matches[level] + 1
            if is_true:
                self._expected += 1
                self._length += 1
            else:
                self._expected = None
        if last >= N:
            self._next[tuple(tokens[last - N : last])] = last
        if self._expected is None:
            self._look_up()

    def draft(self, most: int) -> list[int]:
        """Return `most` tokens that may come next; [] if the last ones did not occur before."""
        if self._expected is None:
            return []
        draft = list(self._tokens[self._expected : self._expected + most])
        # An occurrence that reaches to the end goes on with its own repetition.
        period = len(draft)
        while len(draft) < most:
            draft.append(draft[-period])
        return draft

    def chances(self, most: int) -> list[float]:
        """Return for each token of a draft the estimated probability that it and all before it come true."""
        chances: list[float] = []
        chance = 1.0
        for length in range(self._length, self._length + most if self._expected is not None else 0):
            level = _level(length)
            chance *= self._n_true[level] / self._n_matches[level]
            chances.append(chance)
        return chances

    def _look_up(self) -> None:
        self._expected = self._next.get(tuple(self._tokens[-N:]))
        self._length = N


def _level(length: int) -> int:
    """Return the class of a match of `length` tokens: N, one more, and then about twice as many from one to the next."""
    return min((length - N + 1).bit_length() - 1, len(_PRIOR) - 1)
