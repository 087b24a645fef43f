"""Followed folders: the collection that each fills, its files as they were last read, and what could not be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.documents.collections import Collection, Collections
from services.documents.database import DocumentDatabase
from services.documents.files import Files, InStep, StoredFile
from services.errors import NotFound, Unprocessable

MOST_PROBLEMS = 1000
# Rows that are read at once: a search waits no longer than for so many.
_ROWS = 1000
_COLUMNS = "path, size, mtime_ns, digest, file, problem"


@dataclass(frozen=True)
class FollowedFolder:
    """A folder that a collection follows.

    `disks` is as `walk` has it. `problem` says why the folder is not followed now. `is_leaving`: its files are being
    deleted.
    """

    collection: Collection
    path: Path
    disks: Mapping[str, str]
    problem: str | None
    is_leaving: bool


@dataclass(frozen=True)
class FollowedFile:
    """A file of a followed folder as it was last read; `path` is relative to the folder.

    `digest` is its SHA-256: "" where the name or the size told enough, None where reading it is tried again. `file` is the
    number of the stored file, None if it is not stored, and `problem` says why.
    """

    path: str
    size: int
    mtime_ns: int
    digest: str | None
    file: int | None
    problem: str | None = None


@dataclass(frozen=True)
class Problem:
    """A file (by its relative path) or folder (by its own path) that cannot be read, and the reason."""

    name: str
    reason: str


class Folders:
    """The followed folders of all keys. Any thread may call it. All raise StorageFailed, Unavailable."""

    def __init__(self, database: DocumentDatabase, collections: Collections) -> None:
        self._database = database
        self._collections = collections

    def follow(self, collection: Collection, path: Path) -> None:
        """Have a collection follow a folder. Raises Unprocessable if it follows another, or still loses its files."""
        if folder := self.of(collection):
            if folder.is_leaving:
                what = f'the files of the collection "{collection.name}" are still being deleted: try again in a moment'
                raise Unprocessable(what, code="folder_leaving")
            if folder.path != path:
                what = f'the collection "{collection.name}" follows another folder, {folder.path}: choose another name'
                raise Unprocessable(what, param="name", code="name_taken")
        with self._database.writing() as db:
            query = "INSERT OR IGNORE INTO folders (collection, path) VALUES (?, ?)"
            db.execute(query, (collection.number, str(path)))

    def of(self, collection: Collection) -> FollowedFolder | None:
        """Return the folder that a collection follows; None if it follows none."""
        query = "SELECT path, disks, problem, leaving FROM folders WHERE collection = ?"
        rows = self._database.read(query, collection.number)
        return _folder(collection, *rows[0]) if rows else None

    def all(self) -> list[FollowedFolder]:
        """Return the folders of all collections."""
        rows = self._database.read("SELECT collection, path, disks, problem, leaving FROM folders ORDER BY collection")
        if not rows:
            return []
        known = {collection.number: collection for collection in self._collections.all()}
        return [_folder(known[number], *row) for number, *row in rows if number in known]

    def problems(self, folder: FollowedFolder) -> list[Problem]:
        """Return what cannot be read, the folder itself first, at most MOST_PROBLEMS."""
        query = "SELECT path, problem FROM followed WHERE collection = ? AND problem IS NOT NULL ORDER BY path LIMIT ?"
        rows = self._database.read(query, folder.collection.number, MOST_PROBLEMS)
        whole = [Problem(str(folder.path), folder.problem)] if folder.problem else []
        return [*whole, *(Problem(path, reason) for path, reason in rows)][:MOST_PROBLEMS]

    def files(self, folder: FollowedFolder) -> dict[str, FollowedFile]:
        """Return a folder's files as they were last read, by their paths."""
        query = f"SELECT {_COLUMNS} FROM followed WHERE collection = ? AND path > ? ORDER BY path LIMIT {_ROWS}"  # noqa: S608
        found: dict[str, FollowedFile] = {}
        last = ""
        while rows := self._database.read(query, folder.collection.number, last):
            found |= {row[0]: FollowedFile(*row) for row in rows}
            last = rows[-1][0]
        return found

    def is_followed(self, folder: FollowedFolder) -> bool:
        """Return whether a folder is followed still."""
        now = self.of(folder.collection)
        return now is not None and not now.is_leaving and now.path == folder.path

    def note(self, folder: FollowedFolder, files: Sequence[FollowedFile]) -> None:
        """Note files as they were read now. Raises NotFound if the folder is not followed any more."""
        for first in range(0, len(files), _ROWS):
            with self._database.writing() as db:
                for file in files[first : first + _ROWS]:
                    _note(db, folder, file)

    def noting(self, folder: FollowedFolder, file: FollowedFile) -> InStep:
        """Return a function that notes a file in the step that stores it. It raises NotFound as `note` does."""

        def in_step(db: Any, number: int) -> None:
            _note(db, folder, FollowedFile(file.path, file.size, file.mtime_ns, file.digest, number))

        return in_step

    def forget(self, folder: FollowedFolder, paths: Iterable[str]) -> None:
        """Forget files that are not in the folder any more."""
        with self._database.writing() as db:
            rows = [(folder.collection.number, path) for path in paths]
            db.executemany("DELETE FROM followed WHERE collection = ? AND path = ?", rows)

    def note_state(self, folder: FollowedFolder, problem: str | None, disks: Mapping[str, str]) -> None:
        """Note why a folder is not followed now, None if it is, and its disks, where that has changed."""
        if (problem, disks) != (folder.problem, folder.disks):
            with self._database.writing() as db:
                row = problem, json.dumps(disks), folder.collection.number
                db.execute("UPDATE folders SET problem = ?, disks = ? WHERE collection = ?", row)

    def leave(self, folder: FollowedFolder) -> None:
        """Have a folder's files deleted by `remove_with_files`, now or after the next start."""
        with self._database.writing() as db:
            db.execute("UPDATE folders SET leaving = 1 WHERE collection = ?", (folder.collection.number,))

    def remove(self, folder: FollowedFolder) -> None:
        """Follow a folder no more. Its files stay."""
        with self._database.writing() as db:
            db.execute("DELETE FROM folders WHERE collection = ?", (folder.collection.number,))

    def stored(self, folder: FollowedFolder, files: Files) -> list[StoredFile]:
        """Return the stored files of a folder."""
        numbers = [file.file for file in self.files(folder).values() if file.file is not None]
        return list(files.numbered(numbers).values())

    def remove_with_files(
        self, folder: FollowedFolder, files: Files, forget_state: Callable[[str, str], None] = lambda *_: None
    ) -> int:
        """Follow a folder no more, and delete its files, and its collection if no other file is in that.

        `forget_state` is called with the owner and the name of each computed state that holds text of them. Returns how
        many files there were.
        """
        stored = self.stored(folder, files)
        for owner, state in files.remove_all(stored):
            forget_state(owner, state)
        self.remove(folder)
        if not self._collections.files(folder.collection):
            with suppress(NotFound):
                self._collections.remove(folder.collection)
        return len(stored)


def _folder(collection: Collection, path: str, disks: str, problem: str | None, leaving: int) -> FollowedFolder:
    return FollowedFolder(collection, Path(path), json.loads(disks), problem, bool(leaving))


def _note(db: Any, folder: FollowedFolder, file: FollowedFile) -> None:
    number = folder.collection.number
    if not db.execute("SELECT 1 FROM folders WHERE collection = ? AND NOT leaving", (number,)).fetchone():
        raise NotFound(f"{folder.path} is not followed any more", code="folder_not_followed")
    # A stored file may be deleted by its owner meanwhile.
    query = (
        f"INSERT OR REPLACE INTO followed (collection, {_COLUMNS}) "  # noqa: S608
        "VALUES (?, ?, ?, ?, ?, (SELECT number FROM files WHERE number = ?), ?)"
    )
    db.execute(query, (number, file.path, file.size, file.mtime_ns, file.digest, file.file, file.problem))
