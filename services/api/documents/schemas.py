"""The bodies of requests and replies about own files."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, model_validator

from services.api.http.file_fields import FileFields
from services.api.http.schemas import PassageBody, Query
from services.documents.collections import Collection, check_name
from services.documents.files import StoredFile
from services.documents.folders import FollowedFolder, Problem
from services.documents.library import Library
from services.readers import AnyReaders, Readers
from services.validation import FileIds, Strict

CollectionName = Annotated[str, AfterValidator(check_name)]


class FileForm(BaseModel):
    """The form of POST /files, multipart/form-data. With `stream` the reply comes as events."""

    file: bytes
    collection: CollectionName | None = None
    stream: Literal["true", "false"] | None = None


class FileBody(BaseModel):
    """A stored file. `type` is the kind that it was read as, `tokens` an estimate, `pages` null for kinds without pages."""

    id: str
    name: str
    type: str
    bytes: int
    characters: int
    tokens: int
    pages: int | None
    chunks: int
    created: str
    collections: list[str]


class FilesOfQuery(Query):
    """The query of GET /files."""

    owner: Annotated[str, Field(description="The id of the key whose files are listed; the caller's own without it.")] = ""


class FileList(BaseModel):
    """The key's files, the newest first; `stored_bytes` is what they take together, their texts included."""

    files: list[FileBody]
    stored_bytes: int


class CollectionForm(Strict):
    """The body of POST /collections."""

    name: CollectionName
    files: FileIds = []
    readers: AnyReaders = []


class CollectionChange(Strict):
    """The body of PATCH /collections/NAME: who may search it beside its owner."""

    readers: AnyReaders


class CollectionFiles(Strict):
    """The body of POST /collections/NAME/files."""

    files: FileIds


class ProblemBody(BaseModel):
    """A file or a folder, by its path, that cannot be read, and why."""

    name: str
    reason: str


class CollectionBody(BaseModel):
    """A collection. `owner` is the id of its key; `readers`, `folder`, `problems` and `files` are null for other keys.

    `folder` is the path of the folder that it follows, or null; `problems` has what cannot be read there, at most 1,000.
    """

    name: str
    owner: str
    created: str
    readers: Readers | None
    folder: str | None
    problems: list[ProblemBody] | None
    files: list[FileBody] | None
    n_files: int


class CollectionList(BaseModel):
    """The collections that the key may search, its own first."""

    collections: list[CollectionBody]


class SearchBody(Strict, FileFields):
    """The body of POST /search. Without `files` and `collection` all files of the key are searched."""

    query: Annotated[str, Field(min_length=1, max_length=10_000)]
    k: Annotated[int, Field(ge=1, le=100)] = 5

    @model_validator(mode="after")
    def _has_words(self) -> SearchBody:
        if not self.query.strip():
            raise ValueError("query: it is empty")
        return self


class PassageList(BaseModel):
    """The passages that were found, the best first."""

    passages: list[PassageBody]


def described_file(file: StoredFile, collections: list[str]) -> dict[str, Any]:
    """Return a file as `FileBody` has it."""
    return {
        "id": file.id,
        "name": file.name,
        "type": file.kind,
        "bytes": file.size,
        "characters": file.n_characters,
        "tokens": file.n_tokens,
        "pages": file.n_pages or None,
        "chunks": file.n_chunks,
        "created": _time(file.created),
        "collections": collections,
    }


def described_files(library: Library, files: Sequence[StoredFile]) -> list[dict[str, Any]]:
    """Return files as `FileBody` has them."""
    named = library.collections.of_files(files)
    return [described_file(file, named[file.number]) for file in files]


def described_collection(
    collection: Collection,
    n_files: int,
    key: str,
    files: list[dict[str, Any]] | None,
    folder: FollowedFolder | None = None,
    problems: Sequence[Problem] = (),
) -> dict[str, Any]:
    """Return a collection as `CollectionBody` has it for a key; it follows `folder`, which has these problems."""
    is_own = collection.owner == key
    return {
        "name": collection.name,
        "owner": collection.owner,
        "created": _time(collection.created),
        "readers": collection.readers if is_own else None,
        "folder": str(folder.path) if folder and is_own else None,
        "problems": [{"name": each.name, "reason": each.reason} for each in problems] if is_own else None,
        "files": files if is_own else None,
        "n_files": n_files,
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
