"""Own files on the real server: clients, kills, clients that hang up, limits, and what is not read again."""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
import requests

from services.server.channel import HALF_CLOSE_SECONDS
from tests.server.test_hanging_up import cpu_seconds
from tests.support import documents
from tests.support.serving import Server, Stream, child_of, in_threads, wait_for
from tests.support.uploading import file_names, search, send_file, upload

Serve = Callable[..., Server]
MIB = 2**20
LAMP = "# Tower\n\nThe lamp stands in the tower.\n\n# Keeper\n\nIts keeper lights the lamp at dusk."
QUESTION = "The keeper lights the lamp at dusk?"
# About 1,650 of the guide's tokens, with what stands around it; the context has 2,048.
CHAPTERS = "\n\n".join(
    f"# Part {n}\n\nThe part number {n} is about the lamp and the boat of the harbour, which keeper {n} lights at dusk. "
    + "It was built long ago by many people. " * 3
    for n in range(20)
)


@pytest.fixture(scope="module")
def long_pdf() -> bytes:
    """A PDF that takes seconds to read."""
    line = "Line {} of page {}, about the lamp and the boat of the harbour."
    return documents.pdf([[line.format(n, page) for n in range(55)] for page in range(60)])


@pytest.fixture
def key(server: Server) -> str:
    """A key of the test's own on the server that tests share."""
    return server.mint()[0]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one file, kept.md, that tests end and start again."""
    server = Server(tmp_path_factory.mktemp("killed") / "data").start(ready=False)
    upload(server, "kept.md", LAMP)
    yield server
    server.kill()


class Upload:
    """An upload whose body the test sends piece by piece."""

    def __init__(self, server: Server, name: str, data: bytes, **fields: str) -> None:
        prepared = requests.Request(
            "POST", f"{server.url}/files", {"Authorization": server.key}, {"file": (name, data)}, fields
        ).prepare()
        assert isinstance(prepared.body, bytes)
        self.body, url = prepared.body, urlsplit(server.url)
        self.socket = socket.create_connection((str(url.hostname), int(url.port or 0)), timeout=30)
        head = {**prepared.headers, "Host": url.netloc, "Connection": "close"}
        lines = [b"POST /files HTTP/1.1", *(f"{name}: {value}".encode() for name, value in head.items())]
        self.socket.sendall(b"\r\n".join(lines) + b"\r\n\r\n")

    def send(self, share: float) -> None:
        """Send so much of the body."""
        self.socket.sendall(self.body[: int(share * len(self.body))])


def parsers_of(server: Server) -> list[int]:
    """The processes of a server that read files."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes()
            parent = (path / "stat").read_text().rsplit(")", 1)[1].split()[1]
        except OSError:
            continue
        if b"services.documents.parsing.child" in command and int(parent) == server.process.pid:
            found.append(int(path.name))
    return found


