"""Logarithms of probability from a row of logits: of one token, and of the likeliest.

All of it is on the engine's thread, 0.3 ms for 262,144 logits. Another thread would compete for a core with
llama.cpp's, which wait for each other.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from services.backend.types import TokenChoice
from services.engine.llama.vocabulary import Vocabulary

Row = npt.NDArray[np.float32]
# The n-th highest of so many columns' maxima is no higher than the n-th highest logit, so all of these are in few columns.
_COLUMNS = 4096
# Logits whose exponentials are added up in 32 bits; their arrays stay in the processor's cache.
_BLOCK = 2**14


def choice_of(vocabulary: Vocabulary, logits: Row, token: int, n_top: int) -> TokenChoice:
    """Return the log probability of `token` by a row of logits, and of the `n_top` likeliest tokens.

    Of equally likely tokens the one of the lowest id comes first.
    """
    maxima = _column_maxima(logits)
    norm = _norm(logits, float(maxima.max()))
    ids = _top(logits, maxima, n_top)
    likeliest = zip(ids.tolist(), logits[ids].tolist(), strict=True)
    top = tuple((vocabulary.known(each).written, logit - norm) for each, logit in likeliest)
    return TokenChoice(vocabulary.known(token).written, float(logits[token]) - norm, top, (token, *ids.tolist()))


def _column_maxima(logits: Row) -> Row:
    """The highest logit of each column, where they are written in rows of _COLUMNS."""
    n_even = len(logits) - len(logits) % _COLUMNS
    if not n_even:
        return logits
    maxima: Row = logits[:n_even].reshape(-1, _COLUMNS).max(axis=0)
    rest = logits[n_even:]
    np.maximum(maxima[: len(rest)], rest, out=maxima[: len(rest)])
    return maxima


def _norm(logits: Row, highest: float) -> float:
    """The logarithm of the sum of all exponentials."""
    starts = range(0, len(logits), _BLOCK)
    total = sum(float(np.exp(logits[start : start + _BLOCK] - np.float32(highest)).sum()) for start in starts)
    return highest + math.log(total)


def _top(logits: Row, maxima: Row, n_top: int) -> npt.NDArray[np.intp]:
    """The ids of the `n_top` highest logits, the highest first."""
    if not n_top:
        return np.empty(0, np.intp)
    columns = np.arange(len(maxima))
    if n_top < len(maxima):
        at = len(maxima) - n_top
        # All of them are in these columns, about as many as there are: no need to look at the whole row again.
        columns = np.flatnonzero(maxima >= np.partition(maxima, at)[at])
    found = (np.arange(0, len(logits), len(maxima))[:, np.newaxis] + columns).ravel()
    found = found[found < len(logits)]
    return found[np.argsort(-logits[found], kind="stable")[:n_top]]
