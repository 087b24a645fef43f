"""SIGTERM ends the server whatever hangs: what cannot be closed is left, and the engine's process killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.serving import ROOT, Server, child_of

Serve = Callable[..., Server]
# What waits for a signal as a server does, and closes as the next argument says.
PROGRAM = """
import sys, threading, time
from services.server import shutdown

shutdown.CLOSE_SECONDS = 1
shutdown.log.addHandler(__import__("logging").StreamHandler())

def hang():
    time.sleep(600)

def fail():
    raise OSError("no room")

def end():
    print("the last one ended", flush=True)

stop = shutdown.Shutdown(lambda: None, lambda: 0, 0, [{"hang": hang, "fail": fail}[sys.argv[1]], end])
with stop.on_signals():
    print("runs", flush=True)
    while True:
        time.sleep(0.1)
"""


# Without a watch, stopping alone finds that it hangs, which takes a while.
@pytest.mark.parametrize("timeout", ["2", "0"] if "HEARTH_HANGS" in os.environ else ["2"])
def test_a_hung_engine_does_not_keep_the_server(serve: Serve, timeout: str) -> None:
    server = serve("--engine-timeout", timeout, "--stop-seconds", "1")
    answered = server.ask("My name is Ana.", session_id=1)["result"]
    child = child_of(server.process)
    os.kill(child, signal.SIGSTOP)
    started = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - started < 30
    assert not Path(f"/proc/{child}").exists()
    server.start()
    assert server.get("/answer/1").json()["messages"][1]["content"] == answered


@pytest.mark.parametrize(("closer", "status"), [("hang", 1), ("fail", 0)])
def test_what_cannot_be_closed_keeps_nobody(closer: str, status: int) -> None:
    command = [sys.executable, "-c", PROGRAM, closer]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "runs\n"
        process.send_signal(signal.SIGTERM)
        said, complaints = process.communicate(timeout=30)
    assert process.returncode == status
    assert closer in complaints
    assert ("the last one ended" in said) == (closer == "fail")
