"""Clients that hang up: what nobody waits for is computed no more."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import requests

from services.server.channel import HALF_CLOSE_SECONDS
from tests.support.serving import Server, Stream, child_of, wait_for

# Seconds; a client that leaves sooner is taken for a half-closed one, for ten seconds.
LEAVES_AFTER = HALF_CLOSE_SECONDS + 0.2


def test_hanging_up_on_a_stream_frees_the_engine(shared_endless: Server) -> None:
    stream = shared_endless.stream("Go on", session_id=1)
    stream.next()
    stream.close()
    assert shared_endless.ask("Hi", max_tokens=1, memory_k=0)["timings"]["queued_ms"] < 3000
    assert "1" not in shared_endless.get("/answer").json()


def test_hanging_up_without_a_stream_frees_the_engine(shared_endless: Server) -> None:
    with pytest.raises(OSError, match="timed out"):
        shared_endless.http.post(
            f"{shared_endless.url}/answer",
            json={"prompt": "Go on"},
            headers={"Authorization": shared_endless.key},
            timeout=LEAVES_AFTER,
        )
    assert shared_endless.ask("Hi", max_tokens=1, memory_k=0)["timings"]["queued_ms"] < 3000


def test_hanging_up_while_waiting_for_the_session_leaves_the_other_alone(shared_endless: Server) -> None:
    first = shared_endless.stream("Go on", session_id=2, max_tokens=600)
    first.next()
    with pytest.raises(OSError, match="timed out"):
        shared_endless.http.post(
            f"{shared_endless.url}/answer",
            json={"prompt": "And me?", "session_id": 2},
            headers={"Authorization": shared_endless.key},
            timeout=LEAVES_AFTER,
        )
    assert first.rest()[-1] == "[DONE]"
    time.sleep(0.5)
    assert [m["content"] for m in shared_endless.get("/answer/2").json()["messages"][::2]] == ["Go on"]


def test_a_client_that_hangs_up_frees_the_engine(shared_endless: Server) -> None:
    body = {
        "model": "Random",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 3500,
        "stream": True,
        "n": 4,
    }
    running = Stream(shared_endless.post("/v1/chat/completions", body, stream=True))
    for _ in range(4):
        running.next()
    running.close()
    for path in ("/v1/chat/completions", "/v1/completions"):
        short = {"model": "Random", "max_tokens": 2, "prompt": "Hi", "messages": body["messages"]}
        assert shared_endless.post(path, short).elapsed.total_seconds() < 5


def test_what_nobody_waits_for_is_computed_no_more(server: Server) -> None:
    # Minutes of work, within the time that an answer may take.
    texts = ["The capital of France is Paris. " * 60] * 200
    for _ in range(3):
        with pytest.raises(requests.Timeout):
            body = {"model": "Guide", "input": texts}
            headers = {"Authorization": server.key}
            requests.post(f"{server.url}/v1/embeddings", json=body, headers=headers, timeout=(5, LEAVES_AFTER))

    def idle() -> bool:
        before = cpu_seconds(child_of(server.process))
        time.sleep(0.5)
        return cpu_seconds(child_of(server.process)) - before < 0.1

    wait_for(idle, 15)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_what_was_computed_for_somebody_who_left_is_counted(shared_endless: Server) -> None:
    key, _ = shared_endless.mint()
    reply = shared_endless.post("/answer", {"prompt": "Hi", "memory_k": 0, "stream": True}, key=key, stream=True)
    lines = reply.iter_lines(chunk_size=1)
    for _ in range(12):
        next(lines)
    reply.close()
    deadline = time.monotonic() + 20
    while not (rows := shared_endless.get("/auth/usage", key=key).json()["usage"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert rows[0]["requests"] == 1
    assert rows[0]["completion_tokens"] >= 3
    assert rows[0]["cpu_seconds"] > 0
