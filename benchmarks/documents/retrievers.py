"""Retrievers without a model: the rank-bm25 package, and SQLite's FTS5 with what can be varied about it."""

from __future__ import annotations

import importlib
import math
import re
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from typing_extensions import override

from benchmarks.documents.chunks import Chunk
from benchmarks.documents.sources import SOURCES
from benchmarks.documents.words import TOKENIZER, common_terms, spread, terms

TITLES = {source.name: source.title for source in SOURCES}


class Retriever(Protocol):
    """What `evaluate` measures."""

    def search(self, query: str, k: int) -> list[tuple[int, float]]:
        """Return the ids and scores of the best `k` chunks, best first."""
        ...


class RankBm25(Retriever):
    """The rank-bm25 package's BM25Okapi, over lower-cased words without punctuation, or over stems and pairs as in FTS5."""

    def __init__(self, chunks: Sequence[Chunk], *, stem: bool = False) -> None:
        # Only this comparison needs the package, so the benchmark's other rows run without it.
        package: Any = importlib.import_module("rank_bm25")
        self._stem = stem
        self._ids = [chunk.id for chunk in chunks]
        texts = [chunk.text for chunk in chunks]
        self._index = package.BM25Okapi(terms(map(spread, texts)) if stem else [self._words(text) for text in texts])

    @override
    def search(self, query: str, k: int) -> list[tuple[int, float]]:
        scores = self._index.get_scores(terms([spread(query)])[0] if self._stem else self._words(query))
        best = sorted(range(len(scores)), key=lambda i: -scores[i])[:k]
        return [(self._ids[i], float(scores[i])) for i in best if scores[i] > 0]

    @staticmethod
    def _words(text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())


@dataclass(frozen=True)
class Scheme:
    """How FTS5 is asked."""

    stem: bool = True
    # Leave very common words out of the query.
    without_common: bool = False
    # Index Chinese and Japanese characters in pairs.
    pairs: bool = False
    # The weight of a column with the heading, and with the source's title (0: no such column is asked).
    heading: float = 0
    title: float = 0
    # Ask for neighbouring words as phrases too, or for words within ten of each other.
    phrases: bool = False
    near: bool = False
    # Ask for words that begin with the query's words.
    prefixes: bool = False


class Fts5(Retriever):
    """SQLite's full-text index, ranked by its bm25()."""

    def __init__(self, chunks: Sequence[Chunk], scheme: Scheme = Scheme()) -> None:
        self._scheme = scheme
        self._spread = spread if scheme.pairs else str
        self._db = sqlite3.connect(":memory:")
        tokenizer = f"porter {TOKENIZER}" if scheme.stem else TOKENIZER
        self._db.execute(f"CREATE VIRTUAL TABLE chunks USING fts5(title, heading, body, tokenize='{tokenizer}')")
        self._db.execute("CREATE VIRTUAL TABLE words USING fts5vocab(chunks, row)")
        self._db.executemany(
            "INSERT INTO chunks(rowid, title, heading, body) VALUES (?, ?, ?, ?)",
            ((c.id, *map(self._spread, (TITLES.get(c.source, ""), c.heading, c.text))) for c in chunks),
        )
        self._common = common_terms(stem=scheme.stem)
        self._n = len(chunks)

    @override
    def search(self, query: str, k: int) -> list[tuple[int, float]]:
        words = self._query_words(query)
        if not words:
            return []
        columns = ["body", *(["heading"] if self._scheme.heading else []), *(["title"] if self._scheme.title else [])]
        rows = self._db.execute(
            "SELECT rowid, bm25(chunks, ?, ?, 1.0) AS score FROM chunks WHERE chunks MATCH ? ORDER BY score LIMIT ?",
            (self._scheme.title, self._scheme.heading, f"{{{' '.join(columns)}}} : ({self._expression(words)})", k),
        )
        return [(row, -score) for row, score in rows]

    def confidence(self, query: str, k: int = 3) -> tuple[float, float]:
        """Return how far one of the best `k` chunks covers the question: what share, from 0 to 1, and with how many words.

        A word counts by its inverse document frequency; one that no chunk holds counts most, as 1 word.
        """
        [asked] = terms([self._spread(query)], stem=self._scheme.stem)
        weights = {word: self._weight(word) for word in asked if word not in self._common}
        if not weights:
            return 0.0, 0.0
        found = [row for row, _ in self.search(query, k)]
        marks = ",".join("?" * len(found))
        texts = [row[0] for row in self._db.execute(f"SELECT body FROM chunks WHERE rowid IN ({marks})", found)]  # noqa: S608
        held = terms(texts, stem=self._scheme.stem)
        covered = max((sum(weights[word] for word in weights.keys() & chunk) for chunk in held), default=0.0)
        return covered / sum(weights.values()), covered / self._weight("")

    def _weight(self, word: str) -> float:
        row = self._db.execute("SELECT doc FROM words WHERE term = ?", (word,)).fetchone()
        holders = row[0] if row else 0
        return math.log(1 + (self._n - holders + 0.5) / (holders + 0.5))

    def _query_words(self, query: str) -> list[str]:
        """The query's words, unstemmed, each once."""
        words = list(Counter(re.findall(r"\w+", self._spread(query).lower())))
        if not self._scheme.without_common:
            return words
        stems = terms(words, stem=self._scheme.stem)
        # A question of common words alone is asked as it is.
        return [word for word, stem in zip(words, stems, strict=True) if not self._common.issuperset(stem)] or words

    def _expression(self, words: list[str]) -> str:
        star = "*" if self._scheme.prefixes else ""
        # A short beginning has too many endings.
        parts = [f'"{word}"{star if len(word) > 3 else ""}' for word in words]
        if self._scheme.phrases:
            parts += [f'"{first} {second}"' for first, second in pairwise(words)]
        if self._scheme.near:
            parts += [f'NEAR("{first}" "{second}", 10)' for first, second in pairwise(words)]
        return " OR ".join(parts)
