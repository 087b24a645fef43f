"""How a server stops: what is under way ends, nothing new begins, and what was answered is there afterwards."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from tests.support.serving import Server

Serve = Callable[..., Server]


@pytest.fixture
def talker(serve: Serve, models: Path) -> Callable[..., Server]:
    """Starts servers whose model goes on talking for as many tokens as it may."""

    def start(*flags: str) -> Server:
        return serve(*flags, models=models, endless={"n_parallel": 2})

    return start


def test_what_is_under_way_ends_and_nothing_new_begins(talker: Callable[..., Server]) -> None:
    server = talker()
    key, _ = server.mint("Ana")
    body = {"prompt": "Hi", "session_id": 5, "stream": True, "max_tokens": 400}
    stream = server.post("/answer", body, key=key, stream=True)
    lines = stream.iter_lines(chunk_size=1)
    next(lines)
    server.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 10
    while (reply := server.post("/answer", {"prompt": "Hi"})).status_code != 503:
        assert time.monotonic() < deadline
    assert (reply.json()["error"]["code"], reply.headers["Retry-After"]) == ("stopping", "5")
    assert server.get("/auth").status_code == 503
    assert server.get("/health").status_code == 200
    said = [line.decode() for line in lines if line]
    assert said[-1] == "data: [DONE]"
    assert '"finish_reason": "length"' in said[-2]
    assert server.process.wait(30) == 0
    server._ended()
    server.start()
    assert len(server.get("/answer/5", key=key).json()["messages"]) == 2
    (row,) = server.get("/auth/usage", key=key).json()["usage"]
    assert row["completion_tokens"] == 400


def test_what_takes_too_long_is_told_so(talker: Callable[..., Server]) -> None:
    server = talker("--stop-seconds", "1")
    stream = server.stream("Hi", session_id=5)
    stream.next()
    server.process.send_signal(signal.SIGTERM)
    events = stream.rest()
    assert events[-1]["error"]["code"] == "engine_down"
    assert server.process.wait(20) == 0
    server._ended()
    server.start()
    assert server.get("/answer/5").status_code == 404


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_leaves_at_once_and_loses_nothing(talker: Callable[..., Server], number: int) -> None:
    server = talker("--stop-seconds", "100")
    answered = server.ask("Hi", session_id=1, max_tokens=5)["result"]
    reader = threading.Thread(target=lambda: read_all(server))
    reader.start()
    while server.get("/status").json()["answers"]["running"] == 0:
        time.sleep(0.02)
    server.process.send_signal(number)
    time.sleep(0.5)
    assert server.process.poll() is None
    started = time.monotonic()
    server.process.send_signal(number)
    assert server.process.wait(10) == 128 + number
    assert time.monotonic() - started < 5
    reader.join()
    server._ended()
    server.start()
    assert [message["content"] for message in server.get("/answer/1").json()["messages"]] == ["Hi", answered]


def read_all(server: Server) -> None:
    with contextlib.suppress(requests.RequestException):
        server.post("/answer", {"prompt": "Hi", "stream": True})


def test_an_answer_takes_no_longer_than_it_may(talker: Callable[..., Server]) -> None:
    server = talker("--max-seconds", "3")
    started = time.monotonic()
    answer = server.ask("Hi", session_id=3, max_tokens=100_000)
    assert 3 <= time.monotonic() - started < 30
    assert answer["finish_reason"] in ("cancelled", "length")
    assert answer["result"]
