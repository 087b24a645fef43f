"""The library: the files and collections of all keys, and the passages that are found in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from services.documents.collections import Collections
from services.documents.database import NAME, DocumentDatabase
from services.documents.files import Files, StoredFile
from services.documents.index import Index
from services.errors import Unavailable

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


class Library:
    """All documents of one server. Any thread may call it."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the server's data folder. Raises DamagedFile, StorageFailed, Unavailable."""
        self._database = DocumentDatabase(folder / NAME)
        self.files = Files(self._database, folder / "documents")
        self.collections = Collections(self._database)
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
        by_number = {file.number: file for file in files}
        hits = {hit.chunk: hit for hit in self._index.find(question, list(by_number), k)}
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
                found.append(Passage(*about, hit.score, hit.confidence, start))
        return found

    def passages(self, file: StoredFile) -> list[Passage]:
        """Return a file's whole text in passages, one after the other without overlap. Raises NotFound if it is gone."""
        text, chunks = self.files.text(file), self.files.chunks(file)
        passages: list[Passage] = []
        for n, chunk in enumerate(chunks):
            start = passages[-1].end if passages else 0
            end = chunk.end if n + 1 < len(chunks) else len(text)
            passages.append(Passage(file, start, end, chunk.page, chunk.heading, text[start:end], found_start=chunk.start))
        return passages

    def states(self) -> set[tuple[str, str]]:
        """Return the owners and the names of the computed states that files may have."""
        return {(file.owner, file.state) for file in self.files.all()}

    def close(self) -> None:
        """Close it."""
        self._database.close()


def present(part: Part | None) -> Part:
    """Return a part of a server that keeps files. Raises Unavailable if it keeps none."""
    if part is None:
        what = "files are not kept here: the nodes of a cluster would need a folder that they share"
        raise Unavailable(what, code="no_documents")
    return part
