"""GET /status, GET /auth/me, and what else the chat page asks for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

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


def test_only_the_master_sees_what_others_have_computed(server: Server) -> None:
    status = server.get("/status", key=server.mint()[0]).json()
    assert status["answers"]["slots"] == 8
    assert (status["totals"], status["memory"], status["states"]) == (None, None, None)


def test_a_key_can_ask_whose_it_is(server: Server) -> None:
    key, id_ = server.mint("Bob")
    free: dict[str, Any]
    usual, free = ["answer", "models:read"], {"profiles": None, "limits": {}, "expires": None}
    assert server.get("/auth/me", key=key).json() == {"id": id_, "name": "Bob", "scopes": usual, **free}
    scopes = [*usual, "models:switch", "models:pull", "keys", "metrics"]
    assert server.get("/auth/me").json() == {"id": "0", "name": "master", "scopes": scopes, **free}


def test_keys_are_listed_with_their_last_use(serve: Serve) -> None:
    server = serve()
    key, id_ = server.mint("Bob")

    def used() -> dict[str, str | None]:
        return {each["id"]: each["last_used"] for each in server.get("/auth/key").json()["keys"]}

    assert used()[id_] is None
    server.get("/auth", key=key)
    first = used()[id_]
    assert first
    time.sleep(1.1)
    server.get("/auth", key=key)
    assert (used()[id_] or "") > first
    last = used()[id_]
    server.stop()
    server.start()
    assert used()[id_] == last
    server.stop()
    file = server.data / "key_use.json"
    for broken in ("{ broken", '{"0": "2026-01-01", "1": "9999-12-31T23:59:59-23:00"}'):
        file.write_text(broken)
        server.start()
        assert server.get("/auth", key=key).status_code == 200
        assert used()[id_]
        server.stop()
    assert json.loads(file.read_text()).keys() == {"0", id_}
    server.start()
    server.delete(f"/auth/key/{id_}")
    server.stop()
    assert json.loads(file.read_text()).keys() == {"0"}


def test_a_profile_and_a_system_prompt_for_one_prompt(server: Server) -> None:
    asked: dict[str, Any] = {"prompt": "What is the capital of France?", "memory_k": 0}
    assert server.ask(**asked, model="Pirate")["result"] == "Arr! The capital of France is Paris."
    answer = server.ask(**asked, system_prompt="You are a pirate.")
    assert (answer["result"], answer["profile"]) == ("Arr! The capital of France is Paris.", "Guide")
    assert server.ask(**asked)["result"] == "The capital of France is Paris."
    missing = server.post("/answer", {**asked, "model": "Nobody"})
    assert (missing.status_code, missing.json()["error"]["param"]) == (404, "model")
    # Another system prompt goes on with the session.
    server.ask("My name is Ana.", session_id=700)
    assert "Ana" in server.ask("What is my name?", session_id=700, system_prompt="You are a pirate.")["result"]
    assert len(server.get("/answer/700").json()["messages"]) == 4


def test_sessions_are_found_by_their_words(serve: Serve) -> None:
    server = serve()
    server.ask("My name is Ana.", session_id=1)
    server.ask("What is the capital of France?", session_id=2)
    server.request("PATCH", "/answer/2", json={"name": "Größe"})

    def found(words: str, **more: str) -> list[int]:
        listed = server.get("/sessions", params={"q": words}, **more).json()["sessions"]
        return [session["session_id"] for session in listed]

    assert found("") == found("  ") == [2, 1]
    assert found("PARIS") == found("GRÖSSE") == [2]
    assert found("nice to meet") == [1]
    assert found("no such words") == []
    assert found("", key=server.mint()[0]) == []


def test_the_profiles_say_what_they_set(server: Server) -> None:
    models = server.get("/models").json()
    assert models["profile_details"].keys() == set(models["profiles"])
    assert models["profile_details"]["Guide"] == {
        "model": "guide.gguf",
        "source": None,
        "prompted_by": "template",
        "system_prompt": None,
        "n_ctx": 2048,
        "memory_k": 5,
        "temperature": 0.0,
        "top_p": 0.95,
        "max_tokens": 256,
    }
    assert models["profile_details"]["Qwen"]["source"].startswith("hf:")
