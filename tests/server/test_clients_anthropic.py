"""Anthropic's own package, unchanged, against the real server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import requests

from tests.server.test_agents import DONE, FAMILIES, FIRST, QUESTION, RULES, STEPS, Library, scripts_of
from tests.support.families import Family, scripted_server
from tests.support.serving import Server

FRANCE = "What is the capital of France?"
PARIS = "The capital of France is Paris."
# The package has no such field any more.
SURELY = {"temperature": 0}

if sys.version_info < (3, 11):
    pytest.skip("needs Python 3.11", allow_module_level=True)
# Imported by name, since Python 3.10 has no version of it.
anthropic = import_module("anthropic")

LOOK_UP = {
    "name": "look_up",
    "description": "Look up a fact.",
    "input_schema": {
        "type": "object",
        "properties": {"step": {"type": "integer"}, "topic": {"type": "string"}},
        "required": ["step", "topic"],
    },
}


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=server.url, api_key=server.key, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = {family.name: (family, scripts_of(family)) for family in FAMILIES}
    with scripted_server(tmp_path_factory.mktemp("anthropic"), models) as running:
        yield running


def ask(words: str) -> list[Any]:
    return [{"role": "user", "content": words}]


def test_messages_whole_and_streamed(client: Any) -> None:
    reply = client.messages.create(model="Guide", max_tokens=50, messages=ask(FRANCE), extra_body=SURELY)
    assert [block.text for block in reply.content] == [PARIS]
    assert (reply.stop_reason, reply.model) == ("end_turn", "Guide")
    with client.messages.stream(model="Guide", max_tokens=50, messages=ask(FRANCE), extra_body=SURELY) as stream:
        assert "".join(stream.text_stream) == PARIS
        final = stream.get_final_message()
    assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", reply.usage.output_tokens)
    n_prompt = reply.usage.input_tokens + reply.usage.cache_read_input_tokens
    # What the first reply has read is computed already.
    assert final.usage.input_tokens + final.usage.cache_read_input_tokens == n_prompt
    assert final.usage.cache_read_input_tokens > reply.usage.cache_read_input_tokens
    assert client.messages.count_tokens(model="Guide", messages=ask(FRANCE)).input_tokens == n_prompt


def test_stop_sequences_and_lengths(client: Any) -> None:
    def ended(**fields: Any) -> tuple[str, str | None, str]:
        reply = client.messages.create(
            **{"model": "Guide", "max_tokens": 50, "messages": ask(FRANCE), "extra_body": SURELY, **fields}
        )
        return reply.stop_reason, reply.stop_sequence, "".join(block.text for block in reply.content)

    assert ended(stop_sequences=["is Paris"]) == ("stop_sequence", "is Paris", "The capital of France")
    assert ended(max_tokens=2)[0] == "max_tokens"


def test_errors_are_those_that_the_package_knows(client: Any) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(model="claude", max_tokens=5, messages=ask(FRANCE))
    assert "claude" in missing.value.body["error"]["message"]
    assert missing.value.request_id
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(model="Guide", max_tokens=5, messages=ask(FRANCE), extra_body={"container": "x"})
    stranger = client.with_options(api_key="wrong")
    with pytest.raises(anthropic.AuthenticationError):
        stranger.messages.create(model="Guide", max_tokens=5, messages=ask(FRANCE))


def test_a_bearer_token_and_the_models(server: Server) -> None:
    with anthropic.Anthropic(base_url=server.url, auth_token=server.key, max_retries=0) as client:
        listed = list(client.models.list(limit=1))
        assert "Guide" in [model.id for model in listed]
        assert client.models.retrieve("Guide").type == "model"


@pytest.mark.parametrize("family", FAMILIES, ids=[family.name for family in FAMILIES])
def test_a_tool_loop(scripted: Server, family: Family) -> None:
    library = Library()
    fields: dict[str, Any] = {"model": family.name, "max_tokens": 300, "system": RULES, "tools": [LOOK_UP]}
    fields["thinking"] = {"type": "adaptive"}
    with anthropic.Anthropic(base_url=scripted.url, api_key=scripted.key, max_retries=0) as client:
        messages = ask(QUESTION)
        for step in range(STEPS):
            if step % 2:
                with client.messages.stream(messages=messages, **fields) as stream:
                    reply = stream.get_final_message()
            else:
                reply = client.messages.create(messages=messages, **fields)
            assert reply.stop_reason == "tool_use", reply
            (use,) = [block for block in reply.content if block.type == "tool_use"]
            assert reply.content[0].type == ("thinking" if family.thinks else "tool_use")
            assert use.input == {"step": FIRST + step, "topic": f"the moons of Jupiter, part {step}"}
            result = {"type": "tool_result", "tool_use_id": use.id, "content": library.look_up(**use.input)}
            messages += [{"role": "assistant", "content": reply.content}, {"role": "user", "content": [result]}]
        library.check()
        last = client.messages.create(messages=messages, **fields)
    assert last.content[-1].text.strip() == DONE
    assert last.stop_reason == "end_turn"


def test_the_packages_own_tool_runner(scripted: Server) -> None:
    """It begins a thread on the server, and goes on without one where that is refused."""
    library = Library()
    family = FAMILIES[0]
    with anthropic.Anthropic(base_url=scripted.url, api_key=scripted.key, max_retries=0) as client:
        runner = client.beta.messages.tool_runner(
            model=family.name,
            max_tokens=300,
            system=RULES,
            tools=[anthropic.beta_tool(library.look_up)],
            messages=ask(QUESTION),
        )
        last = runner.until_done()
    library.check()
    assert last.content[-1].text.strip() == DONE


def test_an_agents_session_reads_little_anew(server: Server) -> None:
    """As Claude Code sends it: a long system prompt, its billing line changed each time, and a growing conversation."""
    rules = " ".join(f"Rule {n}: mind step {n}." for n in range(40))
    messages: list[Any] = ask("Hello")
    shares = []
    for turn in range(4):
        billing = {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1.0; cch={turn:05x};"}
        system = [billing, {"type": "text", "text": rules, "cache_control": {"type": "ephemeral"}}]
        body = {"model": "Guide", "max_tokens": 8, "messages": messages, "system": system, "metadata": {"user_id": "x"}}
        headers = {"x-api-key": server.key, "anthropic-version": "2023-06-01", "anthropic-beta": "claude-code-20250219"}
        reply = requests.post(f"{server.url}/v1/messages?beta=true", json=body, headers=headers, timeout=60)
        assert reply.status_code == 200, reply.text
        usage = reply.json()["usage"]
        shares.append(usage["input_tokens"] / (usage["input_tokens"] + usage["cache_read_input_tokens"]))
        messages = [*messages, {"role": "assistant", "content": reply.json()["content"]}, *ask("Go on")]
    assert max(shares[1:]) < 0.1
