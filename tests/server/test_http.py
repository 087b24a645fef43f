"""HTTP as nobody well-meaning sends it, over real sockets: one clear refusal each, and the connection is closed."""

from __future__ import annotations

import json
import re
import socket
import time
from typing import Any

import pytest

from tests.server.test_server import exchange
from tests.support.serving import Server

HOST = b"Host: localhost\r\n"
POST = b"POST /answer HTTP/1.1\r\n" + HOST
GET = b"GET /health HTTP/1.1\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
# What stands behind a refused request is no request.
SMUGGLED = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

REFUSED: list[tuple[bytes, int, str | None]] = [
    # Host
    (GET + b"\r\n", 400, "Host"),
    (GET + b"Host:\r\n\r\n", 400, "Host"),
    (GET + HOST + HOST + b"\r\n", 400, "Host"),
    (GET + HOST + b"host: evil.example\r\n\r\n", 400, "Host"),
    (b"GET /health HTTP/1.0\r\n" + HOST * 2 + b"\r\n", 400, "Host"),
    (GET + b"Host: localhost/x\r\n\r\n", 400, "Host"),
    (GET + b"Host: a@localhost\r\n\r\n", 400, "Host"),
    (b"GET http://evil.example/health HTTP/1.1\r\n" + HOST + b"\r\n", 400, "Host"),
    # How long the body is
    (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "Content-Length"),
    (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n", 400, "Content-Length"),
    (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400, "Content-Length"),
    (POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400, "Content-Length"),
    *((POST + b"Content-Length: " + n + b"\r\n\r\n", 400, "Content-Length") for n in (b"-1", b"+1", b"1,1", b"0x1", b"")),
    (POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 413, None),
    (POST + b"Content-Length: 1048577\r\n\r\n", 413, None),
    (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n", 400, "Transfer-Encoding"),
    (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "Transfer-Encoding"),
    (POST + b"Transfer-Encoding:\r\n\r\n", 400, "Transfer-Encoding"),
    (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501, None),
    (POST + b"Transfer-Encoding: identity\r\n\r\n", 501, None),
    (POST + b"Transfer-Encoding: \x85chunked\r\n\r\n", 501, None),
    (b"POST /answer HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "Transfer-Encoding"),
    (CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n", 400, None),
    (CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n", 400, None),
    (CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n", 400, None),
    (CHUNKED + b"5\r\nhelloXX0\r\n\r\n", 400, None),
    (CHUNKED + b"5;a=\x00\r\nhello\r\n0\r\n\r\n", 400, None),
    (CHUNKED + b"5;" + b"a" * 5000, 400, None),
    (CHUNKED + b"0\r\n" + b"X: y\r\n" * 3000, 431, None),
    # What is promised and asked for
    (POST + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", 415, "Content-Encoding"),
    (POST + b"Content-Encoding: identity, br\r\nContent-Length: 2\r\n\r\n{}", 415, "Content-Encoding"),
    (POST + b"Expect: 200-ok\r\nContent-Length: 2\r\n\r\n", 417, "Expect"),
    # Lines
    (GET + HOST + b"X: a\r\n b\r\n\r\n", 400, None),
    (GET + HOST + b"X : a\r\n\r\n", 400, None),
    (GET + HOST + b": a\r\n\r\n", 400, None),
    (GET + HOST + b"X: a\x00b\r\n\r\n", 400, None),
    (GET + HOST + b"X: a\nY: b\r\n\r\n", 400, None),
    (GET + HOST + b"X: a\rY: b\r\n\r\n", 400, None),
    (b"GET /health HTTP/1.1\nHost: localhost\n\n", 400, None),
    (b"get /health HTTP/1.1\r\n" + HOST + b"\r\n", 400, None),
    (b"GET /health\r\n" + HOST + b"\r\n", 400, None),
    (b"  \r\n\r\n", 400, None),
    (b"GET  /health HTTP/1.1\r\n" + HOST + b"\r\n", 400, None),
    (b"GET /he alth HTTP/1.1\r\n" + HOST + b"\r\n", 400, None),
    (b"GET /he\talth HTTP/1.1\r\n" + HOST + b"\r\n", 400, None),
    (b"GET health HTTP/1.1\r\n" + HOST + b"\r\n", 400, None),
    (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", 400, None),
    (b"GET http://[ HTTP/1.1\r\n" + HOST + b"\r\n", 400, None),
    (b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n", 400, None),
    (b"GET /health HTTP/2.0\r\n" + HOST + b"\r\n", 505, None),
    (b"GET /health HTTP/1.2\r\n" + HOST + b"\r\n", 505, None),
    (GET + HOST + b"X: y\r\n" * 1000 + b"\r\n", 431, None),
]


def answers(received: bytes) -> tuple[int, dict[str, str], Any]:
    """The status, the headers and the JSON of the one reply that has come."""
    assert len(re.findall(rb"HTTP/1\.[01] [0-9]{3} ", received)) == 1, received[:2000]
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return int(first.split()[1]), headers, json.loads(body)


@pytest.mark.parametrize(("data", "status", "param"), REFUSED, ids=lambda value: repr(value)[:60])
def test_what_can_be_read_in_two_ways_is_refused(server: Server, data: bytes, status: int, param: str | None) -> None:
    told, headers, body = answers(exchange(server, data + SMUGGLED))
    assert (told, body["error"]["param"]) == (status, param), body
    assert body["message"] == body["error"]["message"]
    assert headers["connection"] == "close"
    assert headers["content-type"] == "application/json"
    assert len(headers["x-request-id"]) == 16


@pytest.mark.parametrize(
    "data",
    [
        b"GET /healthz HTTP/1.0\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"Content-Encoding: identity\r\nConnection: close\r\n\r\n",
        b"\r\n\r\nGET /healthz HTTP/1.1\r\nHOST:\t localhost \t\r\nConnection: close\r\n\r\n",
        b"GET http://localhost/healthz HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
        # Nothing is to come: neither is it waited for.
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nConnection: close\r\n\r\n",
        b"GET /healthz HTTP/1.0\r\nExpect: something\r\n\r\n",
    ],
)
def test_what_is_well_is_answered(server: Server, data: bytes) -> None:
    assert exchange(server, data).startswith(b"HTTP/1.1 200") or exchange(server, data).startswith(b"HTTP/1.0 200")


def test_chunks_and_their_extensions_are_read(server: Server) -> None:
    body = b'{"prompt": "Count to 3."}'
    chunks = b"".join(b'1;x="y"\r\n%c\r\n' % letter for letter in body) + b"0\r\nX-Trailer: z\r\n\r\n"
    head = POST + f"X-Api-Key: {server.key}\r\nTransfer-Encoding: Chunked\r\nConnection: close\r\n\r\n".encode()
    assert b"1, 2, 3." in exchange(server, head + chunks)


def test_a_refusal_of_a_head_request_has_no_body(server: Server) -> None:
    received = exchange(server, b"HEAD /health HTTP/1.1\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 400")
    assert received.endswith(b"\r\n\r\n")


def reply_to(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    return connection.recv(65536)


def connect(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def test_a_refusal_comes_before_continue(server: Server) -> None:
    head = POST + f"X-Api-Key: {server.key}\r\nExpect: 100-Continue\r\nConnection: close\r\n".encode()
    for length, more, status in (
        (b"2000000", b"", b"413"),
        (b"20", b"Content-Encoding: gzip\r\n", b"415"),
        (b"x", b"", b"400"),
    ):
        with connect(server) as connection:
            told = reply_to(connection, head + more + b"Content-Length: " + length + b"\r\n\r\n")
            assert told.startswith(b"HTTP/1.1 " + status)
            assert b"100 Continue" not in told
    body = b'{"prompt": "Count to 3."}'
    with connect(server) as connection:
        head += b"Content-Length: %d\r\n\r\n" % len(body)
        assert reply_to(connection, head) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert reply_to(connection, body).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "data",
    [
        b"GET a://" + b"1" * 60_000 + b" x\r\n" + HOST + b"\r\n",
        GET + HOST + b"X:" + b" " * 60_000 + b"\x00\r\n\r\n",
        GET + HOST + b"X:" + b" " * 60_000 + b"x\r\nConnection: close\r\n\r\n",
        GET + HOST + b"X: x" + b" x" * 30_000 + b"\x00\r\n\r\n",
        CHUNKED + b"5;a=" + b'"\\x' * 300 + b"\r\n",
    ],
    ids=lambda value: repr(value)[:30],
)
def test_no_line_takes_the_server_minutes_to_read(server: Server, data: bytes) -> None:
    """waitress's patterns try each way to divide such a line: one request without a key stopped everything for minutes."""
    started = time.monotonic()
    assert exchange(server, data).startswith(b"HTTP/1.1 ")
    assert server.get("/healthz").status_code == 200
    assert time.monotonic() - started < 5


def test_exposed_headers_are_names(serve: Any) -> None:
    open_ = serve("--cors-origins", "https://chat.example")
    limits = {"requests_per_minute": 50, "tokens_per_minute": 10_000, "tokens_per_day": 10_000, "parallel": 3}
    key, _ = open_.mint(limits=limits)
    reply = open_.post("/answer", {"prompt": "Count to 3."}, key=key, headers={"Origin": "https://chat.example"})
    exposed = {name.strip() for name in reply.headers["Access-Control-Expose-Headers"].split(",")}
    assert all(name.replace("-", "").isalnum() for name in exposed)
    sent = {name for name in reply.headers if name.lower().startswith("x-ratelimit-")}
    assert len(sent) == 11
    assert sent | {"X-Request-Id"} <= {*exposed, *(name.title() for name in exposed)}
