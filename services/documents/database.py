"""data/documents.sqlite, and its two connections: one that writes, and one that reads meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from services.documents.mirror import Mirror
from services.documents.schema import SET_UP, TABLES, TOKENIZER
from services.storage.sqlite_file import VERSION, SqliteFile

NAME = "documents.sqlite"
# True if SQLite removes deleted words from the index at once; older versions have to write the whole index anew.
_DELETES_SECURELY = VERSION >= (3, 42)
_FOR_READING = (
    # Of each term of the index, where it stands.
    "CREATE VIRTUAL TABLE temp.places USING fts5vocab (main, words, instance)",
    # Only SQLite's own tokenizer knows how a word stands in the index.
    f"CREATE VIRTUAL TABLE temp.asked USING fts5 (text, tokenize='{TOKENIZER}')",
    "CREATE VIRTUAL TABLE temp.stems USING fts5vocab (temp, asked, instance)",
)


class DocumentDatabase:
    """The database. Any thread may call it: one at a time reads, and one at a time writes."""

    def __init__(self, path: Path, mirror: Mirror | None = None) -> None:
        """Open the database at `path`, or make it; `mirror` has what other servers store too, None: there are no others.

        Raises DamagedFile, StorageFailed, Unavailable.
        """
        self.mirror = mirror
        kind = "database of documents"
        self._writing, self._reading = threading.Lock(), threading.Lock()
        self._writer = SqliteFile(path, kind, SET_UP)
        with self._writer.explained(), self._writer.transaction():
            for statement in TABLES:
                self._writer.db.execute(statement)
            if _DELETES_SECURELY:
                self._writer.db.execute("INSERT INTO words (words, rank) VALUES ('secure-delete', 1)")
        self._reader = SqliteFile(path, kind, _FOR_READING)
        if self.read("SELECT 1 FROM traces"):
            # A kill came between.
            self.leave_no_trace()

    @contextmanager
    def writing(self, is_own: bool = False) -> Iterator[Any]:
        """Give the connection for changes, of which all are stored or none; `is_own`: other servers do not know of them.

        Raises StorageFailed, Unavailable.
        """
        with self._writing, self._writer.explained(), self._writer.transaction():
            if self.mirror is None or is_own:
                yield self._writer.db
            else:
                with self.mirror.editing(self._writer.db):
                    yield self._writer.db

    def read(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query, those of changes in flight left out. Raises StorageFailed, Unavailable."""
        if self.mirror and self.mirror.has_changed():
            with self.writing(is_own=True) as db:
                self.mirror.refresh(db)
        with self._reading, self._reader.explained():
            return list(self._reader.db.execute(query, values))

    def stems(self, words: Sequence[str]) -> dict[str, str]:
        """Return words as they stand in the index, each with the one of `words` that it was made of."""
        with self._reading, self._reader.explained():
            db = self._reader.db
            db.execute("DELETE FROM asked")
            db.executemany("INSERT INTO asked (rowid, text) VALUES (?, ?)", enumerate(words))
            return {term: words[n] for term, n in db.execute("SELECT term, doc FROM stems ORDER BY doc DESC")}

    def leave_no_trace(self) -> None:
        """Remove what the log of changes and the index still hold of deleted rows. Raises StorageFailed, Unavailable."""
        with self._writing, self._writer.explained():
            if not _DELETES_SECURELY:
                self._writer.db.execute("INSERT INTO words (words) VALUES ('optimize')")
            self._writer.db.execute("DELETE FROM traces")
            # One step of it frees one page.
            self._writer.db.executescript("PRAGMA incremental_vacuum")
            self._writer.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close it."""
        with self._writing, self._reading:
            self._reader.db.close()
            self._writer.db.close()
