"""The library: the files and collections of all keys, and the passages that are found in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from services.documents.collections import Collections
from services.documents.database import NAME, DocumentDatabase
from services.documents.files import Files, StoredFile
from services.documents.folders import Folders
from services.documents.index import Hit, Index
from services.documents.mirror import Mirror
from services.documents.ranking import fused
from services.documents.vectors import Near, Vectors
from services.errors import Unavailable

# Passages of which the best three are less sure answer nothing; see `ranking.confidence`.
LEAST_SURE = 0.5
# A vector that is nearer to the question's than those of all chunks are by so many standard deviations is sure enough.
LEAST_DISTANCE = 3.5
Part = TypeVar("Part")


@dataclass(frozen=True)
class Passage:
    """A passage of a file: where it stands in the file's text (in characters), its page, and its score from 0 to 1.

    `heading` joins the headings that it stands under; `page` is None for kinds of files without pages.
    """

    file: StoredFile
    start: int
    end: int
    page: int | None
    heading: str
    text: str = field(repr=False)
    score: float = 0.0
    confidence: float = 0.0
    """How sure it is that it is about the question; see `ranking.confidence`."""
    found_start: int = 0
    """Where the chunk begins by which it is found: before `start`, where that repeats the end of the one before."""
    chunk: int = 0
    """The number of that chunk, where it was found."""


class Library:
    """All documents of one server. Any thread may call it."""

    def __init__(
        self,
        folder: Path,
        files: Path | None = None,
        mirror: Mirror | None = None,
        is_usable: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """`folder` is the server's data folder, `files` that of the files as they were sent; None: one in `folder`.

        `mirror` has what other servers store too; `is_usable` is as in `Collections`. Raises DamagedFile, StorageFailed,
        Unavailable.
        """
        self._database = DocumentDatabase(folder / NAME, mirror)
        self.files = Files(self._database, files or folder / "documents")
        self.collections = Collections(self._database, is_usable)
        self.vectors = Vectors(self._database)
        self.folders = Folders(self._database, self.collections)
        self._index = Index(self._database)

    def scope(self, key: str, ids: Sequence[str] = (), names: Sequence[str] = ()) -> list[StoredFile]:
        """Return the files that a request of a key is about: its own of these ids, and those of these collections.

        Raises NotFound for what is not there or may not be read, InvalidRequest for a name that several have lent.
        """
        found = {file.number: file for file in (self.files.get(key, id_) for id_ in ids)}
        for name in names:
            found |= self.files.numbered(self.collections.files(self.collections.readable(key, name)))
        return list(found.values())

    def search(self, question: str, files: Sequence[StoredFile], k: int) -> list[Passage]:
        """Return the `k` passages of these files that match a question best, the best first.

        Raises StorageFailed, Unavailable.
        """
        found = self._index.find(question, [file.number for file in files], k)
        return self._passages({hit.chunk: hit for hit in found}, files)

    def _passages(self, hits: Mapping[int, Hit], files: Sequence[StoredFile]) -> list[Passage]:
        by_number = {file.number: file for file in files}
        query = (
            "SELECT number, file, start, end, page, chunks.heading, text FROM chunks CROSS JOIN words "
            "ON words.rowid = number WHERE number IN (SELECT value FROM json_each(?))"
        )
        rows = {number: row for number, *row in self._database.read(query, json.dumps(list(hits)))}
        found: list[Passage] = []
        for number, hit in hits.items():
            # A file may be gone by now.
            if number in rows:
                file, start, end, page, heading, text = rows[number]
                about = by_number[file], start, end, page, heading, text
                found.append(Passage(*about, hit.score, hit.confidence, start, number))
        return found

    def with_near(
        self, asked: Sequence[float], model: str, files: Sequence[StoredFile], found: Sequence[Passage], k: int
    ) -> list[Passage]:
        """Return the `k` best of the passages that were found by words, the best first, and of those nearest to a vector.

        `asked` is the question's vector by `model`. Raises StorageFailed, Unavailable.
        """
        near = {each.chunk: each for each in self.vectors.nearest(asked, [file.number for file in files], model, k)}
        by_words = {passage.chunk: passage for passage in found}
        order = fused([by_words, near], k)
        others = self._passages({n: Hit(n, 0.0, 0.0) for n in order if n not in by_words}, files)
        known = by_words | {passage.chunk: passage for passage in others}
        return [_nearer(known[n], near.get(n)) for n in order if n in known]

    def passages(self, file: StoredFile) -> list[Passage]:
        """Return a file's whole text in passages, one after the other without overlap. Raises NotFound if it is gone."""
        text, chunks = self.files.text(file), self.files.chunks(file)
        passages: list[Passage] = []
        for n, chunk in enumerate(chunks):
            start = passages[-1].end if passages else 0
            end = chunk.end if n + 1 < len(chunks) else len(text)
            start += len(text[start:end]) - len(text[start:end].lstrip())
            passages.append(Passage(file, start, end, chunk.page, chunk.heading, text[start:end], found_start=chunk.start))
        return passages

    def chunk_texts(self, file: int) -> list[str]:
        """Return the texts of a file's chunks, in their order, by the file's number."""
        query = "SELECT text FROM words WHERE rowid IN (SELECT number FROM chunks WHERE file = ?) ORDER BY rowid"
        return [text for (text,) in self._database.read(query, file)]

    def states(self) -> set[tuple[str, str]]:
        """Return the owners and the names of the computed states that files may have."""
        return {(file.owner, file.state) for file in self.files.all()}

    def close(self) -> None:
        """Close it."""
        self._database.close()


def _nearer(passage: Passage, near: Near | None) -> Passage:
    """Return a passage with what its vector says of it."""
    if near is None:
        return passage
    sure = LEAST_SURE if near.distance >= LEAST_DISTANCE else 0.0
    return replace(passage, score=max(passage.score, min(near.cosine, 1.0)), confidence=max(passage.confidence, sure))


def present(part: Part | None) -> Part:
    """Return a part of a server that keeps files. Raises Unavailable if it keeps none."""
    if part is None:
        what = (
            "files are not kept here: start the cluster's API nodes with --documents FOLDER (HEARTH_DOCUMENTS), a folder "
            "that they share"
        )
        raise Unavailable(what, code="no_documents", public="files are not kept on this server. Ask whoever runs it")
    return part
