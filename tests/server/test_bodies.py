"""Bodies that are too large: refused before they have come, by their real limit, and so that the client reads it."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from services.api.http.bodies import MAX_BODY
from services.server import channel, connections, patience
from tests.server.test_http import CHUNKED, POST, answers, connect
from tests.support.attacking import running
from tests.support.serving import Server

LARGE = 64 * 2**20


def megabytes(process: Path) -> float:
    """The resident memory of a process of proc(5)."""
    found = re.search(r"VmRSS:\s+([0-9]+) kB", (process / "status").read_text())
    assert found
    return int(found[1]) / 1024


def test_the_limit_is_named(server: Server) -> None:
    refused = requests.post(f"{server.url}/answer", data=b"a" * (MAX_BODY + 1), timeout=10)
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "request_entity_too_large")
    assert refused.json()["message"] == "the body is larger than 1 MiB (1,048,576 bytes)"
    # What fits is read, and refused for something else.
    prompt = b'{"prompt": "' + b"a" * (MAX_BODY - 14) + b'"}'
    assert server.request("POST", "/answer", data=prompt).json()["error"]["code"] == "context_length_exceeded"
    chunks = (prompt[at : at + 5000] for at in range(0, MAX_BODY, 5000))
    assert server.request("POST", "/answer", data=chunks).json()["error"]["code"] == "context_length_exceeded"


def test_a_client_that_sends_on_reads_the_refusal(server: Server) -> None:
    """A system that closes with something unread resets the connection, and the client's own would drop what has come."""
    for data in (b"a" * 2**23, (b"a" * 2**16 for _ in range(2**7))):
        refused = requests.post(f"{server.url}/answer", data=data, timeout=10)
        assert (refused.status_code, refused.headers["Connection"]) == (413, "close")


def test_a_refusal_does_not_wait_for_the_body(server: Server) -> None:
    """Nor for a client that never closes."""
    with connect(server) as connection:
        started = time.monotonic()
        connection.sendall(POST + b"Content-Length: 67108864\r\n\r\n")
        received = b""
        while part := connection.recv(65536):
            received += part
        assert answers(received)[0] == 413
        assert time.monotonic() - started < 2
    with connect(server) as connection:
        connection.sendall(CHUNKED)
        for _ in range(MAX_BODY // 2**16):
            connection.sendall(b"10000\r\n" + b"a" * 2**16 + b"\r\n")
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(10)
        connection.sendall(b"10000\r\na")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")


def test_a_connection_that_was_refused_is_closed_at_last(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(POST + b"Content-Length: 67108864\r\n\r\n")
        deadline = time.monotonic() + 10
        with pytest.raises(OSError):  # noqa: PT011
            while time.monotonic() < deadline:
                connection.sendall(b"a")
                time.sleep(0.02)


def test_nothing_large_is_kept_of_clients_without_a_key(server: Server) -> None:
    """Twelve send 64 MB each."""
    process = Path(f"/proc/{server.process.pid}")
    before, largest, stop = megabytes(process), 0.0, threading.Event()
    spooled: set[str] = set()

    def watch() -> None:
        nonlocal largest
        while not stop.is_set():
            largest = max(largest, megabytes(process))
            for link in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    spooled.update(name for name in (str(link.readlink()),) if name.endswith("(deleted)"))
            time.sleep(0.02)

    def send(by_length: bool) -> None:
        with connect(server) as connection, contextlib.suppress(OSError):
            connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % LARGE if by_length else CHUNKED + b"4000000\r\n")
            for _ in range(LARGE // 2**16):
                connection.sendall(b"a" * 2**16)

    watching = threading.Thread(target=watch)
    sending = [threading.Thread(target=send, args=(n % 2 == 0,)) for n in range(12)]
    watching.start()
    for thread in sending:
        thread.start()
    started = time.monotonic()
    assert server.get("/auth").status_code == 200
    assert time.monotonic() - started < 2
    for thread in sending:
        thread.join()
    stop.set()
    watching.join()
    assert not spooled
    assert largest - before < 40


def length(environ: Any, start: Any) -> list[bytes]:
    """An application that says how many bytes it was sent."""
    answer = str(len(environ["wsgi.input"].read())).encode()
    start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return [answer]


def begin(port: int, size: int, source: str = "127.0.0.1") -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0))
    made.sendall(POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % size)
    return made


def read_all(connection: socket.socket) -> bytes:
    received = b""
    with connection:
        while part := connection.recv(65536):
            received += part
    return received


def test_when_memory_is_short_the_address_that_holds_most_lets_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_HELD", 2**20)
    with running(length) as port:
        many = [begin(port, 300_000, "127.0.0.2") for _ in range(4)]
        for each in many:
            each.sendall(b"a" * 250_000)
        time.sleep(0.2)
        honest = begin(port, 400_000)
        honest.sendall(b"a" * 400_000)
        assert read_all(honest).endswith(b"400000")
        for each in many:
            with contextlib.suppress(OSError):
                each.sendall(b"a" * 50_000)
        received = [read_all(each) for each in many]
    assert sum(each.startswith(b"HTTP/1.1 503") for each in received) in (1, 2)
    assert sum(each.endswith(b"300000") for each in received) >= 2


def test_a_slow_body_has_the_time_it_needs_and_a_stalled_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "ARRIVE_SECONDS", 1.0)
    monkeypatch.setattr(patience, "SECONDS", 1.0)
    with running(length) as port:
        slow, stalled = begin(port, 30_000), begin(port, 30_000)
        stalled.sendall(b"a" * 20_000)
        for _ in range(15):
            slow.sendall(b"a" * 2000)
            time.sleep(0.2)
        assert read_all(slow).endswith(b"30000")
        status, _, body = answers(read_all(stalled))
    assert (status, body["error"]["code"]) == (408, "request_timeout")


def test_chunks_of_a_byte_each_are_refused(server: Server) -> None:
    """They take the server's thread a thousand times as long to read as to send; larger ones are read."""
    with connect(server) as connection:
        connection.sendall(CHUNKED + b"1\r\na\r\n" * 10_000)
        assert "so small" in answers(read_all(connection))[2]["message"]
    chunks = (b'{"prompt": "Count to 3."', *(b" " * 6 for _ in range(5000)), b"}")
    assert server.request("POST", "/answer", data=iter(chunks)).json()["result"] == "1, 2, 3."
