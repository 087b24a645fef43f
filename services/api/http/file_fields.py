"""The fields by which a request names own files."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel

from services.validation import AnyCollection, FileIds


class FileFields(BaseModel):
    """Files of the key, and a collection, from which a request is answered."""

    files: FileIds | None = None
    collection: AnyCollection | None = None

    @property
    def collections(self) -> tuple[str, ...]:
        """The names of the collections."""
        return (self.collection,) if self.collection else ()

    def all_files(self, named: Iterable[str] = ()) -> tuple[str, ...]:
        """Return the ids of the files, with those that messages have `named`, each once."""
        return tuple(dict.fromkeys([*(self.files or ()), *named]))
