"""What a request may choose of how a model is loaded is a limit within what is: nobody loses computed states by it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.serving import Server
from tests.support.tiny import GUIDE

CHAT = [{"role": "user", "content": "What is the capital of France?"}]
LONG = "My name is Ana. " + "The garden is long. " * 40


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the module's own, with two model files and memory for one of them."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("guide.gguf", "other.gguf"):
        (folder / name).hardlink_to(GUIDE)
    server = Server(tmp_path_factory.mktemp("server") / "data", "--model-ram", "90", models=folder)
    config = json.loads((server.data / "config.json").read_text())
    config["Other"] = {**config["Guide"], "model": "other.gguf"}
    config["Short"] = {**config["Guide"], "n_ctx": 1024}
    (server.data / "config.json").write_text(json.dumps(config))
    server.start()
    yield server
    server.stop()


def host(server: Server, options: dict[str, Any], inputs: Any = CHAT) -> Any:
    body = {"file_name": "guide.gguf", "inputs": inputs, "parameters": {"max_tokens": 4}, "options": options}
    return server.post("/api", body)


def cached(server: Server, session: int, **fields: Any) -> tuple[int, int]:
    """Of how many tokens of the session's next prompt the state was there, and of how many."""
    usage = server.ask("What is my name?", session_id=session, max_tokens=4, **fields)["usage"]
    return usage["cached_tokens"], usage["prompt_tokens"]


def wait_until_saved(server: Server, session: int) -> None:
    deadline = time.monotonic() + 20
    while not any(f'"session":"{session}"'.encode() in file.read_bytes() for file in states(server)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def states(server: Server) -> list[Path]:
    return list((server.data / "states").glob("*.state"))


def test_a_requests_context_costs_nobody_a_computed_state(own: Server) -> None:
    own.ask(LONG, session_id=1, max_tokens=4)
    wait_until_saved(own, 1)
    for options in ({"ctx_length": 512}, {"ctx_lenght": 2048}, {"ctx_length": 256, "use_gpu": False}):
        assert host(own, options).status_code == 200
    n_cached, n_tokens = cached(own, 1)
    assert n_cached > n_tokens - 40
    assert len(own.get("/status").json()["models"]) == 1


def test_a_request_cannot_have_what_is_not_loaded(own: Server) -> None:
    for options, param in (
        ({"ctx_length": 4096}, "options.ctx_length"),
        ({"ctx_lenght": 2049}, "options.ctx_lenght"),
        ({"use_gpu": True}, "options.use_gpu"),
    ):
        refused = host(own, options)
        assert refused.status_code == 400, refused.text
        assert refused.json()["error"]["param"] == param
        assert param in refused.json()["message"]
    assert "2048" in host(own, {"ctx_length": 4096}).json()["message"]
    # Prompt and answer together keep to the limit.
    long = host(own, {"ctx_length": 128}, "word " * 300)
    assert (long.status_code, long.json()["error"]["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize("other", ["Other", "Short"])
def test_what_has_to_make_room_comes_back_from_disk(own: Server, other: str) -> None:
    """Another model, for which memory is too small beside it, or the same file in another form."""
    session = 2 if other == "Other" else 3
    own.ask(LONG, session_id=session, max_tokens=4)
    wait_until_saved(own, session)
    own.ask("Hello", model=other, memory_k=0)
    n_cached, n_tokens = cached(own, session)
    assert n_cached > n_tokens - 40


def test_what_has_to_make_room_at_once_is_kept_too(own: Server) -> None:
    own.ask(LONG, session_id=4, max_tokens=4)
    own.ask("Hello", model="Other", memory_k=0)
    n_cached, n_tokens = cached(own, 4)
    assert n_cached > n_tokens - 40


def test_what_belongs_to_no_session_is_never_on_disk(own: Server) -> None:
    own.post("/v1/chat/completions", {"messages": CHAT, "max_tokens": 4})
    own.ask("Hello", model="Other", memory_k=0)
    assert not [file for file in states(own) if b'"session":"~' in file.read_bytes()[:4000]]
