"""Logarithms of probability are those of the exact softmax, in the exact order."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.engine.llama.logprobs import choice_of
from services.engine.llama.vocabulary import TokenText, Vocabulary


class Numbers:
    """A vocabulary whose tokens are written as their ids."""

    def known(self, token: int) -> TokenText:
        written = str(token).encode()
        return TokenText(written, written, None, False)


NUMBERS = cast(Vocabulary, Numbers())


def check(logits: np.ndarray, token: int, n_top: int) -> None:
    exact = logits.astype(np.float64)
    exact = exact - exact.max()
    exact -= np.log(np.exp(exact).sum())
    order = np.lexsort((np.arange(len(logits)), -logits.astype(np.float64)))[:n_top]
    choice = choice_of(NUMBERS, logits, token, n_top)
    assert choice.ids == (token, *order.tolist())
    assert [int(piece) for piece, _ in choice.top] == order.tolist()
    assert int(choice.piece) == token
    for found, wanted in zip([choice.logprob, *(value for _, value in choice.top)], exact[[token, *order]], strict=True):
        assert found == pytest.approx(wanted, rel=1e-6, abs=5e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([7, 4095, 4096, 4097, 32_000, 49_152, 100_003, 262_144]),
    st.integers(0, 2**32 - 1),
    st.integers(0, 25),
    st.sampled_from([0.01, 1.0, 8.0]),
)
def test_they_are_exact_within_32_bits(size: int, seed: int, n_top: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    check((rng.standard_normal(size) * spread).astype(np.float32), int(rng.integers(size)), min(n_top, size))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9000), st.integers(0, 2**32 - 1), st.integers(0, 25), st.integers(1, 4))
def test_equally_likely_tokens_come_by_their_ids(size: int, seed: int, n_top: int, n_values: int) -> None:
    rng = np.random.default_rng(seed)
    check(rng.integers(0, n_values, size).astype(np.float32), int(rng.integers(size)), min(n_top, size))


def test_tokens_that_are_impossible_have_no_probability() -> None:
    logits = np.full(10_000, -np.inf, np.float32)
    logits[[3, 9_000]] = 1.0, 2.0
    choice = choice_of(NUMBERS, logits, 5, 3)
    assert choice.logprob == -np.inf
    assert choice.ids == (5, 9_000, 3, 0)
    assert [value for _, value in choice.top] == pytest.approx([-0.313262, -1.313262, -np.inf], abs=1e-5)
