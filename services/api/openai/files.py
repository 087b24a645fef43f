"""/v1/files: the files of a key, as OpenAI's clients store and read them.

Source: the types `FileObject`, `FileDeleted` and `FileListParams` of the `openai` package.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from auth.authentication import caller
from services.answers.service import Answers
from services.api.documents.files import content, forget, name_of, store, uploaded
from services.api.documents.resource import LibraryResource
from services.api.http.schemas import Query, replies, spec, validated
from services.documents.files import StoredFile
from services.documents.library import Library, present
from services.documents.uploads import Upload, Uploads
from services.errors import InvalidRequest
from services.validation import Strict

# What files are used for here; those for training, batches and evaluations are not.
Purpose = Literal["assistants", "user_data"]
_USUAL: Purpose = "user_data"


class OpenAIFileForm(BaseModel):
    """The form of POST /v1/files, multipart/form-data."""

    file: bytes
    purpose: Purpose


class _UploadFields(Strict):
    purpose: Purpose


class OpenAIFile(BaseModel):
    """A stored file; times are seconds since 1970."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: None
    filename: str
    purpose: str
    status: Literal["processed"]
    status_details: None


class OpenAIFiles(BaseModel):
    """A page of the key's files."""

    object: Literal["list"]
    data: list[OpenAIFile]
    has_more: bool
    first_id: str | None
    last_id: str | None


class OpenAIFileDeleted(BaseModel):
    """The deletion is done."""

    id: str
    object: Literal["file"]
    deleted: bool


class FilesQuery(Query):
    """The part of the list: `limit` files of a purpose behind the one of the id `after`."""

    after: str = ""
    limit: Annotated[int, Field(ge=1, le=10_000), BeforeValidator(int)] = 10_000
    order: Literal["asc", "desc"] = "desc"
    purpose: str = ""


class OpenAIFilesResource(LibraryResource):
    """The key's files."""

    def __init__(self, answers: Answers, library: Library | None, uploads: Uploads | None) -> None:
        super().__init__(library)
        self._answers = answers
        self._uploads = uploads

    @spec.validate(form=OpenAIFileForm, resp=replies(OpenAIFile, 400, 413, 415, 422, 500, 503))
    def post(self) -> Any:
        """Store a file, as POST /files does; `purpose` is `assistants` or `user_data`."""
        uploads = present(self._uploads)
        file, given = uploaded()
        fields = validated(_UploadFields, given)
        upload = Upload(caller().id, name_of(file), fields.purpose)
        return store(self._answers, uploads, upload, file, _described)

    @spec.validate(query=FilesQuery, resp=replies(OpenAIFiles, 400))
    def get(self, query: FilesQuery) -> Any:
        """List the key's files, the newest first unless `order` is `asc`."""
        files = self.library.files.of_owner(caller().id)
        if query.purpose:
            files = [file for file in files if _purpose(file) == query.purpose]
        if query.order == "asc":
            files.reverse()
        if query.after:
            files = files[_index(files, query.after) + 1 :]
        page = [_described(file) for file in files[: query.limit]]
        ids = [each["id"] for each in page] or [None]
        return {
            "object": "list",
            "data": page,
            "has_more": len(files) > len(page),
            "first_id": ids[0],
            "last_id": ids[-1],
        }


class OpenAIFileResource(LibraryResource):
    """One file of the key."""

    def __init__(self, answers: Answers, library: Library | None) -> None:
        super().__init__(library)
        self._answers = answers

    @spec.validate(resp=replies(OpenAIFile, 404))
    def get(self, id_: str) -> Any:
        """Describe a file."""
        return _described(self.library.files.get(caller().id, id_))

    @spec.validate(resp=replies(OpenAIFileDeleted, 404, 500, 503))
    def delete(self, id_: str) -> Any:
        """Forget a file, as DELETE /files/ID does."""
        forget(self._answers, self.library, id_)
        return {"id": id_, "object": "file", "deleted": True}


class OpenAIFileContentResource(LibraryResource):
    """The content of a file of the key."""

    @spec.validate(resp=replies(None, 404, text="application/octet-stream"))
    def get(self, id_: str) -> Any:
        """Return a file as it was sent."""
        return content(self.library, self.library.files.get(caller().id, id_))


def _described(file: StoredFile) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": int(file.created),
        "expires_at": None,
        "filename": file.name,
        "purpose": _purpose(file),
        "status": "processed",
        "status_details": None,
    }


def _purpose(file: StoredFile) -> str:
    return file.purpose or _USUAL


def _index(files: list[StoredFile], id_: str) -> int:
    """Return the place of a file in a list. Raises InvalidRequest if it is not there."""
    for n, file in enumerate(files):
        if file.id == id_:
            return n
    raise InvalidRequest(f"after: there is no file {id_}", param="after", code="file_not_found")
