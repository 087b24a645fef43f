"""Uploads of own files in tests, and a parser of files that needs no process."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from services.documents import uploads
from services.documents.parsing.child import read
from services.documents.parsing.chunks import with_chunks
from services.documents.parsing.document import ParsedDocument
from services.documents.parsing.limits import ParseLimits
from tests.support.fake_backend import FakeBackend
from tests.support.in_process import Client
from tests.support.serving import Api


def send_file(api: Api, name: str, data: bytes | str, key: str | None = None, **form: str) -> requests.Response:
    """The reply to an upload."""
    content = data.encode() if isinstance(data, str) else data
    return api.request("POST", "/files", files={"file": (name, content)}, data=form, key=key or api.key)


def upload(api: Api, name: str, data: bytes | str, key: str | None = None, **form: str) -> dict[str, Any]:
    """A file that is stored, which must succeed."""
    reply = send_file(api, name, data, key, **form)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def file_names(api: Api, key: str | None = None) -> list[str]:
    """The names of a key's files, the newest first."""
    return [each["name"] for each in api.get("/files", key=key or api.key).json()["files"]]


def search(api: Api, query: str, key: str | None = None, **fields: Any) -> list[dict[str, Any]]:
    """The passages that a search finds, which must succeed."""
    reply = api.post("/search", {"query": query, **fields}, key=key or api.key)
    assert reply.status_code == 200, reply.text
    return list(reply.json()["passages"])


def parse_here(
    path: Path,
    name: str,
    limits: ParseLimits = ParseLimits(),  # noqa: B008
    on_progress: Callable[[int, int], None] | None = None,
    is_cancelled: Callable[[], bool] = lambda: False,
    characters_per_token: Callable[[Sequence[str]], float | None] = lambda _: None,
    is_busy: Callable[[], bool] = lambda: False,
) -> ParsedDocument:
    """Parse in this process, as `parse` does in one of its own, whose start takes most of a second."""
    # As in that process: the libraries warn of their own imports.
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        document = read(file, path, name, limits, on_progress or (lambda *_: None))
    assert not is_cancelled()
    return with_chunks(document, characters_per_token)


@contextmanager
def shared_client() -> Iterator[Client]:
    """A client for the tests of a file that leave it as it is; files are parsed in this process."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(uploads, "parse", parse_here)
        client = Client(Path(folder) / "data", FakeBackend())
        yield client
        client.close()
