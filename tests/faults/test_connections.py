"""Crowds of connections that do not read, or do not go on, beside honest clients.

HEARTH_UNREAD and HEARTH_HANDSHAKES say how many; 2000 and 6000 for a long run, 1,100 in the suite. Of those that send many
requests at once, HEARTH_PIPELINES; 100 in the suite.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.server.test_http import CHUNKED
from tests.server.test_safe import make_certificate
from tests.support.attacking import LARGE, Crowd, Honest, allow_files, files_of, memory_of, worst_wait
from tests.support.serving import Server

UNREAD = int(os.environ.get("HEARTH_UNREAD", "1100"))
HANDSHAKES = int(os.environ.get("HEARTH_HANDSHAKES", "1100"))
# A single address may hold 400 connections, so fewer attempts show it.
FEW = 600
PIPELINES = int(os.environ.get("HEARTH_PIPELINES", "100"))
WORST = worst_wait("HEARTH_UNREAD", "HEARTH_HANDSHAKES", "HEARTH_PIPELINES")


def attack(server: Server, crowd: Crowd, count: int, data: bytes, most: int) -> None:
    """Open `count` connections that send `data`, and see that nobody else minds, and that no more than `most` stay open."""
    allow_files(count + 1000)
    before, n_files = memory_of(server), files_of(server)
    is_tls = server.url.startswith("https:")
    honest = [Honest(server, path, is_retrying=is_tls) for path in ("/healthz", "/auth/me", "/")]
    for client in honest:
        client.start()
    time.sleep(0.2)
    most_files = 0
    for number in range(count):
        crowd.connect(data)
        if number % 50 == 0:
            most_files = max(most_files, files_of(server))
    time.sleep(2)
    began = time.monotonic()
    assert server.ask("Count to 3.", session_id=1)["result"] == "1, 2, 3."
    asked = time.monotonic() - began
    for client in honest:
        client.stop()
    grown, n_open = memory_of(server) - before, crowd.count_open()
    waits = [wait for client in honest for wait in client.waits]
    worst, most_files = max(waits), max(most_files, files_of(server))
    retried = sum(client.n_retried for client in honest)
    figures = f"worst {worst:.2f} s of {len(waits)} ({retried} tried twice), an answer {asked:.2f} s, {grown} MB"
    print(f"{count}: {figures}, files {n_files} → {most_files}")
    assert [problem for client in honest for problem in client.problems] == []
    assert worst < WORST
    assert retried <= 0.1 * len(waits)
    assert n_open <= most
    # Those that wait for room, and a few of the server's own.
    assert most_files < n_files + most + 200
    assert grown < 150
    crowd.close()


def attack_from(server: Server, addresses: int, count: int, data: bytes) -> None:
    """Attack from so many addresses; a single one needs fewer connections in the suite."""
    is_single = addresses == 1
    if is_single and count < 2000:
        count = FEW
    attack(server, Crowd(server, addresses), count, data, 400 if is_single else 1000)


@pytest.mark.parametrize("addresses", [1, 50])
def test_connections_that_read_nothing(serve: Callable[..., Server], addresses: int) -> None:
    server = serve()
    data = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % LARGE.encode()
    attack_from(server, addresses, UNREAD, data)


@pytest.mark.parametrize(
    "data",
    [
        b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % LARGE.encode() * 2,
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1700,
        CHUNKED + b"1\r\na\r\n" * 16_000,
    ],
    ids=["large", "many", "chunks"],
)
@pytest.mark.parametrize("addresses", [1, 50])
def test_many_requests_at_once(serve: Callable[..., Server], data: bytes, addresses: int) -> None:
    server = serve()
    attack(server, Crowd(server, addresses), PIPELINES, data, PIPELINES)


# As it comes, and the first bytes of a ClientHello, of which more is announced.
@pytest.mark.parametrize("data", [b"", bytes.fromhex("1603010200010001fc0303")], ids=["silent", "half"])
@pytest.mark.parametrize("addresses", [1, 50])
def test_handshakes_that_do_not_go_on(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, addresses: int
) -> None:
    cert, key = make_certificate(tmp_path, "one")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(cert))
    server = serve("--cert", str(cert), "--key", str(key))
    attack_from(server, addresses, HANDSHAKES, data)
