"""Own files: uploads, collections and searches. tests/api/test_grounded_answers.py has the answers from them."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import requests

from services.api.http.bodies import MAX_FILE
from services.documents import uploads
from services.documents.parsing import failures
from services.documents.parsing.parser import parse
from services.errors import StorageFailed
from tests.support import documents
from tests.support.in_process import Client
from tests.support.serving import Stream, in_threads, wait_for
from tests.support.uploading import file_names, parse_here, search, send_file, shared_client, upload

Open = Callable[..., Client]

LAMP = "The lamp stands in the tower. Its keeper lights it at dusk."
BOAT = "The boat lies in the harbour. Its owner paints it in spring."


@pytest.fixture
def client(client: Client, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Files are parsed in this process; those of `open_client` are not, unless a test uses both."""
    monkeypatch.setattr(uploads, "parse", parse_here)
    return client


@pytest.fixture(scope="module")
def shared() -> Iterator[Client]:
    """The same for all tests of this file that leave it as it is."""
    with shared_client() as client:
        yield client


def refused(reply: requests.Response, status: int, code: str, param: str | None = "file") -> str:
    """The message of an error, all of whose parts are as they should be."""
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert (error["code"], error["param"]) == (code, param), reply.text
    assert reply.json()["message"] == error["message"]
    return str(error["message"])


def form_of(name: str, data: bytes | str, **fields: str) -> dict[str, Any]:
    """The arguments of a request that uploads a file."""
    return {"files": {"file": (name, data)}, "data": fields}