def has_ended(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return True
    return state == "Z"


def begin_reading(server: Server, data: bytes, key: str | None = None) -> tuple[Stream, int]:
    """Send a PDF; return the events of its progress and its parser, once that is at work."""
    form: dict[str, Any] = {"files": {"file": ("long.pdf", data)}, "data": {"stream": "true", "collection": "half"}}
    stream = Stream(server.request("POST", "/files", stream=True, key=key or server.key, **form))
    assert stream.next()["state"] == "reading"
    (pid,) = parsers_of(server)
    return stream, pid


def is_consistent(server: Server, *names: str) -> None:
    """Check that these files are stored whole, and nothing else of any."""
    files = server.get("/files").json()["files"]
    assert sorted(each["name"] for each in files) == sorted(names)
    assert sorted(path.name for path in (server.data / "documents").iterdir()) == sorted(each["id"] for each in files)
    for each in files:
        assert len(server.get(f"/files/{each['id']}/content").content) == each["bytes"]
        assert search(server, "lamp", files=[each["id"]])
    with closing(sqlite3.connect(server.data / "documents.sqlite", timeout=10)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        # Raises where the index is not as its text.
        db.execute("INSERT INTO words (words) VALUES ('integrity-check')")
        ids = [db.execute(f"SELECT {column} FROM {table} ORDER BY 1").fetchall() for table, column in TABLES]
        assert ids[0] == ids[1]
        assert ids[2] == ids[3]
        assert len(ids[2]) == len(files)
    assert not any(each["name"] == "half" for each in server.get("/collections").json()["collections"])


def remove(server: Server, name: str) -> None:
    """Delete the files of this name."""
    for each in server.get("/files").json()["files"]:
        if each["name"] == name:
            server.delete(f"/files/{each['id']}")


TABLES = (("chunks", "number"), ("words", "rowid"), ("files", "number"), ("texts", "file"))


@pytest.mark.parametrize("name", documents.samples())
def test_a_file_of_each_kind_is_stored_and_found(server: Server, key: str, name: str) -> None:
    data = documents.samples()[name]
    file = upload(server, name, data, key)
    reply = server.get(f"/files/{file['id']}/content", key=key)
    assert reply.content == data
    word = {"a.csv": "Ulm", "a.txt": "mehr", "a.py": "return"}.get(name, "lamp")
    assert {each["file"] for each in search(server, word, key)} == {file["id"]}


def test_openais_client_stores_and_asks(server: Server, key: str) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
        file = client.files.create(file=("lamp.md", LAMP.encode()), purpose="user_data")
        assert (file.filename, file.bytes, file.status) == ("lamp.md", len(LAMP), "processed")
        assert [each.id for each in client.files.list(purpose="user_data")] == [file.id]
        assert client.files.retrieve(file.id) == file
        assert client.files.content(file.id).read() == LAMP.encode()
        with pytest.raises(openai.APIStatusError, match="a PNG image") as refused:
            client.files.create(file=("a.png", documents.OTHERS["a PNG image"]), purpose="user_data")
        assert refused.value.status_code == 415
        messages: list[Any] = [{"role": "user", "content": QUESTION}]
        whole = client.chat.completions.create(model="Guide", messages=messages, extra_body={"files": [file.id]})
        message = whole.choices[0].message
        assert message.annotations is not None
        assert [each["name"] for each in message.citations] == ["lamp.md"] * len(message.citations)  # type: ignore[attr-defined]
        assert message.citations  # type: ignore[attr-defined]
        chunks = list(
            client.chat.completions.create(model="Guide", messages=messages, extra_body={"files": [file.id]}, stream=True)
        )
        assert "".join(each.choices[0].delta.content or "" for each in chunks) == message.content
        (cited,) = [each.choices[0].delta.citations for each in chunks if hasattr(each.choices[0].delta, "citations")]
        assert cited == message.citations  # type: ignore[attr-defined]
        assert client.files.delete(file.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="Guide", messages=messages, extra_body={"files": [file.id]})


def test_openais_client_searches_in_responses(server: Server, key: str) -> None:
    upload(server, "lamp.md", LAMP, key, collection="shelf")
    tools: list[Any] = [{"type": "file_search", "vector_store_ids": ["shelf"]}]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
        response = client.responses.create(model="Guide", input=QUESTION, tools=tools, include=["file_search_call.results"])
        searched, message = response.output
        assert searched.type == "file_search_call"
        assert searched.queries == [QUESTION]
        assert searched.results
        assert "at dusk" in str(searched.results[0].text)
        assert message.type == "message"
        with client.responses.stream(model="Guide", input=QUESTION, tools=tools) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_response()
        assert [each.type for each in final.output] == ["file_search_call", "message"]
        assert final.output_text == response.output_text
        assert "response.file_search_call.completed" in kinds


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the package needs Python 3.11")
def test_anthropics_client_reads_citations(server: Server, key: str) -> None:
    anthropic = import_module("anthropic")
    file = upload(server, "lamp.md", LAMP, key)
    asked = {"model": "Guide", "max_tokens": 30, "messages": [{"role": "user", "content": QUESTION}]}
    # So small a model writes a mark where it has to.
    form = {"type": "json_schema", "schema": {"const": "See [1]."}}
    more = {"files": [file["id"]], "output_format": form}
    with anthropic.Anthropic(base_url=server.url, api_key=key, max_retries=0) as client:
        (block,) = client.messages.create(**asked, extra_body=more).content
        assert block.citations
        assert {(each.type, each.document_title, each.file_id) for each in block.citations} == {
            ("char_location", "lamp.md", file["id"])
        }
        assert all(LAMP[each.start_char_index : each.end_char_index] == each.cited_text for each in block.citations)
        with client.messages.stream(**asked, extra_body=more) as stream:
            (streamed,) = stream.get_final_message().content
        assert streamed.text == block.text
        assert streamed.citations == block.citations


def test_a_kill_in_mid_upload_leaves_nothing(killed: Server) -> None:
    sending = Upload(killed, "half.txt", LAMP.encode() * 20_000, collection="half")
    sending.send(0.5)
    killed.kill()
    sending.socket.close()
    killed.start(ready=False)
    is_consistent(killed, "kept.md")


def test_a_kill_while_a_file_is_read_leaves_nothing(killed: Server, long_pdf: bytes) -> None:
    stream, pid = begin_reading(killed, long_pdf)
    # It has arrived whole, under a name of its own.
    assert [path for path in (killed.data / "documents").iterdir() if path.suffix == ".arriving"]
    killed.kill()
    stream.close()
    wait_for(lambda: has_ended(pid), 5)
    killed.start(ready=False)
    is_consistent(killed, "kept.md")


@pytest.mark.parametrize("seconds", [0, 0.06])
def test_a_kill_while_a_file_is_indexed_leaves_all_or_nothing(killed: Server, seconds: float) -> None:
    folder = killed.data / "documents"
    (kept,) = folder.iterdir()
    form: dict[str, Any] = {"files": {"file": ("half.txt", f"{LAMP} " * 8000)}, "data": {"stream": "true"}}
    stream = Stream(killed.request("POST", "/files", stream=True, **form))
    deadline = time.monotonic() + 30
    # It has its name just before it is written to the database.
    while not [path for path in folder.glob("file-*") if path != kept]:
        assert time.monotonic() < deadline
    time.sleep(seconds)
    killed.kill()
    stored = any("id" in event for event in interrupted(stream))
    killed.start(ready=False)
    names = file_names(killed)
    assert names in (["kept.md"], ["half.txt", "kept.md"])
    assert not stored or len(names) == 2, "what was told to be stored is"
    is_consistent(killed, *names)
    remove(killed, "half.txt")


def interrupted(stream: Stream) -> Iterator[Any]:
    """The events of a stream until its server is gone."""
    try:
        while True:
            yield stream.next()
    except (StopIteration, requests.RequestException):
        return


def test_a_server_that_is_stopped_stores_what_it_reads_first(killed: Server, long_pdf: bytes) -> None:
    stream, pid = begin_reading(killed, long_pdf)
    killed.process.send_signal(signal.SIGTERM)
    assert stream.rest()[-1] == "[DONE]"
    assert killed._ended() == 0
    assert has_ended(pid)
    killed.start(ready=False)
    killed.delete("/collections/half")
    is_consistent(killed, "kept.md", "long.pdf")
    remove(killed, "long.pdf")


def test_a_server_that_cannot_wait_stores_nothing_of_what_it_reads(serve: Serve, long_pdf: bytes) -> None:
    server = serve("--stop-seconds", "0", ready=False)
    upload(server, "kept.md", LAMP)
    stream, pid = begin_reading(server, long_pdf)
    server.process.send_signal(signal.SIGTERM)
    assert not any("id" in event for event in interrupted(stream))
    assert server._ended() == 0
    wait_for(lambda: has_ended(pid), 5)
    server.start(ready=False)
    is_consistent(server, "kept.md")


def test_a_client_that_hangs_up_in_mid_upload_leaves_nothing(killed: Server, long_pdf: bytes) -> None:
    sending = Upload(killed, "half.txt", LAMP.encode() * 20_000, collection="half")
    sending.send(0.5)
    sending.socket.close()
    stream, pid = begin_reading(killed, long_pdf)
    stream.close()
    wait_for(lambda: has_ended(pid), 10)
    wait_for(lambda: len(list((killed.data / "documents").iterdir())) == 1, 10)
    # And one who waits for no events.
    form: dict[str, Any] = {"files": {"file": ("long.pdf", long_pdf)}, "data": {"collection": "half"}}
    with pytest.raises(requests.Timeout):
        requests.post(
            f"{killed.url}/files", **form, headers={"Authorization": killed.key}, timeout=HALF_CLOSE_SECONDS + 0.2
        )
    wait_for(lambda: not parsers_of(killed), 10)
    wait_for(lambda: len(list((killed.data / "documents").iterdir())) == 1, 10)
    is_consistent(killed, "kept.md")
    upload(killed, "next.md", LAMP)
    is_consistent(killed, "kept.md", "next.md")
    remove(killed, "next.md")


def test_what_is_larger_than_may_be_is_refused_before_it_is_read(server: Server, key: str) -> None:
    headers = {"Authorization": key, "Content-Type": "multipart/form-data; boundary=x"}
    url = urlsplit(server.url)
    with socket.create_connection((str(url.hostname), int(url.port or 0)), timeout=10) as connection:
        lines = ["POST /files HTTP/1.1", f"Host: {url.netloc}", f"Content-Length: {60 * MIB}"]
        head = "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items())])
        connection.sendall(f"{head}\r\n\r\n".encode())
        # Nothing of the body is sent.
        received = b"".join(iter(lambda: connection.recv(10_000), b"")).decode()
    assert received.startswith("HTTP/1.1 413")
    assert "50 MiB (52,428,800 bytes)" in received
    begin = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'

    def pieces() -> Iterator[bytes]:
        yield begin
        for _ in range(60):
            yield bytes(MIB)

    reply = server.request("POST", "/files", data=pieces(), headers=headers, key=key)
    assert reply.status_code == 413
    assert reply.json()["message"] == "the file is larger than 50 MiB (52,428,800 bytes)"
    assert server.get("/files", key=key).json() == {"files": [], "stored_bytes": 0}


def peak(server: Server) -> int:
    """The most bytes of memory that the server had since the last call."""
    process = Path(f"/proc/{server.process.pid}")
    found = re.search(r"VmHWM:\s+(\d+) kB", (process / "status").read_text())
    assert found
    (process / "clear_refs").write_text("5")
    return int(found[1]) * 1024


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the kernel tells no peaks")
def test_a_large_file_takes_little_memory(server: Server, key: str) -> None:
    # Twenty megabytes of random bytes beside a little text.
    page = b"<</Type /Page /Parent 2 0 R /MediaBox [0 0 300 300] /Resources <</Font <</F 5 0 R>>>> /Contents 4 0 R>>"
    words = b"BT /F 12 Tf 20 100 Td (The lamp stands in the tower.) Tj ET"
    objects = [
        *(b"<</Type /Catalog /Pages 2 0 R>>", b"<</Type /Pages /Kids [3 0 R] /Count 1>>", page),
        b"<</Length %d>>\nstream\n%s\nendstream" % (len(words), words),
        b"<</Type /Font /Subtype /Type1 /BaseFont /Helvetica>>",
        b"<</Length %d>>\nstream\n%s\nendstream" % (20 * MIB, os.urandom(20 * MIB)),
    ]
    data = documents.raw_pdf(objects)
    upload(server, "small.md", LAMP, key)
    peak(server)
    before = peak(server)
    file = upload(server, "large.pdf", data, key)
    assert peak(server) - before < 12 * MIB
    assert file["bytes"] == len(data) > 20 * MIB
    with server.get(f"/files/{file['id']}/content", key=key, stream=True) as reply:
        sent = sum(map(len, reply.iter_content(MIB)))
    assert sent == len(data)
    assert peak(server) - before < 12 * MIB
    assert [each["page"] for each in search(server, "lamp", key, files=[file["id"]])] == [1]


def test_two_keys_upload_at_once(server: Server, long_pdf: bytes) -> None:
    keys = [server.mint()[0] for _ in range(2)]
    short, long = in_threads(
        lambda: [upload(server, f"{n}.md", LAMP, keys[0]) for n in range(2)],
        lambda: upload(server, "long.pdf", long_pdf, keys[1]),
    )
    assert [each["name"] for each in short] == ["0.md", "1.md"]
    assert long["pages"] == 60
    assert file_names(server, keys[0]) == ["1.md", "0.md"]


def is_idle(server: Server) -> bool:
    """Whether the engine computes nothing."""
    before = cpu_seconds(child_of(server.process))
    time.sleep(0.3)
    return cpu_seconds(child_of(server.process)) - before < 0.05


def large_states(server: Server) -> list[Path]:
    """The computed states on disk that are larger than those of the prompts without a file."""
    return [path for path in (server.data / "states").glob("*.state") if path.stat().st_size > MIB]


def test_a_file_is_read_once_by_the_model_and_forgotten_with_what_was_computed_of_it(serve: Serve) -> None:
    server = serve()
    file = upload(server, "chapters.md", CHAPTERS)
    wait_for(lambda: is_idle(server))

    def ask(session: int, words: str = QUESTION) -> None:
        usage = server.ask(words, session_id=session, files=[file["id"]], max_tokens=8)["usage"]
        assert usage["prompt_tokens"] > 1500
        assert usage["prompt_tokens"] - usage["cached_tokens"] < 0.1 * usage["prompt_tokens"], usage

    # It was read ahead; then in the same session, and in another.
    ask(1)
    ask(1, "And the boat of the harbour?")
    ask(2)
    assert server.stop() == 0
    server.start()
    # From the disk.
    ask(1, "The keeper 3?")
    ask(3)
    assert large_states(server)
    for session in (1, 2, 3):
        server.delete(f"/answer/{session}")
    assert server.delete(f"/files/{file['id']}").status_code == 200
    assert server.stop() == 0
    assert large_states(server) == []


def test_files_are_lent_and_kept_apart_on_the_real_server(server: Server) -> None:
    (lender, lender_id), (reader, reader_id), (other, _) = (server.mint() for _ in range(3))
    file = upload(server, "lamp.md", LAMP, lender, collection="shelf")
    server.patch("/collections/shelf", {"readers": [reader_id]}, key=lender)
    name = f"{lender_id}/shelf"
    answer = server.ask(QUESTION, reader, collection=name, memory_k=0, max_tokens=8)
    assert {each["file"] for each in answer["citations"]} == {file["id"]}
    for path in (f"/files/{file['id']}", f"/files/{file['id']}/content"):
        assert [server.get(path, key=each).status_code for each in (lender, reader, other)] == [200, 404, 404]
    assert server.get(f"/collections/{name}", key=other).status_code == 404
    assert send_file(server, "a.png", documents.OTHERS["a PNG image"], reader).status_code == 415
