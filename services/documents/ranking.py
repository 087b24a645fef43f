"""BM25: how well chunks match the words of a question.

Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), with the weight of rare words that
Lucene uses, log(1 + (N - n + 0.5) / (n + 0.5)), which is never negative: a library may have three chunks.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

# How soon more of the same word counts no more, and how much long chunks count less: as in Anserini.
K1, B = 0.9, 0.4
# A share of a question's weight that is enough, and a share times words of full weight. So 1 % of the questions whose
# passage is among the best five are lost, and 46 % of those that no text answers are refused.
ENOUGH_SHARE, ENOUGH_WORDS = 0.4, 0.49


@dataclass(frozen=True)
class Term:
    """A word of a question: how often it stands in each chunk that has it, by the chunk's number."""

    counts: Mapping[int, float]


@dataclass(frozen=True)
class Corpus:
    """The chunks that are searched: their number, and their mean length in characters."""

    n_chunks: int
    mean_length: float


def weight(n_with: int, n_chunks: int) -> float:
    """Return the weight of a word that `n_with` of `n_chunks` chunks have."""
    return math.log(1 + (n_chunks - n_with + 0.5) / (n_with + 0.5))


def bm25(terms: Collection[Term], corpus: Corpus, lengths: Mapping[int, int]) -> dict[int, float]:
    """Return the score of each chunk that has one of the terms, 0 or more; `lengths` are in characters.

    A chunk of mean length that has every word once scores 1. Words that no chunk has count too: a question about something
    else scores low.
    """
    scores: dict[int, float] = {}
    for term in terms:
        heavy = weight(len(term.counts), corpus.n_chunks)
        for chunk, count in term.counts.items():
            norm = K1 * (1 - B + B * lengths[chunk] / corpus.mean_length)
            scores[chunk] = scores.get(chunk, 0.0) + heavy * count * (K1 + 1) / (count + norm)
    total = sum(weight(len(term.counts), corpus.n_chunks) for term in terms)
    return {chunk: score / total for chunk, score in scores.items()}


def confidence(terms: Collection[Term], corpus: Corpus, chunk: int) -> float:
    """Return how sure it is that a chunk is about the question: at 0.5 or more it is sure enough.

    What is asked should be there (the share of the question's weight that the chunk has), and be more than a common word
    (that weight, in words that one chunk has). benchmarks/documents tells what these values lose and refuse.
    """
    weights = [(weight(len(term.counts), corpus.n_chunks), chunk in term.counts) for term in terms]
    covered = sum(heavy for heavy, is_there in weights if is_there)
    share, words = covered / sum(heavy for heavy, _ in weights), covered / weight(1, corpus.n_chunks)
    return max(share / ENOUGH_SHARE, share * words / ENOUGH_WORDS) / 2


def best(scores: Mapping[int, float], k: int) -> list[int]:
    """Return the numbers of the `k` chunks with the highest scores, the best first; of equals the first in the text."""
    return sorted(scores, key=lambda chunk: (-scores[chunk], chunk))[:k]


def fused(rankings: Iterable[Iterable[int]], k: int, constant: int = 60) -> list[int]:
    """Return the `k` first of several rankings taken together: reciprocal rank fusion (Cormack and others, 2009)."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, chunk in enumerate(ranking, start=1):
            scores[chunk] = scores.get(chunk, 0.0) + 1 / (constant + rank)
    return best(scores, k)
