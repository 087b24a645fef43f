"""GET /status of a server with a real engine."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.support.serving import Server

Serve = Callable[..., Server]


def test_the_status_counts_what_is_computed(serve: Serve) -> None:
    server = serve()
    before = server.get("/status").json()
    first = server.ask("My name is Ana.", session_id=1)
    second = server.ask("What is my name?", session_id=1)
    after = server.get("/status").json()
    grown = {name: after["totals"][name] - before["totals"][name] for name in after["totals"]}
    for count in ("cached_tokens", "completion_tokens"):
        assert grown[count] == first["usage"][count] + second["usage"][count]
    all_read = sum(answer["usage"]["prompt_tokens"] - answer["usage"]["cached_tokens"] for answer in (first, second))
    assert grown["prompt_tokens"] == all_read
    assert (grown["answers"], grown["first_tokens"]) == (2, 2)
    told = (first["timings"]["first_token_ms"] + second["timings"]["first_token_ms"]) / 1000
    assert abs(grown["first_token_seconds"] - told) < 0.001
    assert after["time"] > before["time"]
    assert after["answers"] == {"running": 0, "waiting": 0, "slots": 8}
    assert after["status"] == "ready"
    assert 10e6 < after["memory"]["used"] < after["memory"]["limit"]
    assert [model["file"] for model in after["models"]] == ["guide.gguf"]
    deadline = time.monotonic() + 30
    while not server.get("/status").json()["states"]["disk"]["used"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_what_was_computed_counts_after_its_model_has_left(serve: Serve) -> None:
    server = serve()
    server.ask("Count to 3.")
    before = server.get("/status").json()["totals"]
    # The same file with another context: the old engine leaves.
    server.edit_config(n_ctx=1024)
    server.ask("Count to 3.", memory_k=0)
    after = server.get("/status").json()
    assert after["totals"]["answers"] == before["answers"] + 1
    assert len(after["models"]) == 1
