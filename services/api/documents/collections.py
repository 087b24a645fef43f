"""/collections: files under a name, which their owner may lend to other keys."""

from __future__ import annotations

from typing import Any

from auth.authentication import caller
from services.api.documents.resource import LibraryResource
from services.api.documents.schemas import (
    CollectionBody,
    CollectionChange,
    CollectionFiles,
    CollectionForm,
    CollectionList,
    described_collection,
    described_files,
)
from services.api.http.schemas import Deleted, replies, spec
from services.documents.collections import Collection


class _OfCollections(LibraryResource):
    def _described(self, collection: Collection, has_files: bool = True) -> dict[str, Any]:
        numbers, key = self.library.collections.files(collection), caller().id
        is_own, folders = collection.owner == key, self.library.folders
        files = list(self.library.files.numbered(numbers).values()) if has_files and is_own else []
        folder = folders.of(collection) if is_own else None
        problems = folders.problems(folder) if folder else ()
        listed = described_files(self.library, files)
        return described_collection(collection, len(numbers), key, listed if has_files else None, folder, problems)


class CollectionsResource(_OfCollections):
    """The collections that the key may search."""

    @spec.validate(json=CollectionForm, resp=replies(CollectionBody, 400, 404, 413, 422, 500, 503))
    def post(self, json: CollectionForm) -> Any:
        """Make a collection of files of the key; `readers` may search it and be answered from it: they may read it."""
        owner = caller().id
        files = [self.library.files.get(owner, id_) for id_ in json.files]
        return self._described(self.library.collections.add(owner, json.name, json.readers, files))

    @spec.validate(resp=replies(CollectionList))
    def get(self) -> Any:
        """List the collections that the key may search, its own first."""
        found = self.library.collections.readable_by(caller().id)
        return {"collections": [self._described(each, has_files=False) for each in found]}


class CollectionResource(_OfCollections):
    """One collection of the key, or one that is lent to it, as NAME or OWNER/NAME."""

    @spec.validate(resp=replies(CollectionBody, 400, 404))
    def get(self, name: str) -> Any:
        """Describe a collection, with its files if it is the key's own."""
        return self._described(self.library.collections.readable(caller().id, name))

    @spec.validate(json=CollectionChange, resp=replies(CollectionBody, 400, 404, 413, 500, 503))
    def patch(self, json: CollectionChange, name: str) -> Any:
        """Lend a collection of the key to other keys: those whose ids are in `readers`, or "everybody"; [] to none."""
        collections = self.library.collections
        return self._described(collections.lend(collections.get(caller().id, name), json.readers))

    @spec.validate(resp=replies(Deleted, 404, 500, 503))
    def delete(self, name: str) -> Any:
        """Delete a collection of the key. Its files stay."""
        collections = self.library.collections
        collections.remove(collections.get(caller().id, name))
        return {"deleted": True}


class CollectionFilesResource(_OfCollections):
    """The files of a collection of the key."""

    @spec.validate(json=CollectionFiles, resp=replies(CollectionBody, 400, 404, 413, 500, 503))
    def post(self, json: CollectionFiles, name: str) -> Any:
        """Add files of the key to a collection."""
        owner = caller().id
        collection = self.library.collections.get(owner, name)
        self.library.collections.include(collection, [self.library.files.get(owner, id_) for id_ in json.files])
        return self._described(collection)


class CollectionFileResource(_OfCollections):
    """One file of a collection of the key."""

    @spec.validate(resp=replies(Deleted, 404, 500, 503))
    def delete(self, name: str, id_: str) -> Any:
        """Take a file out of a collection. It stays stored."""
        owner = caller().id
        collection = self.library.collections.get(owner, name)
        self.library.collections.exclude(collection, self.library.files.get(owner, id_))
        return {"deleted": True}
