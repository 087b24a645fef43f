"""What is answered is on the disk before its reply leaves: the system calls of a real server say so."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.serving import Server

CALLS = "trace=openat,write,pwrite64,writev,sendto,sendmsg,fsync,fdatasync"


def traced(server: Server, log: Path, act: Callable[[], None]) -> list[str]:
    """The server's system calls, in their order, while `act` runs; each with the file or socket that it is about."""
    command = ["strace", "-f", "-y", "-s", "4096", "-e", CALLS, "-o", str(log), "-p", str(server.process.pid)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr
    if "attached" not in (said := tracer.stderr.readline()):
        tracer.wait()
        pytest.skip(f"this system lets nobody trace: {said}")
    time.sleep(0.3)
    try:
        act()
    finally:
        tracer.terminate()
        tracer.communicate()
    # A call that another thread's interrupts is written in two lines.
    return re.sub(r"<\.\.\. (\w+) resumed>", r"\1(resumed", log.read_text(errors="replace")).splitlines()


def first(lines: list[str], pattern: str, after: int = 0) -> int:
    """The number of the first line, from `after` on, that matches."""
    found = (n for n, line in enumerate(lines[after:], after) if re.search(pattern, line))
    number = next(found, None)
    assert number is not None, f"no {pattern} in\n" + "\n".join(line[:200] for line in lines)
    return number


@pytest.mark.skipif(not shutil.which("strace"), reason="strace shows the order of system calls")
@pytest.mark.parametrize("stream", [False, True])
def test_an_exchange_is_synced_before_its_reply_is_sent(serve: Callable[..., Server], tmp_path: Path, stream: bool) -> None:
    server = serve()
    server.ask("Hi", session_id=1)
    words = "Count to 3, please."

    def act() -> None:
        reply = server.post("/answer", {"prompt": words, "session_id": 1, "stream": stream})
        assert reply.status_code == 200
        assert '"finish_reason"' in reply.text

    lines = traced(server, tmp_path / "calls", act)
    written = first(lines, r"write\w*\(\d+<[^>]*sessions\.journal>.*Count to 3, please")
    synced = first(lines, r"f(data)?sync\(\d+<[^>]*sessions\.journal>", written)
    # The end of the reply, which says that the answer is whole.
    sent = first(lines, r"(sendto|sendmsg|write)\(\d+<(TCP|socket):.*finish_reason")
    assert written < synced < sent


@pytest.mark.skipif(not shutil.which("strace"), reason="strace shows the order of system calls")
def test_a_minted_key_is_synced_before_it_is_shown(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve()
    lines = traced(server, tmp_path / "calls", lambda: server.mint("Ana") and None)
    synced = first(lines, r"f(data)?sync\(\d+<[^>]*api_keys\.json[^>]*>")
    sent = first(lines, r"(sendto|sendmsg|write)\(\d+<(TCP|socket):.*hearth-")
    assert synced < sent
