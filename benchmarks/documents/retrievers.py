"""The retrievers that are compared: the library itself, and the rank-bm25 package over the same chunks."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from typing_extensions import override

from benchmarks.documents.chunks import Chunk
from services.documents.database import NAME, DocumentDatabase
from services.documents.library import Library, Passage
from services.documents.parsing.document import ParsedDocument


class Retriever(Protocol):
    """A search that `evaluate` measures."""

    def search(self, query: str, k: int) -> list[int]:
        """Return the ids of the best `k` chunks, best first."""
        ...


class RankBm25(Retriever):
    """The rank-bm25 package's BM25Okapi, over lower-cased words without punctuation, or over stems and pairs as here."""

    def __init__(self, chunks: Sequence[Chunk], stems: DocumentDatabase | None = None) -> None:
        """`stems` is a database whose tokenizer makes them; None: words as they are."""
        # Only this comparison needs the package, so the benchmark's other rows run without it.
        package: Any = importlib.import_module("rank_bm25")
        self._stems = stems
        self._known: dict[str, list[str]] = {}
        self._index = package.BM25Okapi([self._words(chunk.text) for chunk in chunks])

    @override
    def search(self, query: str, k: int) -> list[int]:
        scores = self._index.get_scores(self._words(query))
        best = sorted(range(len(scores)), key=lambda i: -scores[i])[:k]
        return [i for i in best if scores[i] > 0]

    def _words(self, text: str) -> list[str]:
        words = re.findall(r"\w+", text.lower())
        if self._stems is None:
            return words
        if new := [word for word in dict.fromkeys(words) if word not in self._known]:
            for word in new:
                self._known[word] = list(self._stems.stems(_spread(word)))
        return [stem for word in words for stem in self._known[word]]


class OwnLibrary(Retriever):
    """The library, with each source as a file."""

    def __init__(self, folder: Path, documents: Mapping[str, ParsedDocument], titles: Mapping[str, str]) -> None:
        """`folder` is where its data go; `titles` are the names of the files."""
        self.library = Library(folder)
        self.database = DocumentDatabase(folder / NAME)
        self.files = {}
        for source, document in documents.items():
            arrived = self.library.files.new_path()
            arrived.write_bytes(document.text.encode())
            self.files[source] = self.library.files.add("0", titles[source], arrived, "", document)

    @override
    def search(self, query: str, k: int) -> list[int]:
        # Chunks are numbered from 1, in the order in which they are stored.
        return [passage.chunk - 1 for passage in self.passages(query, k)]

    def passages(self, query: str, k: int) -> list[Passage]:
        """Return the best `k` passages of all files."""
        return self.library.search(query, list(self.files.values()), k)

    def within(self, source: str) -> Retriever:
        """Return the retriever of one source's file."""
        return _Within(self, source)


class _Within(Retriever):
    def __init__(self, own: OwnLibrary, source: str) -> None:
        self._own = own
        self._file = own.files[source]

    @override
    def search(self, query: str, k: int) -> list[int]:
        return [passage.chunk - 1 for passage in self._own.library.search(query, [self._file], k)]


def _spread(word: str) -> list[str]:
    from services.documents.words import pairs

    return pairs(word).split() or [word]
