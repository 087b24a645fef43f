"""The public address that cloudflared gives."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.serving import Server, child_of


def write_cloudflared(folder: Path, says: str, ends: bool = False) -> None:
    """A stand-in for the program: it is the network that is not here."""
    folder.mkdir()
    (folder / "cloudflared").write_text(
        f"#!{sys.executable}\nimport sys, time\nprint('INF Requesting new quick Tunnel', file=sys.stderr)\n"
        f"print({says!r}, sys.argv[1:], file=sys.stderr, flush=True)\n{'' if ends else 'time.sleep(600)'}\n"
    )
    (folder / "cloudflared").chmod(0o755)


def test_a_tunnel_gives_a_public_address(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cloudflared(tmp_path / "bin", "INF |  https://some-words-here.trycloudflare.com  |")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    server = serve("--tunnel")
    assert server.process.stdout
    assert server.process.stdout.readline() == "Public address: https://some-words-here.trycloudflare.com\n"
    threads = Path(f"/proc/{server.process.pid}/task").glob("*/children")
    children = [child for thread in threads for child in thread.read_text().split()]
    assert len({*children, str(child_of(server.process))}) == 2
    assert server.stop() == 0
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_without_the_program_it_says_how_to_get_it(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    server = serve("--tunnel")
    assert "cloudflared is not installed" in server.log()
    assert server.ask("Hello")["result"]


def test_a_tunnel_that_ends_is_told_of(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cloudflared(tmp_path / "bin", "ERR no way out", ends=True)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    server = serve("--tunnel")
    deadline = time.monotonic() + 10
    while "cloudflared has ended, and with it the public address: ERR no way out" not in server.log():
        assert time.monotonic() < deadline
        time.sleep(0.05)
