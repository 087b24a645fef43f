"""The words by which text is found: those of a question, and pairs of characters where a script writes no spaces."""

from __future__ import annotations

import re
from collections.abc import Iterator

from services.documents.common_words import COMMON_WORDS

# Scripts without spaces between words: Thai and Lao, Burmese, Khmer, and those of Chinese and Japanese.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_RUN = re.compile(f"[{_UNSPACED}]+")
_WORD = re.compile(r"[^\W_]+")
# Words of a question that are looked for, at most; a longer one is a text of its own.
MOST_WORDS = 64


def pairs(text: str) -> str:
    """Return every two neighbouring characters of runs without spaces, with spaces between; "" where there are none.

    A lone character is its own pair. Lucene's CJKBigramFilter does the same.
    """
    return " ".join(pair for run in _RUN.findall(text) for pair in _pairs_of(run))


def words_of(question: str) -> list[str]:
    """Return the different words to look for, as written, at most MOST_WORDS.

    Words that every question has are left out, unless there are no others.
    """
    found: dict[str, str] = {}
    for word in _all_words(question):
        found.setdefault(word.casefold(), word)
    telling = [word for folded, word in found.items() if folded not in COMMON_WORDS]
    return (telling or list(found.values()))[:MOST_WORDS]


def _all_words(text: str) -> Iterator[str]:
    for found in _WORD.finditer(text):
        word = found[0]
        rest = _RUN.sub(" ", word)
        for run in _RUN.findall(word):
            yield from _pairs_of(run)
        yield from rest.split()


def _pairs_of(run: str) -> list[str]:
    return [run[n : n + 2] for n in range(len(run) - 1)] or [run]
