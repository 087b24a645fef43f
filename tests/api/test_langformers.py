"""Langformers' way: its own client against /api/generate, and the conversation that the server keeps."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.in_process import Client
from tests.support.serving import Api, Stream


def _stream_processor() -> Any:
    """Langformers' client, unchanged, from its own file: importing the package would need torch."""
    package = importlib.util.find_spec("langformers")
    assert package
    assert package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / "generators" / "stream_processor.py"
    spec = importlib.util.spec_from_file_location("stream_processor", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.StreamProcessor


StreamProcessor = _stream_processor()
EXACT = {"temperature": 0, "max_length": 60}


class Caller:
    """One key's way to the endpoint, by Langformers' client."""

    def __init__(self, api: Api) -> None:
        self.key, self.id = api.mint()
        self._api = api
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        self.client = StreamProcessor(headers=headers)

    def ask(self, prompt: str, **fields: Any) -> str:
        payload = {"prompt": prompt, **EXACT, **fields}
        url = f"{self._api.url}/api/generate"
        return "".join(self.client.process(endpoint_url=url, payload=payload, key_name="chunk", stream=True))

    def usage(self, prompt: str, **fields: Any) -> dict[str, int]:
        """The counts that the last event tells."""
        body = {"prompt": prompt, **EXACT, **fields}
        events = Stream(self._api.post("/api/generate", body, key=self.key, stream=True)).rest()
        assert events[-1]["chunk"] == ""
        return dict(events[-1]["usage"])


@pytest.fixture
def caller(client: Client, monkeypatch: pytest.MonkeyPatch) -> Caller:
    # Its client sends with requests.post, which has no address to go to here.
    monkeypatch.setattr(requests, "post", lambda *given, **named: client.http.post(*given, **named))
    return Caller(client)


def test_the_conversation_is_kept_for_its_caller(caller: Caller, client: Client) -> None:
    caller.ask("My name is Ana.")
    assert "Ana" in caller.ask("What is my name?")
    assert "Ana" not in Caller(client).ask("What is my name?")


def test_memory_k_counts_messages(caller: Caller) -> None:
    lengths = []
    for memory_k in (0, 1, 2, 3, 4, 100):
        other = f"Say something about number {memory_k}."
        caller.usage(other, system_prompt=str(memory_k))
        caller.usage(other, system_prompt=str(memory_k))
        lengths.append(caller.usage("Hello", system_prompt=str(memory_k), memory_k=memory_k)["prompt_tokens"])
    assert lengths[0] == lengths[1] < lengths[2] == lengths[3] < lengths[4]
    assert abs(lengths[5] - lengths[4]) < 10


def test_another_system_prompt_begins_anew(caller: Caller) -> None:
    caller.ask("My name is Ana.", system_prompt="You are the guide.")
    assert "Ana" in caller.ask("What is my name?", system_prompt="You are the guide.")
    assert "Ana" not in caller.ask("What is my name?", system_prompt="You are a pirate.")
    assert "Ana" not in caller.ask("What is my name?", system_prompt="You are the guide.")
    caller.ask("My name is Ana.")
    assert "Ana" in caller.ask("What is my name?")


def test_a_session_is_kept_and_begun_anew(caller: Caller, client: Client) -> None:
    caller.ask("My name is Ana.", session_id=3, system_prompt="You are the guide.")
    client.restart()
    assert "Ana" in caller.ask("What is my name?", session_id=3, system_prompt="You are the guide.")
    said = client.get("/answer/3", key=caller.key).json()
    assert [message["type"] for message in said["messages"]] == ["system", "human", "ai", "human", "ai"]
    assert said["name"] == "My name is Ana."
    assert "Ana" not in caller.ask("What is my name?", session_id=3, system_prompt="You are a pirate.")
    said = client.get("/answer/3", key=caller.key).json()["messages"]
    assert [message["content"] for message in said[:2]] == ["You are a pirate.", "What is my name?"]
    assert len(said) == 3


def test_an_earlier_prompt_is_answered_anew(caller: Caller, client: Client) -> None:
    caller.ask("My name is Ana.", session_id=6)
    caller.ask("Count to 3.", session_id=6)
    caller.ask("Count to 5.", session_id=6, keep=3)
    told = [message["content"] for message in client.get("/answer/6", key=caller.key).json()["messages"]]
    assert told == ["", "My name is Ana.", "Nice to meet you, Ana!", "Count to 5.", "1, 2, 3, 4, 5."]
    assert "Ana" in caller.ask("What is my name?", session_id=6, keep=3)
    assert "Ana" not in caller.ask("What is my name?", session_id=6, keep=0)
    reply = client.post("/answer", {"prompt": "Hello", "session_id": 6, "keep": 99}, key=caller.key)
    assert (reply.status_code, reply.json()["message"]) == (400, "keep: the session has 3 messages")
    reply = client.post("/answer", {"prompt": "Hello", "keep": 0}, key=caller.key)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "keep")


def test_a_session_of_other_endpoints_goes_on(caller: Caller, client: Client) -> None:
    client.post("/answer", {"prompt": "My name is Ana.", "session_id": 4}, key=caller.key)
    assert "Ana" in caller.ask("What is my name?", session_id=4, system_prompt="You are the guide.")
    reply = client.post("/answer", {"prompt": "What is my name?", "session_id": 4}, key=caller.key)
    assert "Ana" in reply.json()["result"]


def test_a_prompt_that_fails_loses_nothing(caller: Caller, client: Client) -> None:
    caller.ask("My name is Ana.", session_id=5, system_prompt="A")
    body = {"prompt": "word " * 5000, "session_id": 5, "system_prompt": "B"}
    assert client.post("/api/generate", body, key=caller.key).status_code == 400
    assert "Ana" in caller.ask("What is my name?", session_id=5, system_prompt="A")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"temperature": 1.1}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"memory_k": -1}, "memory_k"),
        ({"max_length": 0}, "max_length"),
        ({"system": "x"}, "system"),
    ],
)
def test_what_does_not_fit_is_named(client: Client, fields: Any, param: str) -> None:
    refused = client.post("/api/generate", {"prompt": "Hello", **fields})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
