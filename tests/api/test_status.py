"""GET /status, GET /auth/me, and what else the chat page asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from auth.key_use import LocalLastUse
from tests.support.clock import Clock
from tests.support.in_process import Client

Open = Callable[..., Client]


def test_only_the_master_sees_what_others_have_computed(client: Client) -> None:
    status = client.get("/status", key=client.mint()[0]).json()
    assert status["answers"]["slots"] == 8
    assert (status["totals"], status["memory"], status["states"]) == (None, None, None)


def test_a_key_can_ask_whose_it_is(client: Client) -> None:
    key, id_ = client.mint("Bob")
    free: dict[str, Any]
    usual, free = ["answer", "models:read"], {"profiles": None, "limits": {}, "expires": None}
    assert client.get("/auth/me", key=key).json() == {"id": id_, "name": "Bob", "scopes": usual, **free}
    scopes = [*usual, "models:switch", "models:pull", "models:delete", "keys", "metrics"]
    assert client.get("/auth/me").json() == {"id": "0", "name": "master", "scopes": scopes, **free}


def test_keys_are_listed_with_their_last_use(client: Client, clock: Clock) -> None:
    key, id_ = client.mint("Bob")

    def used() -> dict[str, str | None]:
        return {each["id"]: each["last_used"] for each in client.get("/auth/key").json()["keys"]}

    assert used()[id_] is None
    client.get("/auth", key=key)
    first = used()[id_]
    assert first
    clock.forward(2)
    client.get("/auth", key=key)
    assert (used()[id_] or "") > first
    last = used()[id_]
    client.restart()
    assert used()[id_] == last
    client.close()
    # An older server's file, damaged.
    file = client.data / "key_use.json"
    for broken in ("{ broken", '{"0": "2026-01-01", "1": "9999-12-31T23:59:59-23:00"}'):
        file.write_text(broken)
        client.open()
        assert client.get("/auth", key=key).status_code == 200
        assert used()[id_]
        client.close()
        assert not file.exists()
    table = LocalLastUse(client.data / "hearth.sqlite")
    assert table.read().keys() == {"0", id_}
    table.close()
    client.open()
    client.delete(f"/auth/key/{id_}")
    client.close()
    assert table.read().keys() == {"0"}
    table.close()


def test_a_profile_and_a_system_prompt_for_one_prompt(client: Client) -> None:
    asked: dict[str, Any] = {"prompt": "What is the capital of France?", "memory_k": 0}
    assert client.ask(**asked, model="Pirate")["result"] == "Arr! The capital of France is Paris."
    answer = client.ask(**asked, system_prompt="You are a pirate.")
    assert (answer["result"], answer["profile"]) == ("Arr! The capital of France is Paris.", "Guide")
    assert client.ask(**asked)["result"] == "The capital of France is Paris."
    missing = client.post("/answer", {**asked, "model": "Nobody"})
    assert (missing.status_code, missing.json()["error"]["param"]) == (404, "model")
    # Another system prompt goes on with the session.
    client.ask("My name is Ana.", session_id=700)
    assert "Ana" in client.ask("What is my name?", session_id=700, system_prompt="You are a pirate.")["result"]
    assert len(client.get("/answer/700").json()["messages"]) == 4


def test_sessions_are_found_by_their_words(client: Client) -> None:
    client.ask("My name is Ana.", session_id=1)
    client.ask("What is the capital of France?", session_id=2)
    client.request("PATCH", "/answer/2", json={"name": "Größe"})

    def found(words: str, **more: str) -> list[int]:
        listed = client.get("/sessions", params={"q": words}, **more).json()["sessions"]
        return [session["session_id"] for session in listed]

    assert found("") == found("  ") == [2, 1]
    assert found("PARIS") == found("GRÖSSE") == [2]
    assert found("nice to meet") == [1]
    assert found("no such words") == []
    assert found("", key=client.mint()[0]) == []


def test_the_profiles_say_what_they_set(client: Client) -> None:
    models = client.get("/models").json()
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
        "thinking": None,
        "thinking_budget": None,
        "chat_template_kwargs": {},
        "capabilities": ["completion"],
    }
    client.edit_config("Guide", template=None, thinking="low", thinking_budget=64, chat_template_kwargs={"tone": "dry"})
    told = client.get("/models").json()["profile_details"]["Guide"]
    assert (told["thinking"], told["thinking_budget"], told["chat_template_kwargs"]) == ("low", 64, {"tone": "dry"})
    assert models["profile_details"]["Qwen"]["source"].startswith("hf:")