def raw_form(*parts: tuple[str, bytes]) -> dict[str, Any]:
    """A form of these parts, each with the whole of its Content-Disposition."""
    body = b"".join(b"--x\r\nContent-Disposition: %s\r\n\r\n%s\r\n" % (of.encode(), data) for of, data in parts)
    return {"data": body + b"--x--\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}


def folder(client: Client) -> list[Path]:
    return sorted((client.data / "documents").iterdir())


def traces(client: Client, words: bytes) -> list[str]:
    """The files of the data folder in which these words stand."""
    return [path.name for path in client.data.rglob("*") if path.is_file() and words in path.read_bytes()]


def nothing_is_left(client: Client) -> None:
    """Check that a refused upload has left nothing."""
    assert client.get("/files").json() == {"files": [], "stored_bytes": 0}
    assert folder(client) == []
    assert client.get("/collections").json() == {"collections": []}


KINDS = {
    "a.pdf": ("pdf", 2),
    "a.docx": ("docx", None),
    "a.odt": ("odt", None),
    "a.epub": ("epub", None),
    "a.html": ("html", None),
    "a.md": ("markdown", None),
    "a.csv": ("csv", None),
    "a.txt": ("text", None),
    "a.py": ("code", None),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_of_each_kind_is_stored_and_described(shared: Client, name: str) -> None:
    data = documents.samples()[name]
    file = upload(shared, name, data)
    assert set(file) == {
        *("id", "name", "type", "bytes", "characters", "tokens", "pages", "chunks", "created", "collections"),
    }
    assert (file["name"], file["type"], file["pages"]) == (name, *KINDS[name])
    assert file["bytes"] == len(data)
    assert file["characters"] > 10
    assert 0 < file["tokens"] <= file["characters"]
    assert file["chunks"] >= 1
    assert file["collections"] == []
    age = datetime.now(timezone.utc) - datetime.fromisoformat(file["created"])
    assert 0 <= age.total_seconds() < 60
    assert shared.get(f"/files/{file['id']}").json() == file
    assert shared.get("/files").json()["files"] == [file]
    assert shared.get(f"/files/{file['id']}/content").content == data
    shared.delete(f"/files/{file['id']}")


def test_a_file_is_parsed_in_a_process_of_its_own(open_client: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "parse", parse)
    client = open_client()
    assert upload(client, "Book.PDF", documents.book_pdf())["pages"] == 2
    assert [each["page"] for each in search(client, "dawn")] == [2]
    # What its parser cannot read, and a page that is damaged, are told with the reason.
    assert "page 1 of the PDF" in refused(send_file(client, "a.pdf", documents.damaged_pdf()), 422, "damaged_file")
    reply = send_file(client, "a.docx", documents.docx()[:-500])
    assert refused(reply, 422, "damaged_file")
    assert file_names(client) == ["Book.PDF"]
    assert len(folder(client)) == 1


@pytest.mark.parametrize("content", documents.OTHERS)
def test_a_file_of_another_kind_is_refused_with_the_kinds_that_work(shared: Client, content: str) -> None:
    message = refused(send_file(shared, "a.bin", documents.OTHERS[content]), 415, "unsupported_file_type")
    for kind in ("PDF", ".docx", ".odt", "EPUB", "HTML", "Markdown", "CSV", "plain text", "source code"):
        assert kind in message
    nothing_is_left(shared)


BROKEN: list[tuple[str, bytes, int, str, str]] = [
    ("a.txt", b"%PDF-1.7 hello", 415, "disguised_file", "ends in .txt, but its content is a PDF"),
    ("a.pdf", b"only text", 415, "disguised_file", "ends in .pdf, but its content is text"),
    ("a.exe", b"only text", 415, "unsupported_file_type", ".exe"),
    ("a.txt", b"", 422, "empty_file", "empty"),
    ("a.txt", b" \n\t\n ", 422, "no_text", "no text"),
    ("a.pdf", documents.encrypted_pdf("secret"), 422, "encrypted_file", "password"),
    ("a.pdf", documents.scanned_pdf(), 422, "no_text", "3 of its 3 pages have no text"),
    ("a.docx", documents.zip_bomb(documents.docx(), 300_000_000), 413, "unpacks_too_large", "unpack"),
    ("a.epub", documents.epub(encrypted="OPS/text/z 0.xhtml"), 422, "encrypted_file", "digital rights management"),
]


@pytest.mark.parametrize(("name", "data", "status", "code", "says"), BROKEN)
def test_a_file_that_cannot_be_read_is_refused_with_the_reason(
    shared: Client, name: str, data: bytes, status: int, code: str, says: str
) -> None:
    assert says in refused(send_file(shared, name, data, collection="shelf"), status, code)
    nothing_is_left(shared)


def test_a_file_that_is_too_large_is_refused_with_the_limit(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("what is too large is not parsed")

    monkeypatch.setattr(uploads, "parse", never)
    message = refused(send_file(client, "a.txt", b" " * (MAX_FILE + 1)), 413, "too_large")
    assert message == "file: it is larger than 50 MiB (52,428,800 bytes)"
    # So much more that it is not even received.
    message = refused(send_file(client, "a.txt", b" " * (MAX_FILE + 2**17)), 413, "request_entity_too_large", None)
    assert message == "the file is larger than 50 MiB (52,428,800 bytes)"
    nothing_is_left(client)


NAMES = {
    "../../etc/passwd.txt": "passwd.txt",
    "/absolute/a.txt": "a.txt",
    "C:\\\\Users\\\\me\\\\a.txt": "a.txt",
    "..": None,
    "folder/": None,
    " ": None,
    "\t.\x01": None,
    "a\tb\x01\x7f.txt": "ab.txt",
    # An override of the writing direction would show it as eltsip.exe.txt or the like.
    "a\u202etxt.exe\u202c.txt": "atxt.exe.txt",
    " a.txt ": "a.txt",
    "Größe 大小.txt": "Größe 大小.txt",
    "'<img src=x>'.txt": "'<img src=x>'.txt",
    "n" * 251 + ".txt": "n" * 251 + ".txt",
    "n" * 252 + ".txt": None,
}


@pytest.mark.parametrize("sent", NAMES)
def test_the_name_of_a_file_is_made_harmless_or_refused(shared: Client, sent: str) -> None:
    kept = NAMES[sent]
    reply = shared.request("POST", "/files", **raw_form((f'form-data; name="file"; filename="{sent}"', LAMP.encode())))
    if kept is None:
        refused(reply, 400, "file_name")
        nothing_is_left(shared)
    else:
        assert reply.json()["name"] == kept, reply.text
        id_ = reply.json()["id"]
        reply = shared.get(f"/files/{id_}/content")
        assert reply.content == LAMP.encode()
        assert "\n" not in reply.headers["Content-Disposition"]
        shared.delete(f"/files/{id_}")
    assert [path for path in shared.data.parent.rglob("*") if path.suffix == ".txt"] == [], "no path is made of it"


FILE = ('form-data; name="file"; filename="a.txt"', LAMP.encode())
REPEATED = "collection", "invalid_request", "collection: send it once"
FORMS: list[tuple[list[tuple[str, bytes]], str, str, str]] = [
    ([], "file", "file_missing", "file: it is missing"),
    ([('form-data; name="file"', b"words")], "file", "file_missing", "no file name"),
    ([FILE, ('form-data; name="colour"', b"red")], "colour", "invalid_request", "there is no such field"),
    ([FILE, ('form-data; name="purpose"', b"assistants")], "purpose", "invalid_request", "there is no such field"),
    (
        [('form-data; name="document"; filename="a.txt"', b"words")],
        "document",
        "invalid_request",
        "send the file as `file`",
    ),
    ([FILE, FILE], "file", "invalid_request", "one file with each request"),
    ([FILE, *[('form-data; name="collection"', b"a"), ('form-data; name="collection"', b"b")]], *REPEATED),
    ([FILE, ('form-data; name="stream"', b"yes")], "stream", "invalid_request", '"true" or "false"'),
    ([FILE, ('form-data; name="collection"', b"")], "collection", "invalid_request", "collection"),
    ([FILE, ('form-data; name="collection"', b"a/b")], "collection", "invalid_request", "collection"),
    ([FILE, ('form-data; name="collection"', b"a" * 101)], "collection", "invalid_request", "collection"),
]


@pytest.mark.parametrize(("parts", "param", "code", "says"), FORMS)
def test_a_form_that_is_wrong_is_refused_by_the_name_of_its_field(
    shared: Client, parts: list[tuple[str, bytes]], param: str, code: str, says: str
) -> None:
    assert says in refused(shared.request("POST", "/files", **raw_form(*parts)), 400, code, param)
    nothing_is_left(shared)


@pytest.mark.parametrize("path", ["/files", "/v1/files"])
def test_a_body_that_is_no_form_is_refused(shared: Client, path: str) -> None:
    assert "multipart/form-data" in refused(shared.post(path, {"file": "words"}), 400, "not_multipart", "Content-Type")
    broken = {"Content-Type": "multipart/form-data"}
    reply = shared.request("POST", path, data=b"--x\r\nnothing", headers=broken)
    assert reply.status_code == 400, reply.text
    nothing_is_left(shared)


def test_an_upload_tells_how_far_it_is(client: Client) -> None:
    pages = [[f"Page {n}", f"It is about the number {n}."] for n in range(3)]
    form = form_of("a.pdf", documents.pdf(pages), stream="true", collection="numbers")
    reply = client.request("POST", "/files", stream=True, **form)
    assert reply.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    events = Stream(reply).rest()
    progress, file = events[:-2], events[-2]
    assert events[-1] == "[DONE]"
    assert (file["name"], file["collections"]) == ("a.pdf", ["numbers"])
    assert file == client.get(f"/files/{file['id']}").json()
    assert {each["state"] for each in progress} == {"reading", "indexing"}
    reading = [(each["done"], each["of"]) for each in progress if each["state"] == "reading"]
    assert reading == sorted(reading)
    assert reading[-1] == (3, 3)
    assert progress[-1]["state"] == "indexing"
    assert progress[-1]["of"] == file["chunks"]


def test_what_fails_while_it_is_read_ends_the_events(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def parse_some(*_: Any, on_progress: Callable[[int, int], None], **__: Any) -> None:
        on_progress(1, 2)
        raise failures.damaged("page 2 of the PDF is damaged")

    monkeypatch.setattr(uploads, "parse", parse_some)
    form = form_of("a.pdf", documents.book_pdf(), stream="true")
    events = Stream(client.request("POST", "/files", stream=True, **form)).rest()
    assert events[0] == {"state": "reading", "done": 1, "of": 2}
    (error,) = [each["error"] for each in events[1:] if each != "[DONE]"]
    assert (error["code"], error["param"], error["message"]) == ("damaged_file", "file", "page 2 of the PDF is damaged")
    nothing_is_left(client)


def test_what_fails_before_anything_is_read_has_its_status_though_events_are_wanted(client: Client) -> None:
    refused(send_file(client, "a.png", documents.OTHERS["a PNG image"], stream="true"), 415, "unsupported_file_type")
    nothing_is_left(client)


def test_a_client_that_hangs_up_while_its_file_is_read_leaves_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_up = threading.Event()

    def parse_some(*_: Any, on_progress: Callable[[int, int], None], is_cancelled: Callable[[], bool], **__: Any) -> None:
        on_progress(1, 2)
        wait_for(is_cancelled)
        given_up.set()
        raise failures.damaged("what is cancelled is not waited for")

    monkeypatch.setattr(uploads, "parse", parse_some)
    form = form_of("a.pdf", documents.book_pdf(), stream="true", collection="shelf")
    stream = Stream(client.request("POST", "/files", stream=True, **form))
    assert stream.next()["state"] == "reading"
    stream.close()
    assert given_up.wait(10)
    nothing_is_left(client)


def test_a_disk_that_is_full_leaves_nothing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise StorageFailed("data/documents.sqlite cannot be used: database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("services.documents.files.store_file", full)
        assert send_file(client, "a.txt", LAMP).status_code == 500
    nothing_is_left(client)
    upload(client, "a.txt", LAMP)
    assert [each["name"] for each in search(client, "lamp")] == ["a.txt"]


def test_files_are_listed_with_the_newest_first_and_what_they_take(client: Client) -> None:
    ids = [upload(client, f"{n}.txt", f"It is number {n}.")["id"] for n in range(3)]
    listed = client.get("/files").json()
    assert [each["id"] for each in listed["files"]] == ids[::-1]
    # The file and its text.
    assert listed["stored_bytes"] == 2 * 3 * len("It is number 0.")
    assert client.delete(f"/files/{ids[1]}").json() == {"deleted": True}
    assert file_names(client) == ["2.txt", "0.txt"]
    assert client.get("/files").json()["stored_bytes"] == 2 * 2 * len("It is number 0.")


def test_files_are_as_they_were_after_a_restart(client: Client) -> None:
    upload(client, "lamp.txt", LAMP, collection="shelf")
    client.post("/collections", {"name": "lent", "readers": "everybody"})
    (client.data / "documents" / "0123.arriving").write_text("what a kill has left")
    before = [client.get(path).json() for path in ("/files", "/collections")]
    found = search(client, "lamp")
    client.restart()
    assert [client.get(path).json() for path in ("/files", "/collections")] == before
    assert search(client, "lamp") == found
    assert len(folder(client)) == 1


TYPES = {"a.html": "application/octet-stream", "a.svg.xml": "application/octet-stream", "a.pdf": "application/pdf"}


@pytest.mark.parametrize("name", TYPES)
def test_the_content_of_a_file_runs_nowhere(client: Client, name: str) -> None:
    data = documents.samples().get(name, b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script>words</svg>")
    file = upload(client, name, data)
    for path in (f"/files/{file['id']}/content", f"/v1/files/{file['id']}/content"):
        reply = client.get(path)
        assert reply.content == data
        assert reply.headers["Content-Type"].split(";")[0] == TYPES[name]
        assert reply.headers["Content-Disposition"].startswith("attachment;")
        assert reply.headers["X-Content-Type-Options"] == "nosniff"


def test_a_name_cannot_add_headers_to_the_content(client: Client) -> None:
    sent = 'a"; filename="b.html\r\nX-Added: 1.txt'.replace('"', "%22").replace("\r\n", "%0D%0A")
    reply = client.request("POST", "/files", **raw_form((f'form-data; name="file"; filename="{sent}"', b"words")))
    reply = client.get(f"/files/{reply.json()['id']}/content")
    assert "X-Added" not in reply.headers
    assert reply.headers["Content-Type"].startswith("text/plain")


def test_what_is_stored_is_for_the_servers_user_only(client: Client) -> None:
    upload(client, "lamp.txt", LAMP)
    (file,) = folder(client)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    for path in client.data.glob("documents.sqlite*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_file_that_is_deleted_leaves_no_trace(client: Client) -> None:
    secret = "The zirconium moonlight password is swordfishery."
    kept = upload(client, "kept.txt", LAMP, collection="shelf")
    text = upload(client, "zirconium.txt", secret, collection="shelf")
    pdf = upload(client, "b.pdf", documents.pdf([["Title", secret]]), collection="shelf")
    client.ask("What is the zirconium password?", files=[text["id"]], memory_k=0)
    assert len(traces(client, b"ordfisher")) >= 2
    assert client.delete(f"/files/{text['id']}").json() == {"deleted": True}
    assert client.delete(f"/v1/files/{pdf['id']}").json() == {"id": pdf["id"], "object": "file", "deleted": True}
    # In the index words stand without the beginning that they share with the one before.
    for words in (b"ordfisher", b"irconi", b"onlight"):
        assert traces(client, words) == []
    assert [path.name for path in folder(client)] == [kept["id"]]
    assert client.get("/collections/shelf").json()["n_files"] == 1
    assert search(client, "zirconium swordfishery") == []
    assert [each["name"] for each in search(client, "lamp")] == ["kept.txt"]
    for file in (text, pdf):
        states = [state for _, state in client.backend.forgotten if file["id"] in state]  # type: ignore[attr-defined]
        assert states, "what was computed of it is forgotten"
        refused(client.delete(f"/files/{file['id']}"), 404, "file_not_found")


def test_a_key_keeps_so_many_megabytes_of_files_and_no_more(client: Client) -> None:
    key, _ = client.mint(limits={"storage_mb": 1})
    half = "A lamp and a boat. " * 14_000
    first = upload(client, "a.txt", half, key)
    message = refused(send_file(client, "b.txt", half, key), 403, "storage_limit", "limits.storage_mb")
    assert "may keep 1 MB of sessions, responses, jobs and files, and has 0.5 MB" in message
    assert "DELETE /files/ID" in message
    # As an event, where it is the text that is too much.
    events = Stream(client.request("POST", "/files", **form_of("b.txt", half, stream="true"), key=key)).rest()
    assert events[-1]["error"]["code"] == "storage_limit"
    # Text may take more than the file that it was sent in.
    packed = documents.changed_archive(documents.docx_with_body(f"<w:p><w:r><w:t>{half * 2}</w:t></w:r></w:p>"), {})
    assert len(packed) < 100_000
    refused(send_file(client, "c.docx", packed, key), 403, "storage_limit", "limits.storage_mb")
    assert file_names(client, key) == ["a.txt"]
    assert len(folder(client)) == 1
    # It is the key's room: others have theirs, and the master key any.
    upload(client, "b.txt", half)
    upload(client, "b.txt", half, client.mint(limits={"storage_mb": 1})[0])
    assert client.delete(f"/files/{first['id']}", key=key).status_code == 200
    upload(client, "b.txt", half, key)


def test_what_another_key_has_is_not_found(client: Client) -> None:
    other, _ = client.mint()
    file = upload(client, "lamp.txt", LAMP, collection="shelf")
    own = upload(client, "boat.txt", BOAT, other, collection="dock")
    id_ = file["id"]
    for path in (f"/files/{id_}", f"/files/{id_}/content", f"/v1/files/{id_}", f"/v1/files/{id_}/content"):
        message = refused(client.get(path, key=other), 404, "file_not_found")
        assert message.startswith(f"there is no file {id_}: ")
        if not path.endswith("content"):
            refused(client.delete(path, key=other), 404, "file_not_found")
    for reply in (
        client.get("/collections/shelf", key=other),
        client.get("/collections/0/shelf", key=other),
        client.patch("/collections/shelf", {"readers": "everybody"}, key=other),
        client.delete("/collections/shelf", key=other),
        client.post("/collections/shelf/files", {"files": [own["id"]]}, key=other),
        client.delete(f"/collections/shelf/files/{id_}", key=other),
        client.post("/search", {"query": "lamp", "collection": "shelf"}, key=other),
        client.post("/answer", {"prompt": "Hi", "collection": "shelf"}, key=other),
    ):
        refused(reply, 404, "collection_not_found", "collection")
    for reply in (
        client.post("/collections", {"name": "mine", "files": [id_]}, key=other),
        client.post("/collections/dock/files", {"files": [id_]}, key=other),
        client.delete(f"/collections/dock/files/{id_}", key=other),
        client.post("/search", {"query": "lamp", "files": [own["id"], id_]}, key=other),
        client.post("/answer", {"prompt": "Hi", "files": [id_]}, key=other),
    ):
        refused(reply, 404, "file_not_found")
    assert file_names(client, other) == ["boat.txt"]
    assert [each["name"] for each in search(client, "lamp boat", other)] == ["boat.txt"]
    assert [each["name"] for each in client.get("/collections", key=other).json()["collections"]] == ["dock"]
    # The master key mints keys, and has no part in what they keep.
    assert file_names(client) == ["lamp.txt"]
    refused(client.get(f"/files/{own['id']}"), 404, "file_not_found")


@pytest.mark.parametrize("path", ["/files", "/collections", "/v1/files"])
def test_files_need_a_key_that_may_answer(shared: Client, path: str) -> None:
    key, _ = shared.mint(scopes=["models:read"])
    assert shared.get(path, key="nobody").status_code == 401
    assert shared.get(path, key=key).status_code == 403


def test_a_collection_is_made_changed_and_deleted(client: Client) -> None:
    lamp, boat = upload(client, "lamp.txt", LAMP), upload(client, "boat.txt", BOAT)
    made = client.post("/collections", {"name": "shelf", "files": [lamp["id"]]}).json()
    assert {**made, "files": None, "created": None} == {
        **{"name": "shelf", "owner": "0", "created": None, "readers": [], "files": None, "n_files": 1},
        **{"folder": None, "problems": []},
    }
    assert [each["name"] for each in made["files"]] == ["lamp.txt"]
    assert made["files"][0]["collections"] == ["shelf"]
    # One that is there already stays, and is there once.
    both = client.post("/collections/shelf/files", {"files": [boat["id"], lamp["id"], boat["id"]]}).json()
    assert [each["name"] for each in both["files"]] == ["lamp.txt", "boat.txt"]
    assert client.get("/collections/shelf").json() == both
    assert client.get("/collections/0/shelf").json() == both
    assert client.get("/collections").json()["collections"] == [{**both, "files": None}]
    assert client.delete(f"/collections/shelf/files/{lamp['id']}").json() == {"deleted": True}
    refused(client.delete(f"/collections/shelf/files/{lamp['id']}"), 404, "file_not_found")
    assert client.get("/collections/shelf").json()["n_files"] == 1
    assert client.delete("/collections/shelf").json() == {"deleted": True}
    refused(client.delete("/collections/shelf"), 404, "collection_not_found", "collection")
    assert file_names(client) == ["boat.txt", "lamp.txt"], "its files stay"
    assert client.get(f"/files/{boat['id']}").json()["collections"] == []


def test_a_collection_is_made_by_the_first_file_that_goes_into_it(client: Client) -> None:
    files = in_threads(
        *[lambda n=n: upload(client, f"{n}.txt", f"It is number {n}.", collection="new shelf") for n in range(4)]
    )
    assert {tuple(each["collections"]) for each in files} == {("new shelf",)}
    (shelf,) = client.get("/collections").json()["collections"]
    assert (shelf["name"], shelf["n_files"], shelf["readers"]) == ("new shelf", 4, [])


BAD_COLLECTIONS: list[tuple[dict[str, Any], str]] = [
    ({}, "name"),
    ({"name": ""}, "name"),
    ({"name": "a/b"}, "name"),
    ({"name": "a\nb"}, "name"),
    ({"name": "n" * 101}, "name"),
    ({"name": 5}, "name"),
    ({"name": "a", "files": "all"}, "files"),
    ({"name": "a", "files": [f"file-{n}" for n in range(101)]}, "files"),
    ({"name": "a", "readers": "nobody"}, "readers"),
    ({"name": "a", "readers": [5]}, "readers"),
    ({"name": "a", "colour": "red"}, "colour"),
]


@pytest.mark.parametrize(("body", "param"), BAD_COLLECTIONS)
def test_a_wrong_field_of_a_collection_is_refused_by_name(shared: Client, body: dict[str, Any], param: str) -> None:
    reply = shared.post("/collections", body)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"].split(".")[0] == param
    assert shared.get("/collections").json() == {"collections": []}


def test_the_name_of_a_collection_is_taken_once_by_each_key(client: Client) -> None:
    client.post("/collections", {"name": "shelf"})
    message = refused(client.post("/collections", {"name": "shelf"}), 422, "name_taken", "name")
    assert message == 'name: there is a collection "shelf" already'
    assert client.post("/collections", {"name": "shelf"}, key=client.mint()[0]).status_code == 200
    missing = client.post("/collections", {"name": "other", "files": ["file-nowhere"]})
    refused(missing, 404, "file_not_found")
    assert len(client.get("/collections").json()["collections"]) == 1


def test_a_lent_collection_is_searched_and_its_files_are_not_read(client: Client) -> None:
    reader, reader_id = client.mint()
    file = upload(client, "lamp.txt", LAMP, collection="shelf")
    lent = client.patch("/collections/shelf", {"readers": [reader_id]}).json()
    assert lent["readers"] == [reader_id]
    seen = client.get("/collections/shelf", key=reader).json()
    assert (seen["owner"], seen["n_files"], seen["readers"], seen["files"]) == ("0", 1, None, None)
    assert client.get("/collections", key=reader).json()["collections"] == [seen]
    for name in ("shelf", "0/shelf"):
        (passage,) = search(client, "lamp", reader, collection=name)
        assert passage["text"] == LAMP
        client.backend.reply(" At dusk [1].")  # type: ignore[attr-defined]
        answer = client.ask("Who lights the lamp?", reader, collection=name, memory_k=0)
        assert [each["name"] for each in answer["citations"]] == ["lamp.txt"]
    assert search(client, "lamp", reader) == [], "without its name the key's own files are searched"
    # Neither the file, nor a change.
    for path in (f"/files/{file['id']}", f"/files/{file['id']}/content", f"/v1/files/{file['id']}/content"):
        refused(client.get(path, key=reader), 404, "file_not_found")
    refused(client.post("/search", {"query": "lamp", "files": [file["id"]]}, key=reader), 404, "file_not_found")
    for name in ("shelf", "0/shelf"):
        for reply in (
            client.patch(f"/collections/{name}", {"readers": "everybody"}, key=reader),
            client.delete(f"/collections/{name}", key=reader),
        ):
            refused(reply, 404, "collection_not_found", "collection")
    other, _ = client.mint()
    refused(client.get("/collections/shelf", key=other), 404, "collection_not_found", "collection")
    # It is taken back at once.
    client.patch("/collections/shelf", {"readers": []})
    refused(
        client.post("/search", {"query": "lamp", "collection": "shelf"}, key=reader),
        404,
        "collection_not_found",
        "collection",
    )
    refused(
        client.post("/answer", {"prompt": "Hi", "collection": "0/shelf"}, key=reader),
        404,
        "collection_not_found",
        "collection",
    )
    client.patch("/collections/shelf", {"readers": "everybody"})
    assert len(search(client, "lamp", other, collection="shelf")) == 1


def test_of_equal_names_a_keys_own_collection_goes_first(client: Client) -> None:
    (one, one_id), (two, two_id) = client.mint("one"), client.mint("two")
    upload(client, "a.txt", "The lamp of one.", one, collection="shelf")
    upload(client, "b.txt", "The lamp of two.", two, collection="shelf")
    for key in (one, two):
        client.patch("/collections/shelf", {"readers": "everybody"}, key=key)
    message = refused(
        client.post("/search", {"query": "lamp", "collection": "shelf"}), 400, "collection_of_others", "collection"
    )
    assert f'"{one_id}/shelf"' in message
    assert f'"{two_id}/shelf"' in message
    for owner, name in ((one_id, "a.txt"), (two_id, "b.txt")):
        assert [each["name"] for each in search(client, "lamp", collection=f"{owner}/shelf")] == [name]
        assert client.get(f"/collections/{owner}/shelf").json()["owner"] == owner
    assert [each["name"] for each in search(client, "lamp", one, collection="shelf")] == ["a.txt"]
    upload(client, "c.txt", "The lamp of the master.", collection="shelf")
    assert [each["name"] for each in search(client, "lamp", collection="shelf")] == ["c.txt"]
    owners = [each["owner"] for each in client.get("/collections").json()["collections"]]
    assert owners == ["0", *sorted((one_id, two_id))]


def test_another_keys_collection_takes_no_name(client: Client) -> None:
    (reader, _), (other, other_id) = client.mint("reader"), client.mint("other")
    upload(client, "a.txt", "The lamp of the master.", collection="handbook")
    client.patch("/collections/handbook", {"readers": "everybody"})
    upload(client, "b.txt", "The lamp of another.", other, collection="handbook")
    client.patch("/collections/handbook", {"readers": "everybody"}, key=other)
    assert [each["name"] for each in search(client, "lamp", reader, collection="handbook")] == ["a.txt"]
    client.delete("/collections/handbook")
    body = {"query": "lamp", "collection": "handbook"}
    message = refused(client.post("/search", body, key=reader), 400, "collection_of_others", "collection")
    assert f'"{other_id}/handbook"' in message


def test_a_revoked_keys_collections_are_lent_no_more(client: Client) -> None:
    lender, lender_id = client.mint("lender")
    file = upload(client, "a.txt", LAMP, lender, collection="shelf")
    client.patch("/collections/shelf", {"readers": "everybody"}, key=lender)
    assert search(client, "lamp", collection=f"{lender_id}/shelf")
    assert client.delete(f"/auth/key/{lender_id}").status_code == 200
    lends_nothing(client, lender_id)
    # What it has left can be found and deleted with the master key.
    assert [each["id"] for each in client.get(f"/files?owner={lender_id}").json()["files"]] == [file["id"]]
    assert client.delete(f"/files/{file['id']}").json() == {"deleted": True}
    assert client.get(f"/files?owner={lender_id}").json()["files"] == []


def test_an_expired_keys_collections_are_lent_no_more(client: Client) -> None:
    lender, lender_id = client.mint("lender")
    upload(client, "a.txt", LAMP, lender, collection="shelf")
    client.patch("/collections/shelf", {"readers": "everybody"}, key=lender)
    soon = datetime.now(timezone.utc) + timedelta(seconds=0.5)
    assert client.patch(f"/auth/key/{lender_id}", {"expires": soon.isoformat()}).status_code == 200
    time.sleep(0.6)
    lends_nothing(client, lender_id)


def lends_nothing(client: Client, lender: str) -> None:
    body = {"query": "lamp", "collection": f"{lender}/shelf"}
    refused(client.post("/search", body), 404, "collection_not_found", "collection")
    assert client.get("/collections").json()["collections"] == []


def test_a_collection_is_lent_to_keys_that_there_are(client: Client) -> None:
    _, reader = client.mint("reader")
    body = {"name": "shelf", "readers": [reader, "nobody"]}
    message = refused(client.post("/collections", body), 404, "key_not_found", "readers")
    assert message == 'readers: there is no key with the id "nobody"'
    assert client.get("/collections").json()["collections"] == []
    client.post("/collections", {"name": "shelf", "readers": [reader]})
    refused(client.patch("/collections/shelf", {"readers": ["nobody"]}), 404, "key_not_found", "readers")
    client.delete(f"/auth/key/{reader}")
    _, other = client.mint("other")
    # A reader that was revoked may stay.
    assert client.patch("/collections/shelf", {"readers": [reader, other]}).json()["readers"] == [reader, other]


def test_only_the_master_key_sees_others_files(client: Client) -> None:
    one, one_id = client.mint("one")
    other, _ = client.mint("other")
    file = upload(client, "a.txt", LAMP, one)
    refused(client.get(f"/files?owner={one_id}", key=other), 403, "not_permitted", "owner")
    assert client.get(f"/files?owner={one_id}", key=one).json()["files"][0]["id"] == file["id"]
    assert client.delete(f"/files/{file['id']}", key=other).status_code == 404


def test_what_others_store_changes_no_search(client: Client) -> None:
    key, _ = client.mint("one")
    upload(client, "a.txt", "The zebra sleeps. The lamp burns.", key)
    upload(client, "b.txt", "The harbour is wide. The lamp is out.", key)
    before = search(client, "zebra lamp harbour", key)
    for n in range(30):
        upload(client, f"{n}.txt", "zebra lamp harbour " * 40)
    assert search(client, "zebra lamp harbour", key) == before


def test_a_search_tells_where_its_passages_stand(client: Client) -> None:
    text = "\n\n".join(f"# Part {n}\n\nIt is about the {what} of the house." for n, what in enumerate(("roof", "cellar")))
    file = upload(client, "house.md", text)
    best, *_ = search(client, "What is in the cellar?")
    assert set(best) == {"file", "name", "page", "heading", "start", "end", "text", "score"}
    assert (best["file"], best["name"], best["page"], best["heading"]) == (file["id"], "house.md", None, "Part 1")
    assert text[best["start"] : best["end"]] == best["text"]
    assert "cellar" in best["text"]
    assert 0 < best["score"] <= 1


def test_a_search_gives_the_k_best_passages(client: Client) -> None:
    ids = [upload(client, f"{n}.txt", "lamp " * (n + 1) + "and other words " * 9)["id"] for n in range(6)]
    found = search(client, "lamp")
    assert len(found) == 5
    assert [each["score"] for each in found] == sorted((each["score"] for each in found), reverse=True)
    assert found[0]["file"] == ids[-1]
    assert search(client, "lamp", k=2) == found[:2]
    assert len(search(client, "lamp", k=100)) == 6
    assert [each["file"] for each in search(client, "lamp", files=ids[:2])] == [ids[1], ids[0]]


def test_a_search_where_nothing_is_finds_nothing(client: Client) -> None:
    assert search(client, "lamp") == []
    upload(client, "lamp.txt", LAMP)
    client.post("/collections", {"name": "empty"})
    assert search(client, "lamp", collection="empty") == []
    assert search(client, "lamp", files=[]) == []
    assert search(client, "submarine") == []
    assert search(client, "?!") == []
    assert len(search(client, "lamp", collection=None, files=None)) == 1


BAD_SEARCHES: list[tuple[dict[str, Any], int, str]] = [
    ({}, 400, "query"),
    ({"query": ""}, 400, "query"),
    ({"query": "  "}, 400, "query"),
    ({"query": "q" * 10_001}, 400, "query"),
    ({"query": "lamp", "k": 0}, 400, "k"),
    ({"query": "lamp", "k": 101}, 400, "k"),
    ({"query": "lamp", "k": "five"}, 400, "k"),
    ({"query": "lamp", "files": ["file-nowhere"]}, 404, "file"),
    ({"query": "lamp", "files": "all"}, 400, "files"),
    ({"query": "lamp", "files": ["f"] * 101}, 400, "files"),
    ({"query": "lamp", "collection": "nowhere"}, 404, "collection"),
    ({"query": "lamp", "collection": "0/nowhere"}, 404, "collection"),
    ({"query": "lamp", "collection": ""}, 400, "collection"),
    ({"query": "lamp", "top_k": 3}, 400, "top_k"),
]


@pytest.mark.parametrize(("body", "status", "param"), BAD_SEARCHES)
def test_a_wrong_field_of_a_search_is_refused_by_name(
    shared: Client, body: dict[str, Any], status: int, param: str
) -> None:
    reply = shared.post("/search", body)
    assert reply.status_code == status, reply.text
    assert reply.json()["error"]["param"] == param, reply.text


def test_a_search_through_files_and_a_collection_looks_into_both(client: Client) -> None:
    lamp = upload(client, "lamp.txt", LAMP)
    upload(client, "lamps.txt", f"Another text. {LAMP}", collection="shelf")
    upload(client, "third.txt", LAMP)
    found = search(client, "lamp", files=[lamp["id"]], collection="shelf")
    assert {each["name"] for each in found} == {"lamp.txt", "lamps.txt"}


WORDS = {
    "other forms": ("She was painting the boats.", "Who paints a boat?", "Which lamps?"),
    "accents": ("Das Café in der Straße öffnet früh.", "cafe offnet fruh", "kaffee"),
    "accents in the question": ("Das Cafe ist zu.", "Wo ist das Café?", "Wo war Kaffée?"),
    "capitals": ("The HARBOUR of Ulm.", "harbour", "haven"),
    "Chinese": ("灯塔的看守人在黄昏时点燃灯火。", "谁点燃灯火", "潜水艇在哪里"),
    "one Chinese character": ("这里有一只猫。", "只猫", "狗"),
    "Japanese": ("灯台守は夕暮れにランプに火をつける。", "ランプはいつ", "潜水艦はどこ"),
    "Thai": ("คนเฝ้าประภาคารจุดตะเกียงตอนพลบค่ำ", "ตะเกียง", "หมู"),
    "Korean": ("등대지기는 황혼에 등불을 켠다.", "등불을", "잠수함"),
    "numbers": ("Section 4.2: the fee is 1,250 euros.", "1,250", "9,999"),
    "code": ("def light_lamp(at_dusk):\n    return at_dusk\n", "light_lamp", "paint_boat"),
    "an apostrophe": ("The keeper's lamp isn't lit.", "keeper\u2019s lamp", "owner"),
}


@pytest.mark.parametrize("kind", WORDS)
def test_words_are_found_in_many_scripts_and_forms(shared: Client, kind: str) -> None:
    text, there, not_there = WORDS[kind]
    files = [upload(shared, "a.txt", text), upload(shared, "b.txt", "Something else entirely.")]
    found = search(shared, there), search(shared, not_there)
    for file in files:
        shared.delete(f"/files/{file['id']}")
    assert [[each["name"] for each in passages] for passages in found] == [["a.txt"], []]


def test_a_question_may_name_a_file_or_a_heading(client: Client) -> None:
    upload(client, "invoice-2024.md", "# Moonlight charges\n\nThe sum is 12 euros.\n")
    upload(client, "letter.md", "# Greetings\n\nThe sum is 99 euros.\n")
    assert search(client, "What does the invoice say?")[0]["name"] == "invoice-2024.md"
    assert search(client, "moonlight")[0]["heading"] == "Moonlight charges"


SYNTAX = [
    '"',
    "'",
    "lamp OR boat",
    "text:lamp",
    "lamp*",
    "NEAR(lamp boat)",
    "(lamp",
    "-lamp",
    "^lamp",
    "lamp; DROP TABLE files",
]


@pytest.mark.parametrize("query", [*SYNTAX, "lamp\0boat", "a" * 10_000, "la mp " * 1600, "\U0001f3ee"])
def test_a_query_is_words_and_no_syntax(shared: Client, query: str) -> None:
    file = upload(shared, "lamp.txt", LAMP)
    found = search(shared, query)
    shared.delete(f"/files/{file['id']}")
    assert [each["name"] for each in found] == (["lamp.txt"] if "lamp" in query else [])


def test_scores_do_not_depend_on_what_others_have(client: Client) -> None:
    other, _ = client.mint()
    upload(client, "lamp.txt", LAMP)
    upload(client, "boat.txt", BOAT)
    before = search(client, "Who lights the lamp in the tower?")
    for n in range(5):
        upload(client, f"{n}.txt", f"{LAMP} {LAMP} number {n}. The lamp, the tower, the keeper.", other)
    assert search(client, "Who lights the lamp in the tower?") == before
    assert len(search(client, "Who lights the lamp in the tower?", other)) == 5


def test_a_search_needs_no_model(open_client: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(uploads, "parse", parse_here)
    (tmp_path / "models").mkdir()
    client = open_client(models=tmp_path / "models")
    upload(client, "lamp.txt", LAMP)
    assert len(search(client, "lamp")) == 1


def test_openais_clients_store_and_read_files(client: Client) -> None:
    def send(name: str, **form: str) -> requests.Response:
        return client.request("POST", "/v1/files", files={"file": (name, LAMP.encode())}, data=form)

    made = send("lamp.txt", purpose="assistants").json()
    assert made == {
        **{"id": made["id"], "object": "file", "bytes": len(LAMP), "created_at": made["created_at"], "expires_at": None},
        **{"filename": "lamp.txt", "purpose": "assistants", "status": "processed", "status_details": None},
    }
    assert client.get(f"/v1/files/{made['id']}").json() == made
    # They are the same files as those of /files.
    assert file_names(client) == ["lamp.txt"]
    ours = upload(client, "boat.txt", BOAT)
    assert client.get(f"/v1/files/{ours['id']}").json()["purpose"] == "user_data"
    third = send("third.txt", purpose="user_data").json()
    newest = [third["id"], ours["id"], made["id"]]

    def page(query: str) -> tuple[list[str], bool]:
        listed = client.get(f"/v1/files{query}").json()
        ids = [each["id"] for each in listed["data"]]
        assert listed["object"] == "list"
        assert (listed["first_id"], listed["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
        return ids, listed["has_more"]

    assert page("") == (newest, False)
    assert page("?order=asc") == (newest[::-1], False)
    assert page("?limit=2") == (newest[:2], True)
    assert page(f"?after={newest[1]}&limit=2") == (newest[2:], False)
    assert page("?purpose=assistants") == ([made["id"]], False)
    assert page("?purpose=batch") == ([], False)
    refused(client.get("/v1/files?after=file-nowhere"), 400, "file_not_found", "after")
    for form, param in (({}, "purpose"), ({"purpose": "fine-tune"}, "purpose")):
        refused(send("a.txt", **form), 400, "invalid_request", param)
    extra = send("a.txt", purpose="user_data", **{"expires_after[anchor]": "created_at"})
    assert extra.status_code == 400
    assert extra.json()["error"]["param"].startswith("expires_after")
    assert client.delete(f"/v1/files/{third['id']}").json()["deleted"] is True
    refused(client.get(f"/v1/files/{third['id']}"), 404, "file_not_found")


def test_a_parser_has_nothing_of_the_servers(open_client: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, Any]] = []
    popen = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> Any:
        started.append(options)
        return popen(*arguments, **options)

    monkeypatch.setattr(uploads, "parse", parse)
    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setenv("HEARTH_SECRET", "a secret")
    upload(open_client(), "lamp.txt", LAMP)
    (options,) = started
    assert "HEARTH_SECRET" not in options["env"]
    assert os.environ["HEARTH_SECRET"]
