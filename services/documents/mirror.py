"""The mirror of own files that several servers share: each has an index of its own, made of what all of them see.

A table has the facts of all files and collections: `{"file ID": {facts, "created"}, "collection OWNER/NAME": {"readers",
"files": [ids], "created"}}`. A folder has each file as it was sent (ID), and its parsed text (ID.parsed, gzipped JSON).
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.documents.parsing.document import Chunk, ParsedDocument
from services.documents.rows import FACTS, delete_file, store_file
from services.errors import Unavailable
from services.storage.json_file import JsonTable, sync_folder

log = logging.getLogger(__name__)

# The name of the table, where a file would have it.
TABLE = Path("documents.json")

_FILE, _COLLECTION, _PARSED = "file ", "collection ", ".parsed"
Facts = Mapping[str, Any]


class Mirror:
    """The files that several servers share. Owned by the database, which lets one thread at a time change it."""

    def __init__(self, table: JsonTable, folder: Path) -> None:
        """`table` has the facts, `folder` the files."""
        self._table = table
        self._folder = folder
        self._seen: Facts | None = None
        """The table's content that the index agrees with."""

    def ids(self) -> set[str]:
        """Return the ids of all files in the table. Raises Unavailable."""
        return {name.removeprefix(_FILE) for name in self._table.read() if name.startswith(_FILE)}

    def has_changed(self) -> bool:
        """Return whether another server has changed something. Raises Unavailable."""
        return self._table.read() is not self._seen

    def refresh(self, db: Any) -> None:
        """Bring the index, of which `db` is a transaction, up to the table. Raises Unavailable."""
        known = self._table.read()
        if self._apply(db, known):
            self._seen = known

    @contextmanager
    def editing(self, db: Any) -> Iterator[None]:
        """Do the block's changes in the table too, or neither here nor there. Raises Unavailable, StorageFailed."""
        with self._table.edit() as shared:
            if not self._apply(db, shared):
                what = "the folder of documents cannot be read as a whole now: nothing is changed"
                raise Unavailable(what, code="documents_away", retry_after=5)
            yield
            now = _described(db)
            # An entry that is equal is not written again.
            for name in shared.keys() - now.keys():
                del shared[name]
            shared.update({name: facts for name, facts in now.items() if shared.get(name) != facts})

    def keep(self, id_: str, document: ParsedDocument) -> None:
        """Store a file's parsed text, before the table names the file. Raises OSError."""
        path = self._parsed(id_)
        draft = path.with_suffix(f".{secrets.token_hex(4)}.arriving")
        text = json.dumps(asdict(document), ensure_ascii=False).encode("utf-8", "surrogatepass")
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(gzip.compress(text, 3))
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
        sync_folder(self._folder)

    def drop(self, id_: str) -> None:
        """Remove a file's parsed text. Raises OSError."""
        self._parsed(id_).unlink(missing_ok=True)

    def _apply(self, db: Any, known: Facts) -> bool:
        """Change the index to what the table says; return whether all of it could be had."""
        if known is self._seen:
            return True
        here, is_whole = _described(db), True
        for name in here.keys() - known.keys():
            if name.startswith(_FILE):
                delete_file(db, name.removeprefix(_FILE))
        for name in known.keys() - here.keys():
            if name.startswith(_FILE):
                is_whole &= self._take(db, name.removeprefix(_FILE), known[name])
        _store_collections(db, {name: facts for name, facts in known.items() if name.startswith(_COLLECTION)}, here)
        return is_whole

    def _take(self, db: Any, id_: str, facts: Facts) -> bool:
        """Take in a file that another server has stored; return False if its text cannot be read now."""
        try:
            value = json.loads(gzip.decompress(self._parsed(id_).read_bytes()))
            chunks = tuple(Chunk(**chunk) for chunk in value.pop("chunks"))
            document = ParsedDocument(value["text"], value["kind"], tuple(value["pages"]), (), chunks, value["n_tokens"])
        except (OSError, ValueError, TypeError, KeyError, EOFError) as error:
            log.warning("the text of %s cannot be read in the folder of documents: %s", id_, error)
            return False
        store_file(db, {**facts, "id": id_}, document)
        return True

    def _parsed(self, id_: str) -> Path:
        return self._folder / f"{id_}{_PARSED}"


def is_of_file(name: str, ids: set[str]) -> bool:
    """Return whether a name in the folder belongs to one of these files."""
    return name.removesuffix(_PARSED) in ids


def states_of(known: Facts) -> set[tuple[str, str]]:
    """Return the owners and the names of the computed states that the files of a table may have."""
    return {(facts["owner"], name) for name, facts in known.items() if name.startswith(_FILE)}


def _described(db: Any) -> dict[str, Any]:
    """Return the table's content for what the index holds."""
    described: dict[str, Any] = {}
    for id_, *facts in db.execute(f"SELECT id, {', '.join(FACTS)} FROM files"):  # noqa: S608
        described[f"{_FILE}{id_}"] = dict(zip(FACTS, facts, strict=True))
    members: dict[int, list[str]] = {}
    for collection, id_ in db.execute("SELECT collection, id FROM members JOIN files ON file = number ORDER BY number"):
        members.setdefault(collection, []).append(id_)
    for number, owner, name, readers, created in db.execute(
        "SELECT number, owner, name, readers, created FROM collections"
    ):
        facts = {"readers": json.loads(readers), "created": created, "files": sorted(members.get(number, []))}
        described[f"{_COLLECTION}{owner}/{name}"] = facts
    return described


def _store_collections(db: Any, known: Facts, here: Facts) -> None:
    for entry in {name for name in here if name.startswith(_COLLECTION)} | known.keys():
        if here.get(entry) == known.get(entry):
            continue
        owner, _, name = entry.removeprefix(_COLLECTION).partition("/")
        if entry not in known:
            db.execute("DELETE FROM collections WHERE owner = ? AND name = ?", (owner, name))
            continue
        facts = known[entry]
        query = (
            "INSERT INTO collections (owner, name, readers, created) VALUES (?, ?, ?, ?) ON CONFLICT (owner, name) "
            "DO UPDATE SET readers = excluded.readers, created = excluded.created RETURNING number"
        )
        (number,) = db.execute(query, (owner, name, json.dumps(facts["readers"]), facts["created"])).fetchone()
        db.execute("DELETE FROM members WHERE collection = ?", (number,))
        of_ids = "SELECT ?, number FROM files WHERE id IN (SELECT value FROM json_each(?))"
        query = f"INSERT INTO members (collection, file) {of_ids}"
        db.execute(query, (number, json.dumps(facts["files"])))
