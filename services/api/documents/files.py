"""/files: the files of a key."""

from __future__ import annotations

import mimetypes
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from flask import Response, request, send_file
from werkzeug.datastructures import FileStorage

from auth.authentication import caller
from services.answers.service import Answers
from services.api.documents.progress import UploadEvents
from services.api.documents.resource import LibraryResource
from services.api.documents.schemas import (
    CollectionName,
    FileBody,
    FileForm,
    FileList,
    FilesOfQuery,
    described_file,
    described_files,
)
from services.api.http import sse
from services.api.http.client import current_client
from services.api.http.schemas import Deleted, replies, spec, validated
from services.documents.files import StoredFile, file_not_found
from services.documents.library import Library, present
from services.documents.uploads import Poll, Progress, Upload, Uploads
from services.errors import InvalidRequest, NotPermitted
from services.validation import Strict

# Types that a browser shows without running anything in them.
_SHOWN = ("application/pdf", "text/plain", "text/csv", "text/markdown")
_LONGEST_NAME = 255


class _UploadFields(Strict):
    """The fields of the form beside the file."""

    collection: CollectionName | None = None
    stream: str | None = None


class FilesResource(LibraryResource):
    """The key's files."""

    def __init__(self, answers: Answers, library: Library | None, uploads: Uploads | None) -> None:
        super().__init__(library)
        self._answers = answers
        self._uploads = uploads

    @spec.validate(form=FileForm, resp=replies(FileBody, 400, 413, 415, 422, 500, 503))
    def post(self) -> Any:
        """Store a file (multipart/form-data), so that answers and searches can draw on it.

        Text, Markdown, HTML, PDF, docx, odt, epub, csv and source code are read, up to 50 MiB. With `collection` the file
        goes into that collection; a new name makes one. With `stream` "true" the reply is text/event-stream:
        events of how much is read and indexed, the last of which is the file, then `data: [DONE]`. A file that cannot be
        read leaves nothing.
        """
        uploads = present(self._uploads)
        file, given = uploaded()
        fields = validated(_UploadFields, given)
        if fields.stream not in (None, "true", "false"):
            raise InvalidRequest('stream: should be "true" or "false"', param="stream")
        upload = Upload(caller().id, name_of(file), collection=fields.collection)
        collections = [fields.collection] if fields.collection else []
        streams = fields.stream == "true"
        return store(self._answers, uploads, upload, file, lambda stored: described_file(stored, collections), streams)

    @spec.validate(query=FilesOfQuery, resp=replies(FileList))
    def get(self, query: FilesOfQuery) -> Any:
        """List the key's files, the newest first. The master key may list another key's by its id: ?owner=KEY_ID."""
        owner = query.owner or caller().id
        if owner != caller().id and not caller().is_master:
            raise NotPermitted("owner: only the master key may list the files of others", param="owner")
        files = self.library.files.of_owner(owner)
        return {"files": described_files(self.library, files), "stored_bytes": self.library.files.kept(owner).n_bytes}


class FileResource(LibraryResource):
    """One file of the key."""

    def __init__(self, answers: Answers, library: Library | None) -> None:
        super().__init__(library)
        self._answers = answers

    @spec.validate(resp=replies(FileBody, 404))
    def get(self, id_: str) -> Any:
        """Describe a file."""
        return described_files(self.library, [self.library.files.get(caller().id, id_)])[0]

    @spec.validate(resp=replies(Deleted, 404, 500, 503))
    def delete(self, id_: str) -> Any:
        """Forget a file: its content, its text and what was computed of it. Collections lose it too."""
        forget(self._answers, self.library, id_)
        return {"deleted": True}


class FileContentResource(LibraryResource):
    """The content of a file of the key."""

    @spec.validate(resp=replies(None, 404, text="application/octet-stream"))
    def get(self, id_: str) -> Any:
        """Return a file as it was sent."""
        return content(self.library, self.library.files.get(caller().id, id_))


def uploaded() -> tuple[FileStorage, dict[str, str]]:
    """Return the file of the form that was sent, and the form's other fields. Raises InvalidRequest."""
    if request.mimetype != "multipart/form-data":
        what = "the body should be a form: multipart/form-data with a field `file` (curl -F file=@NAME)"
        raise InvalidRequest(what, param="Content-Type", code="not_multipart")
    given, files = request.form.to_dict(), request.files.to_dict(flat=False)
    if repeated := [name for name, values in request.form.lists() if len(values) > 1]:
        raise InvalidRequest(f"{repeated[0]}: send it once", param=repeated[0])
    if others := sorted(files.keys() - {"file"}):
        raise InvalidRequest(f"{others[0]}: there is no such field: send the file as `file`", param=others[0])
    if "file" in given or "file" not in files:
        what = "is missing" if "file" not in given else "has no file name: send it as a file (curl -F file=@NAME)"
        raise InvalidRequest(f"file: it {what}", param="file", code="file_missing")
    if len(files["file"]) > 1:
        raise InvalidRequest("file: send one file with each request", param="file")
    return files["file"][0], given


def name_of(file: FileStorage) -> str:
    """Return a file's name without folders and control characters. Raises InvalidRequest where nothing is left."""
    last = (file.filename or "").replace("\\", "/").rpartition("/")[2]
    name = "".join(character for character in last if character.isprintable()).strip()
    if not name or set(name) == {"."}:
        raise InvalidRequest("file: it needs a name, of whose ending its kind is told", param="file", code="file_name")
    if len(name) > _LONGEST_NAME:
        what = f"file: its name is longer than {_LONGEST_NAME} characters"
        raise InvalidRequest(what, param="file", code="file_name")
    return name


def store(
    answers: Answers,
    uploads: Uploads,
    upload: Upload,
    file: FileStorage,
    describe: Callable[[StoredFile], dict[str, Any]],
    streams: bool = False,
) -> Any:
    """Store the current client's file; return the reply, or where it `streams` the events of its progress.

    Raises as `Uploads.add`.
    """
    client = current_client()

    with ExitStack() as stack:
        deadline = stack.enter_context(answers.admit_metered(client))

        def work(progress: Progress, poll: Poll) -> dict[str, Any]:
            # Accounts take turns at reading files.
            with answers.reading(deadline) as pause:

                def go_on() -> None:
                    poll()
                    pause()

                stored = uploads.add(upload, file.stream, progress, go_on)
            answers.files.read_ahead(client, stored)
            return describe(stored)

        if not streams:
            return work(lambda *_: None, lambda: None)
        events = UploadEvents(work)
        stack.callback(events.close)
        # An error before anything is read has a status of its own.
        first = events.first()
        return sse.respond(sse.EventStream(events.written(first), stack.pop_all().close))


def forget(answers: Answers, library: Library, id_: str) -> None:
    """Forget a file of the caller (the master key: any file), and what was computed of it.

    Raises NotFound, StorageFailed, Unavailable.
    """
    me = caller()
    # Afterwards, when no answer can begin that reads it.
    for owner, state in library.files.remove(None if me.is_master else me.id, id_):
        answers.forget_state(owner, state)


def content(library: Library, file: StoredFile) -> Response:
    """Return a file's content as a reply."""
    guessed = mimetypes.guess_type(file.name)[0]
    kind = guessed if guessed in _SHOWN else "application/octet-stream"
    try:
        return send_file(library.files.path(file), mimetype=kind, as_attachment=True, download_name=file.name)
    except FileNotFoundError:
        # It was deleted in between.
        raise file_not_found(file.id) from None
