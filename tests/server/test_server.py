from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from services.server.waitress_server import make_server
from services.settings import Settings
from tests.support.serving import Server


def exchange(server: Server, data: bytes) -> bytes:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(data)
        received = b""
        while part := connection.recv(65536):
            received += part
        return received


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /health HTTP/1.1\r\nbad header\r\n\r\n", b"400"),
        (b"POST /answer HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"400"),
        (b"POST /answer HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
        (b"POST /answer HTTP/1.1\r\nTransfer-Encoding: strange\r\n\r\n", b"501"),
    ],
)
def test_what_is_not_http_gets_the_same_shape(server: Server, data: bytes, status: bytes) -> None:
    received = exchange(server, data)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status) or head.startswith(b"HTTP/1.0 " + status)
    assert b"application/json" in head
    assert body.startswith(b'{"message": ')


def nothing(_environ: Any, _start: Any) -> list[bytes]:
    return []


def test_a_host_of_two_addresses_is_listened_on_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """As localhost is on a machine with IPv6."""
    two = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in ("127.0.0.1", "127.0.0.2")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: two)
    server = make_server(nothing, Settings(host="localhost", port=0))
    assert server.port > 0
    server.close()


def test_a_host_that_is_none_is_named() -> None:
    with pytest.raises(OSError, match="Invalid host"):
        make_server(nothing, Settings(host="no.such.host.invalid", port=0))


def test_a_client_that_hangs_up_in_the_middle_of_its_request_harms_nobody(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    for data in (b"", b"POST /answer HTTP/1.1\r\nContent-Le", b"POST /answer HTTP/1.1\r\nContent-Length: 99\r\n\r\n{"):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(data)
    assert server.get("/auth").json() == {"auth": True}


def test_requests_follow_each_other_on_one_connection(server: Server) -> None:
    line = f"GET /auth HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {server.key}\r\n".encode()
    received = exchange(server, (line + b"\r\n") * 2 + line + b"Connection: close\r\n\r\n")
    assert received.count(b'{"auth":true}') == 3


def test_the_server_starts_on_a_name(serve: Callable[..., Server]) -> None:
    server = serve("--host", "localhost")
    assert server.get("/auth").json() == {"auth": True}
