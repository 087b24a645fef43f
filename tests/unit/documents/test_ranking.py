"""BM25, fusion, and how sure a search is."""

from __future__ import annotations

import math

import pytest

from services.documents.ranking import K1, B, Corpus, Term, best, bm25, confidence, fused, weight


def test_it_is_bm25() -> None:
    # By hand: two chunks of 100 and 300 characters of ten, one term in both, once and three times.
    corpus, term = Corpus(10, 200), Term({1: 1, 2: 3})
    idf = math.log(1 + (10 - 2 + 0.5) / (2 + 0.5))

    def by_hand(count: int, length: int) -> float:
        return idf * count * (K1 + 1) / (count + K1 * (1 - B + B * length / 200)) / idf

    scores = bm25([term], corpus, {1: 100, 2: 300})
    assert scores == {1: pytest.approx(by_hand(1, 100)), 2: pytest.approx(by_hand(3, 300))}


def test_a_word_that_is_nowhere_lowers_all_scores() -> None:
    corpus, lengths = Corpus(100, 10), {1: 10}
    known = bm25([Term({1: 1})], corpus, lengths)[1]
    assert known == pytest.approx(1)
    assert bm25([Term({1: 1}), Term({})], corpus, lengths)[1] < known / 2
    assert bm25([], corpus, {}) == {}


def test_small_libraries_have_no_negative_weights() -> None:
    assert 0 < weight(3, 3) < weight(1, 3) < weight(0, 3)


def test_the_best_come_first_and_equals_by_their_place() -> None:
    assert best({5: 0.1, 2: 0.7, 9: 0.7, 4: 0.3}, 3) == [2, 9, 4]


def test_what_two_rankings_agree_on_comes_first() -> None:
    assert fused([[1, 2, 3], [4, 2, 5]], 3) == [2, 1, 4]


def test_a_common_word_makes_nothing_sure() -> None:
    corpus = Corpus(1000, 10)
    common, rare, unknown = Term(dict.fromkeys(range(600), 1)), Term({7: 1}), Term({})
    assert confidence([rare], corpus, 7) > 0.5
    assert confidence([rare, common], corpus, 7) > 0.5
    assert confidence([rare, unknown, unknown], corpus, 7) < 0.5
    assert confidence([common, unknown], corpus, 7) < 0.1
