"""litellm, unchanged, against the real server, by its clients of OpenAI's, Ollama's and Anthropic's APIs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.server.test_agents import DONE, FIRST, QUESTION, RULES, STEPS, scripts_of
from tests.support.families import QWEN, scripted_server
from tests.support.scripted import N_CTX, marker
from tests.support.serving import ROOT, Server

N_CALLS = 4
FRANCE = "What is the capital of France?"
PARIS = "The capital of France is Paris."
# The guide itself would answer in plain words.
CITY = {
    "type": "object",
    "properties": {"capital": {"type": "string", "enum": ["Paris"]}},
    "required": ["capital"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "City", "schema": CITY, "strict": True}}
LOOK_UP = {
    "name": "look_up",
    "description": "Look up a fact.",
    "parameters": {
        "type": "object",
        "properties": {"step": {"type": "integer"}, "topic": {"type": "string"}},
        "required": ["step", "topic"],
    },
}
# Behind the last of these few calls the model is at its scripts' end.
MARKERS = (*range(1, N_CALLS), STEPS)
# By litellm's name of each API, its path on the server.
# litellm passes on no field that it does not know of a model, unless it is told to.
ASKS_FOR_THOUGHTS = {"thinking": {"type": "enabled", "budget_tokens": 200}, "allowed_openai_params": ["thinking"]}
APIS = {"openai": "/v1", "ollama_chat": "", "anthropic": ""}

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 14), reason="needs a Python below 3.14")
each_api = pytest.mark.parametrize("api", APIS)


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with scripted_server(tmp_path_factory.mktemp("litellm"), {QWEN.name: (QWEN, scripts_of(QWEN))}) as running:
        yield running


def ask(words: str) -> list[Any]:
    return [{"role": "user", "content": words}]


def questions(server: Server, scripted: Server) -> dict[str, Any]:
    """What litellm_calls.py is to call."""
    results = [f"That is a fact. {marker(n)}" for n in MARKERS]
    asked: dict[str, Any] = {}
    for api, path in APIS.items():
        fields = {"max_retries": 0, "max_tokens": 300, "temperature": 0}
        guide = {"model": f"{api}/Guide", "api_base": server.url + path, "api_key": server.key}
        chat = {**guide, **fields, "messages": ask(FRANCE)}
        asked[f"whole {api}"] = asked[f"streamed {api}"] = chat
        asked[f"whole {api} form"] = {**chat, "response_format": FORM}
        asked[f"error {api} model"] = {**chat, "model": f"{api}/nobody"}
        asked[f"error {api} key"] = {**chat, "api_key": "wrong"}
        asked[f"tool_loop {api}"] = {
            **{"model": f"{api}/{QWEN.name}", "api_base": scripted.url + path, "api_key": scripted.key},
            **fields,
            "messages": [{"role": "system", "content": RULES}, *ask(QUESTION)],
            "tools": [{"type": "function", "function": LOOK_UP}],
            "results": results,
            # Anthropic's clients get no thoughts that they have not asked for.
            **(ASKS_FOR_THOUGHTS if api == "anthropic" else {}),
        }
        if api == "openai":
            asked[f"vectors {api}"] = {**guide, "input": ["One", "Two", "One"]}
    asked["abilities ollama_chat"] = {"model": f"ollama_chat/{QWEN.name}"}
    return asked


@pytest.fixture(scope="module")
def replies(server: Server, scripted: Server) -> dict[str, Any]:
    """What each call gave, by its name: the function, the API, and what is special."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.server.litellm_calls"],
        input=json.dumps(questions(server, scripted)),
        # Where litellm asks for the abilities of Ollama's models, whatever a call says.
        env={**os.environ, "OLLAMA_API_BASE": scripted.url, "OLLAMA_API_KEY": scripted.key},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@each_api
def test_chats_whole_and_streamed(replies: dict[str, Any], api: str) -> None:
    usage = {"prompt": 13, "answer": 11, "total": 24}
    told = {"text": PARIS, "thought": None, "end": "stop", "usage": usage}
    assert replies[f"whole {api}"] == told
    assert replies[f"streamed {api}"] == told


@each_api
def test_answers_in_a_form(replies: dict[str, Any], api: str) -> None:
    """For Anthropic's API, litellm makes a call of it that the model is forced to."""
    reply = replies[f"whole {api} form"]
    assert json.loads(reply["text"]) == {"capital": "Paris"}
    assert reply["end"] == "stop"


@each_api
def test_errors_are_those_that_litellm_knows(replies: dict[str, Any], api: str) -> None:
    missing, stranger = replies[f"error {api} model"], replies[f"error {api} key"]
    assert "there is no model" in missing["message"]
    assert "nobody" in missing["message"]
    assert "this key is not valid" in stranger["message"]
    # This release has one class for all of Ollama's.
    wanted = ["APIConnectionError"] * 2 if api == "ollama_chat" else ["NotFoundError", "AuthenticationError"]
    assert [missing["error"], stranger["error"]] == wanted


@each_api
def test_a_tool_loop(replies: dict[str, Any], api: str) -> None:
    found = replies[f"tool_loop {api}"]
    assert len(found["calls"]) == N_CALLS
    for n, call in enumerate(found["calls"]):
        assert (call["name"], call["thought"]) == ("look_up", f"Fact number {n} is what I need.")
        assert call["arguments"] == {"step": FIRST + n, "topic": f"the moons of Jupiter, part {n}"}
        # Ollama's own word for it, which this release passes on from streams.
        assert call["end"] == ("stop" if api == "ollama_chat" and n % 2 else "tool_calls")
    assert (found["last"]["text"].strip(), found["last"]["end"]) == (DONE, "stop")


def test_prompts_hold_the_same_whatever_the_api(replies: dict[str, Any]) -> None:
    """A thought, call or result that is lost would make the second call's prompt shorter.

    Of the others, litellm's client of Anthropic makes longer ones: it puts words of its own for texts that are empty.
    """
    prompts = {api: [call["usage"]["prompt"] for call in replies[f"tool_loop {api}"]["calls"][:2]] for api in APIS}
    assert prompts["openai"] == prompts["ollama_chat"] == prompts["anthropic"], prompts


def test_vectors(replies: dict[str, Any]) -> None:
    one, two, again = replies["vectors openai"]
    assert one == again != two
    assert len(one) == len(two) > 100


def test_abilities_of_a_model(replies: dict[str, Any]) -> None:
    assert replies["abilities ollama_chat"] == {"max_input_tokens": N_CTX, "supports_function_calling": True}


def test_nothing_else_is_called(replies: dict[str, Any]) -> None:
    assert replies["strangers"] == []
