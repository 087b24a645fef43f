"""The files of all keys: what was sent, its text and its chunks. A file is there whole, or not at all."""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.documents.database import DocumentDatabase
from services.documents.mirror import is_of_file
from services.documents.parsing.document import Chunk, ParsedDocument
from services.documents.rows import FACTS, delete_file, store_file
from services.errors import NotFound, StorageFailed
from services.sessions.table import Kept
from services.storage.json_file import give_to_owner, sync_folder

_SELECT = f"SELECT number, id, {', '.join(FACTS)} FROM files"  # noqa: S608
_OWN_NAME = re.compile(r"file-[0-9a-f]{24}(?:\.parsed)?|[0-9a-f.]+\.arriving|file-[0-9a-f.]+\.arriving")
# Seconds after which what is left of an upload in a shared folder is removed.
_GRACE = 3600.0
_ARRIVING = ".arriving"
InStep = Callable[[Any, int], None]
"""Called with the connection and the number of a new file, to store more in the same step."""


@dataclass(frozen=True)
class StoredFile:
    """A file. `size` is that of what was sent, `n_bytes` what it takes here, `n_tokens` an estimate of its text's tokens.

    `n_pages` is 0 for kinds that have no pages; `created` is in seconds since 1970, and `number` counts all files.
    """

    number: int
    id: str
    owner: str
    name: str
    kind: str
    purpose: str
    digest: str
    size: int
    n_bytes: int
    n_characters: int
    n_tokens: int
    n_pages: int
    n_chunks: int
    created: float

    @property
    def state(self) -> str:
        """The name of the computed state of a conversation that begins with its text."""
        return f"file {self.id}"


