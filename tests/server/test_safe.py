"""What others on the network cannot do: by another name, from another page, slowly, or in two requests at once."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from services.api.http.hosts import Hosts
from tests.server.test_server import exchange
from tests.support.serving import ROOT, Server

Serve = Callable[..., Server]


def status_under(server: Server, host: str | None, path: str = "/health") -> int:
    lines = [f"GET {path} HTTP/1.1" if host is not None else f"GET {path} HTTP/1.0", f"X-Api-Key: {server.key}"]
    lines += [f"Host: {host}"] if host is not None else []
    received = exchange(server, ("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode())
    return int(received.split()[1])


def test_a_page_whose_name_was_made_to_lead_here_is_refused(server: Server) -> None:
    """DNS rebinding, as in Ollama's CVE-2024-28224: with a good key, with none, and for what is public."""
    port = server.url.rsplit(":", 1)[1]
    for host in ("evil.example", "evil.example:5000", "localhost.evil.example", "127.0.0.1.evil.example", "8.8.8.8"):
        for path in ("/health", "/auth", "/", "/nothing"):
            assert status_under(server, host, path) == 421, host
    own = socket.gethostname()
    for name in (f"127.0.0.1:{port}", "localhost", f"LOCALHOST:{port}", "[::1]:80", "127.0.0.9", own, None):
        assert status_under(server, name) == 200, name
    reply = server.get("/health", headers={"Host": "evil.example"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (421, "Host")
    assert "--allowed-hosts" in reply.json()["message"]


def test_names_are_taken_as_the_server_listens() -> None:
    on_all, here, named = Hosts("0.0.0.0"), Hosts("127.0.0.1"), Hosts("127.0.0.1", ["ai.example"])
    # Whoever types the machine's address on the LAN is no page of elsewhere.
    assert on_all.takes("192.168.1.5:5000")
    assert on_all.takes("[fe80::1]:5000")
    assert not here.takes("192.168.1.5:5000")
    for hosts in (on_all, here):
        assert not hosts.takes("ai.example")
        assert not hosts.takes("ai.example, localhost")
        assert not hosts.takes("localhost@ai.example")
    assert named.takes("AI.example:80")
    assert Hosts("127.0.0.1", ["*"]).takes("anything")


def test_pages_of_elsewhere_may_ask_only_where_they_are_named(serve: Serve, server: Server) -> None:
    page = "https://chat.example"
    asks = {"Origin": page, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    # By default none may, and nobody learns anything.
    plain = requests.options(f"{server.url}/answer", headers=asks, timeout=10)
    assert plain.status_code == 401
    assert not [name for name in plain.headers if name.lower().startswith("access-control")]
    assert "Access-Control-Allow-Origin" not in server.get("/auth", headers={"Origin": page}).headers
    open_ = serve("--cors-origins", f"{page},https://b.example")
    may = requests.options(f"{open_.url}/answer", headers=asks, timeout=10)
    assert may.status_code == 200
    assert may.headers["Access-Control-Allow-Origin"] == page
    assert "authorization" in may.headers["Access-Control-Allow-Headers"].lower()
    reply = open_.get("/auth", headers={"Origin": page})
    assert reply.headers["Access-Control-Allow-Origin"] == page
    assert "x-request-id" in reply.headers["Access-Control-Expose-Headers"].lower()
    for headers in (may.headers, reply.headers):
        assert "Access-Control-Allow-Credentials" not in headers
    other = open_.get("/auth", headers={"Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in other.headers
    assert requests.post(f"{open_.url}/answer", headers={"Origin": page}, timeout=10).status_code == 401
    # Who asks without the preflight's header is nobody's browser.
    assert requests.options(f"{open_.url}/answer", timeout=10).status_code == 401


def test_every_reply_keeps_browsers_careful(server: Server) -> None:
    for reply in (
        server.get("/auth"),
        server.get("/nothing"),
        server.get("/auth", key="wrong"),
        server.post("/answer", {"prompt": ""}),
        server.get("/"),
        server.get("/health"),
    ):
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["X-Frame-Options"] == "DENY"
        assert reply.headers["Referrer-Policy"] == "no-referrer"
        assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
        assert reply.headers["X-Request-Id"]
        assert "Server" not in reply.headers
        assert "Strict-Transport-Security" not in reply.headers
    assert server.get("/auth").headers["Cache-Control"] == "no-store"


def test_a_request_has_the_id_that_it_came_with(server: Server) -> None:
    for given, kept in (
        ("abc-123", True),
        ("a" * 64, True),
        ("a" * 65, False),
        ("a b", False),
        ("é", False),
        ("", False),
    ):
        told = server.get("/auth", headers={"X-Request-Id": given.encode("latin-1")}).headers["X-Request-Id"]
        assert (told == given) == kept
    ids = {server.get("/auth").headers["X-Request-Id"] for _ in range(5)}
    assert len(ids) == 5


def test_what_is_too_large_is_refused(server: Server) -> None:
    large = exchange(server, b"GET /auth HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 70_000 + b"\r\n\r\n")
    assert large.startswith((b"HTTP/1.1 431", b"HTTP/1.0 431"))
    assert b'"message"' in large
    assert server.post("/answer", {"prompt": "a" * 2**20}).status_code == 413


def test_a_request_behind_one_that_is_no_http_is_not_served(server: Server) -> None:
    """waitress's GHSA-9298-4cf8-g4wj: what follows a request that is refused on the same connection is not to be done."""
    _, id_ = server.mint("Victim")
    head = f"DELETE /auth/key/{id_} HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {server.key}\r\n".encode()
    second = head + b"Connection: close\r\n\r\n"
    for first in (
        b"POST /answer HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"POST /answer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        b"GET /auth HTTP/1.1\r\nbad header\r\n\r\n",
    ):
        received = exchange(server, first + second)
        assert received.count(b"HTTP/1.") == 1
        assert b"deleted" not in received
    assert id_ in {key["id"] for key in server.get("/auth/key").json()["keys"]}


def test_slow_requests_take_no_threads_and_end(server: Server) -> None:
    """Slow loris: a hundred connections that send a byte now and then, more than there are threads."""
    host, port = server.url.removeprefix("http://").split(":")
    slow = [socket.create_connection((host, int(port)), timeout=5) for _ in range(100)]
    for n, connection in enumerate(slow):
        half = b"POST /answer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{" if n % 2 else b"GET /auth HTT"
        connection.sendall(half if n % 3 else b"")
    started = time.monotonic()
    assert server.ask("Count to 3.")["result"] == "1, 2, 3."
    assert time.monotonic() - started < 15
    for connection in slow:
        with contextlib.suppress(OSError):
            connection.sendall(b"x")
        connection.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    return make_certificate(folder, "one")


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    names = ["-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-keyout",
        str(key),
        "-out",
        str(cert),
    ]
    subprocess.run([*command, *names], check=True, capture_output=True)
    return cert, key


def test_over_tls_everything_works(serve: Serve, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = certificate
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(cert))
    server = serve("--cert", str(cert), "--key", str(key))
    assert server.url.startswith("https://")
    assert server.ask("Count to 3.")["result"] == "1, 2, 3."
    assert server.stream("Count to 3.").rest()[-1] == "[DONE]"
    assert server.get("/auth").headers["Strict-Transport-Security"]
    large = server.post("/answer", {"prompt": "a" * 900_000})
    assert large.json()["error"]["code"] == "context_length_exceeded"
    # Who hangs up stops the computing, as without TLS; who speaks plain HTTP gets nowhere.
    stream = server.stream("Count to 20.", session_id=9)
    stream.next()
    stream.close()
    port = int(server.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"200" not in connection.recv(100)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain, old.wrap_socket(plain) as wrapped:
        assert wrapped.version() in ("TLSv1.2", "TLSv1.3")
    audited = (server.data / "audit.jsonl").read_text() if (server.data / "audit.jsonl").exists() else ""
    assert "None" not in audited
    assert server.stop() == 0


def test_with_tls_there_is_no_other_port(serve: Serve, certificate: tuple[Path, Path]) -> None:
    """A plain server behind TLS would have to take somebody's word for who asks."""
    cert, key = certificate
    server = serve("--cert", str(cert), "--key", str(key), ready=False)
    assert ports_of(server.process.pid) == {int(server.url.rsplit(":", 1)[1])}


def ports_of(pid: int) -> set[int]:
    """The ports that a process listens on, by proc(5)."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {int(row[1].split(":")[1], 16) for row in rows if row[3] == "0A" and row[9] in inodes}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--cert", "none.pem", "--key", "none.key"), "none.pem"),
        (("--cert", "none.pem"), "cert and key belong together"),
    ],
)
def test_a_certificate_that_is_none_is_named(serve: Serve, tmp_path: Path, flags: Any, says: str) -> None:
    command = [sys.executable, "main.py", "--port", "0", "--data", str(tmp_path), *flags]
    (tmp_path / "config.json").write_text((ROOT / "data" / "config.example.json").read_text())
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert says in done.stderr
    assert "Traceback" not in done.stderr
