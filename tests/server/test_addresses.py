"""Where the server listens: its addresses can be opened, and a port in use says what to do."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from services.server.listening import listening_sockets, urls
from tests.support.serving import ROOT, Server

HAS_IPV6 = (
    Path("/proc/net/if_inet6").exists() and "00000000000000000000000000000001" in Path("/proc/net/if_inet6").read_text()
)


def test_a_port_in_use_names_the_flag(server: Server, tmp_path: Path) -> None:
    port = server.url.rsplit(":", 1)[1]
    command = [sys.executable, "main.py", "--port", port, "--data", str(tmp_path), "--model", "none"]
    (tmp_path / "config.json").write_text((ROOT / "data" / "config.example.json").read_text())
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    for word in ("--port", port, "127.0.0.1"):
        assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(OSError, match="--host") as raised:
        listening_sockets("203.0.113.9", 0)
    assert "203.0.113.9" in str(raised.value)


@pytest.mark.skipif(not HAS_IPV6, reason="this machine has no IPv6")
def test_an_address_of_ipv6_stands_in_brackets(serve: Callable[..., Server]) -> None:
    server = serve("--host", "::1")
    assert server.url.startswith("http://[::1]:")
    assert server.get("/auth").json() == {"auth": True}


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_all_addresses_of_a_machine_are_shown_as_ones_that_can_be_opened(host: str) -> None:
    shown = urls("http", host, 5000)
    assert shown[0] == "http://127.0.0.1:5000"
    assert len(set(shown)) == len(shown)
    for url in shown:
        # Each of them is this machine's own, or it could not be bound to.
        name = urlsplit(url).hostname or ""
        assert name not in ("0.0.0.0", "::")
        with socket.socket(socket.AF_INET6 if ":" in name else socket.AF_INET) as tried:
            tried.bind((name, 0))


@pytest.mark.skipif(not HAS_IPV6, reason="this machine has no IPv6")
def test_all_addresses_of_ipv6_have_those_of_ipv4_beside_them() -> None:
    sockets = listening_sockets("::", 0)
    try:
        assert {made.family for made in sockets} == {socket.AF_INET, socket.AF_INET6}
        (port,) = {made.getsockname()[1] for made in sockets}
        for name in ("127.0.0.1", "::1"):
            with socket.create_connection((name, port), timeout=2):
                pass
    finally:
        for made in sockets:
            made.close()


@pytest.mark.skipif(not HAS_IPV6, reason="this machine has no IPv6")
def test_a_name_with_two_addresses_has_one_port(serve: Callable[..., Server]) -> None:
    server = serve("--host", "localhost", ready=False)
    port = server.url.rsplit(":", 1)[1]
    found = {str(address[4][0]) for address in socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)}
    for name in found & {"127.0.0.1", "::1"}:
        host = f"[{name}]" if ":" in name else name
        assert requests.get(f"http://{host}:{port}/healthz", timeout=5).status_code == 200