class Files:
    """The files. Any thread may call it."""

    def __init__(self, database: DocumentDatabase, folder: Path) -> None:
        """`folder` holds the files as they were sent. What a kill has left there is removed.

        Raises StorageFailed, Unavailable.
        """
        self._database = database
        self._folder = folder
        if database.mirror is None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif not folder.is_dir():
            raise StorageFailed(f"{folder} is no folder: the API nodes should share one there (--documents)")
        known = database.mirror.ids() if database.mirror else {id_ for (id_,) in database.read("SELECT id FROM files")}
        # Other servers may be storing files in a folder that is shared.
        grace = _GRACE if database.mirror else 0.0
        for path in folder.iterdir():
            # What else stands there is not ours.
            if _OWN_NAME.fullmatch(path.name) and not is_of_file(path.name, known):
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime <= time.time() - grace:
                        path.unlink()

    def new_path(self) -> Path:
        """Make an empty file for this user only, in which a file arrives. The caller removes it, or stores it."""
        path = self._folder / f"{secrets.token_hex(12)}{_ARRIVING}"
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            give_to_owner(file, path)
        finally:
            os.close(file)
        return path

    def add(
        self,
        owner: str,
        name: str,
        arrived: Path,
        digest: str,
        document: ParsedDocument,
        purpose: str = "",
        collection: int | None = None,
        replaces: StoredFile | None = None,
        in_step: InStep = lambda *_: None,
    ) -> StoredFile:
        """Store the file that has arrived at `arrived` (see `new_path`), in a collection if one is given.

        In the same step it takes the place of another, and `in_step` is called. Raises StorageFailed, Unavailable, and what
        `in_step` raises; then nothing is stored.
        """
        size = arrived.stat().st_size
        facts = {
            "id": (id_ := f"file-{secrets.token_hex(12)}"),
            "owner": owner,
            "name": name,
            "kind": document.kind,
            "purpose": purpose,
            "digest": digest,
            "size": size,
            "n_bytes": size + len(document.text.encode("utf-8", "replace")),
            "n_characters": len(document.text),
            "n_tokens": document.n_tokens,
            "n_pages": len(document.pages),
            "n_chunks": len(document.chunks),
            "created": time.time(),
        }
        path, mirror = self._folder / id_, self._database.mirror
        arrived.rename(path)
        try:
            _sync(path)
            if mirror:
                mirror.keep(id_, document)
            with self._database.writing() as db:
                number = store_file(db, facts, document)
                if collection is not None:
                    db.execute("INSERT INTO members (collection, file) VALUES (?, ?)", (collection, number))
                is_replaced = replaces is not None and delete_file(db, replaces.id)
                in_step(db, number)
        except BaseException:
            self._unlink(id_)
            raise
        if replaces and is_replaced:
            self._unlink(replaces.id)
        return StoredFile(number=number, **facts)  # type: ignore[arg-type]

    def get(self, owner: str, id_: str) -> StoredFile:
        """Return a file. Raises NotFound if it is not there, or another key's."""
        rows = self._database.read(f"{_SELECT} WHERE id = ? AND owner = ?", id_, owner)
        if not rows:
            raise file_not_found(id_)
        return StoredFile(*rows[0])

    def of_owner(self, owner: str) -> list[StoredFile]:
        """Return a key's files, the newest first."""
        return [StoredFile(*row) for row in self._database.read(f"{_SELECT} WHERE owner = ? ORDER BY number DESC", owner)]

    def all(self) -> list[StoredFile]:
        """Return the files of all keys."""
        return [StoredFile(*row) for row in self._database.read(_SELECT)]

    def numbered(self, numbers: Sequence[int]) -> dict[int, StoredFile]:
        """Return the files of these numbers that are still there."""
        rows = self._database.read(
            f"{_SELECT} WHERE number IN (SELECT value FROM json_each(?))",  # noqa: S608
            json.dumps(list(numbers)),
        )
        return {row[0]: StoredFile(*row) for row in rows}

    def path(self, file: StoredFile) -> Path:
        """Return where the file lies, as it was sent."""
        return self._folder / file.id

    def text(self, file: StoredFile) -> str:
        """Return a file's text. Raises NotFound if it is gone by now."""
        rows = self._database.read("SELECT text FROM texts WHERE file = ?", file.number)
        if not rows:
            raise file_not_found(file.id)
        return str(rows[0][0])

    def chunks(self, file: StoredFile) -> list[Chunk]:
        """Return a file's chunks in the order of its text."""
        query = "SELECT start, end, page, heading FROM chunks WHERE file = ? ORDER BY number"
        return [Chunk(*row) for row in self._database.read(query, file.number)]

    def remove(self, owner: str | None, id_: str) -> set[tuple[str, str]]:
        """Forget a file of an owner, None: of any, and leave no trace of it here. Raises NotFound if it is not stored.

        Returns the owners and the names of the computed states that still hold text of it.
        """
        rows = self._database.read(f"{_SELECT} WHERE id = ? AND owner = coalesce(?, owner)", id_, owner)
        if not rows:
            raise file_not_found(id_)
        return self.remove_all([StoredFile(*rows[0])])

    def remove_all(self, files: Iterable[StoredFile]) -> set[tuple[str, str]]:
        """Forget files as `remove` does; those that are gone already stay so."""
        states: set[tuple[str, str]] = set()
        for file in files:
            states |= self.readings(file)
            with self._database.writing() as db:
                is_there = delete_file(db, file.id)
            if is_there:
                self._unlink(file.id)
        self._database.leave_no_trace()
        return states

    def note_reading(self, files: Iterable[StoredFile], owner: str, state: str) -> None:
        """Note that a conversation's computed state holds text of these files."""
        new = [file.number for file in files if (owner, state) not in self.readings(file)]
        if new:
            with self._database.writing(is_own=True) as db:
                # One of them may be gone by now.
                query = "INSERT OR IGNORE INTO readings SELECT number, ?, ? FROM files WHERE number = ?"
                db.executemany(query, [(owner, state, number) for number in new])

    def readings(self, file: StoredFile) -> set[tuple[str, str]]:
        """Return the owners and the names of the computed states that hold text of a file, its own included."""
        rows = self._database.read("SELECT owner, state FROM readings WHERE file = ?", file.number)
        return {(file.owner, file.state), *rows}

    def leave_no_trace(self) -> None:
        """Remove what the index still holds of files that were replaced. Raises StorageFailed, Unavailable."""
        self._database.leave_no_trace()

    def named(self, collection: int, name: str, digest: str) -> StoredFile | None:
        """Return a file of a collection that has this name and content, and that no folder is followed for."""
        rows = self._database.read(
            f"{_SELECT} WHERE name = ? AND digest = ? AND number IN (SELECT file FROM members WHERE collection = ?) "  # noqa: S608
            "AND number NOT IN (SELECT file FROM followed WHERE file IS NOT NULL)",
            *(name, digest, collection),
        )
        return StoredFile(*rows[0]) if rows else None

    def kept(self, owner: str) -> Kept:
        """Return the number and the bytes of a key's files."""
        query = "SELECT count(*), coalesce(sum(n_bytes), 0) FROM files WHERE owner = ?"
        return Kept(*self._database.read(query, owner)[0])

    def _unlink(self, id_: str) -> None:
        # A kill before this leaves a file that the next start removes.
        (self._folder / id_).unlink(missing_ok=True)
        if self._database.mirror:
            self._database.mirror.drop(id_)


def file_not_found(id_: str) -> NotFound:
    """Return the error for a file that is not there, or another key's."""
    what = f"there is no file {id_}: files are named by their ids, which GET /files lists"
    return NotFound(what, param="file", code="file_not_found")


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    sync_folder(path.parent)
