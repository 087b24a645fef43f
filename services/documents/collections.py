"""Collections: files under a name, which their owner may lend to other keys."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from services.documents.database import DocumentDatabase
from services.documents.files import StoredFile
from services.errors import InvalidRequest, NotFound, Unprocessable
from services.readers import EVERYBODY, Readers, check_readers

MOST_COLLECTIONS = 1000
# The master key's id.
MASTER = "0"
# Slashes part a collection's name from its owner's id, and paths of names that begin with a dot would lead elsewhere.
_LONGEST_NAME, _NAME = 100, re.compile(r"[^/\s.](?:[^/]*[^/\s])?")
_SELECT = "SELECT number, owner, name, readers, created FROM collections"


@dataclass(frozen=True)
class Collection:
    """A collection. `readers` are the ids of the other keys that may search it; `created` is in seconds since 1970."""

    number: int
    owner: str
    name: str
    readers: Readers
    created: float

    def is_read_by(self, key: str) -> bool:
        """Return whether a key may search it."""
        return key == self.owner or self.readers == EVERYBODY or key in self.readers


def check_name(name: str) -> str:
    """Return the name of a new collection. Raises ValueError."""
    if len(name) > _LONGEST_NAME or not name.isprintable() or not _NAME.fullmatch(name):
        raise ValueError(
            f"should have 1 to {_LONGEST_NAME} characters, without / and control characters, and no dot or space in front"
        )
    return name


class Collections:
    """The collections of all keys. Any thread may call it. All raise StorageFailed, Unavailable."""

    def __init__(self, database: DocumentDatabase, is_usable: Callable[[str], bool] = lambda _: True) -> None:
        """`is_usable` returns whether there is a key of an id that has not ended: only such keys lend and read."""
        self._database = database
        self._is_usable = is_usable

    def add(self, owner: str, name: str, readers: Readers, files: Sequence[StoredFile] = ()) -> Collection:
        """Make a collection. Raises Unprocessable if its owner has one of that name, or too many, NotFound for a reader."""
        check_readers(readers, [], self._is_usable)
        with self._database.writing() as db:
            names = [row[0] for row in db.execute("SELECT name FROM collections WHERE owner = ?", (owner,))]
            if name in names:
                raise Unprocessable(f'name: there is a collection "{name}" already', param="name", code="name_taken")
            if len(names) >= MOST_COLLECTIONS:
                what = f"a key may have {MOST_COLLECTIONS:,} collections: delete some (DELETE /collections/NAME)"
                raise Unprocessable(what, code="collections_limit")
            row = (owner, name, json.dumps(readers), time.time())
            query = "INSERT INTO collections (owner, name, readers, created) VALUES (?, ?, ?, ?)"
            made = Collection(db.execute(query, row).lastrowid, owner, name, readers, row[3])
            _add_members(db, made, files)
        return made

    def get(self, owner: str, name: str) -> Collection:
        """Return a key's own collection, by its name or as OWNER/NAME. Raises NotFound."""
        own_name = name.removeprefix(f"{owner}/")
        rows = self._database.read(f"{_SELECT} WHERE owner = ? AND name = ?", owner, own_name)
        if not rows:
            raise _not_found(name)
        return _collection(rows[0])

    def readable(self, key: str, name: str) -> Collection:
        """Return the collection that a key may search: its own or the master key's of this name, or any as OWNER/NAME.

        A name alone is no other key's: with a collection of that name, anybody could take another's place. Raises NotFound,
        and InvalidRequest where only others have lent one of that name.
        """
        owner, slash, own_name = name.partition("/")
        rows = self._database.read(f"{_SELECT} WHERE name = ?", own_name if slash else name)
        found = {each.owner: each for each in map(_collection, rows) if self._is_readable(each, key)}
        for wanted in [owner] if slash else [key, MASTER]:
            if wanted in found:
                return found[wanted]
        if found and not slash:
            names = ", ".join(f'"{each.owner}/{each.name}"' for each in found.values())
            what = f'collection: "{name}" is lent by another key: name it with its owner, as {names}'
            raise InvalidRequest(what, param="collection", code="collection_of_others")
        raise _not_found(name)

    def readable_by(self, key: str) -> list[Collection]:
        """Return the collections that a key may search, its own first, by name."""
        found = [each for each in map(_collection, self._database.read(_SELECT)) if self._is_readable(each, key)]
        return sorted(found, key=lambda each: (each.owner != key, each.name, each.owner))

    def all(self) -> list[Collection]:
        """Return the collections of all keys, by their owners and names."""
        return [_collection(row) for row in self._database.read(f"{_SELECT} ORDER BY owner, name")]

    def files(self, collection: Collection) -> list[int]:
        """Return the numbers of a collection's files, the oldest first."""
        query = "SELECT file FROM members WHERE collection = ? ORDER BY file"
        return [number for (number,) in self._database.read(query, collection.number)]

    def of_files(self, files: Iterable[StoredFile]) -> dict[int, list[str]]:
        """Return the names of the collections that hold each file, by the files' numbers."""
        named: dict[int, list[str]] = {file.number: [] for file in files}
        query = (
            "SELECT file, name FROM collections JOIN members ON collection = number "
            "WHERE file IN (SELECT value FROM json_each(?)) ORDER BY name"
        )
        for number, name in self._database.read(query, json.dumps(list(named))):
            named[number].append(name)
        return named

    def lend(self, collection: Collection, readers: Readers) -> Collection:
        """Replace the readers of a collection. Raises NotFound for one that is no key's id, or if it is gone by now."""
        check_readers(readers, collection.readers, self._is_usable)
        with self._database.writing() as db:
            query = "UPDATE collections SET readers = ? WHERE number = ?"
            if not db.execute(query, (json.dumps(readers), collection.number)).rowcount:
                raise _not_found(collection.name)
        return Collection(collection.number, collection.owner, collection.name, readers, collection.created)

    def include(self, collection: Collection, files: Sequence[StoredFile]) -> None:
        """Add files to a collection; those that it has stay. Raises NotFound if it or one of them is gone by now."""
        with self._database.writing() as db:
            _add_members(db, collection, files)

    def exclude(self, collection: Collection, file: StoredFile) -> None:
        """Take a file out of a collection, which stays stored. Raises NotFound if it is not in it."""
        with self._database.writing() as db:
            query = "DELETE FROM members WHERE collection = ? AND file = ?"
            if not db.execute(query, (collection.number, file.number)).rowcount:
                what = f'the file {file.id} is not in the collection "{collection.name}"'
                raise NotFound(what, param="file", code="file_not_found")

    def remove(self, collection: Collection) -> None:
        """Delete a collection; its files stay. Raises NotFound if it is gone by now."""
        with self._database.writing() as db:
            if not db.execute("DELETE FROM collections WHERE number = ?", (collection.number,)).rowcount:
                raise _not_found(collection.name)

    def _is_readable(self, collection: Collection, key: str) -> bool:
        return collection.is_read_by(key) and (collection.owner == key or self._is_usable(collection.owner))


def _collection(row: tuple[Any, ...]) -> Collection:
    number, owner, name, readers, created = row
    return Collection(number, owner, name, json.loads(readers), created)


def _add_members(db: Any, collection: Collection, files: Sequence[StoredFile]) -> None:
    if not db.execute("SELECT 1 FROM collections WHERE number = ?", (collection.number,)).fetchone():
        raise _not_found(collection.name)
    for file in files:
        if not db.execute("SELECT 1 FROM files WHERE number = ?", (file.number,)).fetchone():
            raise NotFound(f"there is no file {file.id}", param="files", code="file_not_found")
        db.execute("INSERT OR IGNORE INTO members (collection, file) VALUES (?, ?)", (collection.number, file.number))


def _not_found(name: str) -> NotFound:
    return NotFound(f'there is no collection "{name}"', param="collection", code="collection_not_found")
