"""The rows of one file in all tables: stored together, and deleted together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.documents.parsing.document import ParsedDocument
from services.documents.words import pairs

# What is known of a file beside its number and its id.
FACTS = (
    *("owner", "name", "kind", "purpose", "digest", "size", "n_bytes", "n_characters", "n_tokens"),
    *("n_pages", "n_chunks", "created"),
)


def store_file(db: Any, facts: Mapping[str, Any], document: ParsedDocument) -> int:
    """Store the facts of a file, its text and its chunks in a transaction; return its number."""
    places = ", ".join("?" * (len(FACTS) + 1))
    query = f"INSERT INTO files (id, {', '.join(FACTS)}) VALUES ({places})"  # noqa: S608
    number = int(db.execute(query, (facts["id"], *(facts[name] for name in FACTS))).lastrowid)
    text = document.text
    db.execute("INSERT INTO texts (file, text) VALUES (?, ?)", (number, text))
    (first,) = db.execute("SELECT coalesce(max(seq), 0) + 1 FROM sqlite_sequence WHERE name = 'chunks'").fetchone()
    chunks = list(enumerate(document.chunks, first))
    rows = ((n, number, chunk.start, chunk.end, chunk.page, chunk.heading) for n, chunk in chunks)
    db.executemany("INSERT INTO chunks (number, file, start, end, page, heading) VALUES (?, ?, ?, ?, ?, ?)", rows)
    # A question may name the file.
    words = (
        (n, piece := text[chunk.start : chunk.end], f"{facts['name']} {chunk.heading}", pairs(f"{chunk.heading} {piece}"))
        for n, chunk in chunks
    )
    db.executemany("INSERT INTO words (rowid, text, heading, pairs) VALUES (?, ?, ?, ?)", words)
    return number


def delete_file(db: Any, id_: str) -> bool:
    """Delete a file's rows in a transaction; return False if there are none."""
    db.execute("INSERT OR IGNORE INTO traces VALUES (1)")
    of_file = "SELECT chunks.number FROM chunks JOIN files ON file = files.number WHERE id = ?"
    db.execute(f"DELETE FROM words WHERE rowid IN ({of_file})", (id_,))  # noqa: S608
    return bool(db.execute("DELETE FROM files WHERE id = ?", (id_,)).rowcount)
