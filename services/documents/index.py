"""The index: finds the chunks that match a question's words, in the files that the search is about.

All statistics are those of these files, so that no result depends on what other keys have stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from services.documents.database import DocumentDatabase
from services.documents.ranking import Corpus, Term, best, bm25, confidence
from services.documents.words import words_of

# Occurrences that a search looks at, the rarest words first: common ones add little, and would take most of the time.
MOST_OCCURRENCES = 3000
# The weights of a word in the text, in the headings above it or the file's name, and of a pair of characters.
_WEIGHTS = {"text": 1.0, "heading": 0.25, "pairs": 1.0}


@dataclass(frozen=True)
class Hit:
    """A chunk that was found, by its number, its score from 0 to 1, and how sure it is that it is about the question."""

    chunk: int
    score: float
    confidence: float


class Index:
    """The index of all chunks. Any thread may call it."""

    def __init__(self, database: DocumentDatabase) -> None:
        self._database = database

    def find(self, question: str, files: list[int], k: int) -> list[Hit]:
        """Return the `k` chunks of these files that match a question best. Raises StorageFailed, Unavailable."""
        terms, lengths = self._look_up(self._database.stems(words_of(question)), files)
        if not lengths:
            return []
        corpus = self._corpus(files)
        scores = bm25(terms, corpus, lengths)
        return [Hit(chunk, min(scores[chunk], 1.0), confidence(terms, corpus, chunk)) for chunk in best(scores, k)]

    def _look_up(self, terms: Mapping[str, str], files: list[int]) -> tuple[list[Term], dict[int, int]]:
        """Return the terms that are sought, the rarest first, with their chunks, and these chunks' lengths."""
        sizes = sorted((self._size(word, files), term) for term, word in terms.items())
        found: list[Term] = []
        lengths: dict[int, int] = {}
        left = MOST_OCCURRENCES
        for size, term in sizes:
            if size > left and lengths:
                break
            left -= size
            counts: dict[int, float] = {}
            for chunk, column, length in self._occurrences(term, files):
                counts[chunk] = counts.get(chunk, 0.0) + _WEIGHTS[column]
                lengths[chunk] = length
            found.append(Term(counts))
        return found, lengths

    def _size(self, word: str, files: list[int]) -> int:
        """Return how many chunks of these files have a word, at most one more than are looked at."""
        query = (
            "SELECT count(*) FROM (SELECT 1 FROM words CROSS JOIN chunks ON number = words.rowid WHERE words MATCH ? "
            "AND file IN (SELECT value FROM json_each(?)) LIMIT ?)"
        )
        return int(self._database.read(query, f'"{word}"', json.dumps(files), MOST_OCCURRENCES + 1)[0][0])

    def _occurrences(self, term: str, files: list[int]) -> list[tuple[int, str, int]]:
        query = (
            "SELECT doc, col, end - start FROM places CROSS JOIN chunks ON number = doc WHERE term = ? "
            "AND file IN (SELECT value FROM json_each(?)) LIMIT ?"
        )
        return self._database.read(query, term, json.dumps(files), 2 * MOST_OCCURRENCES)

    def _corpus(self, files: list[int]) -> Corpus:
        query = "SELECT sum(n_chunks), sum(n_characters) FROM files WHERE number IN (SELECT value FROM json_each(?))"
        n_chunks, n_characters = self._database.read(query, json.dumps(files))[0]
        return Corpus(n_chunks or 1, (n_characters or 1) / (n_chunks or 1))
