"""/v1/messages, /v1/messages/count_tokens and /v1/models, as Anthropic's clients read them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from services.backend.types import Mark
from tests.api.test_openai_tools import ARGUMENTS, MARKS, TEMPLATE, THOUGHT, call, prompt_of
from tests.support.fake_backend import FakeBackend
from tests.support.in_process import Client
from tests.support.openai_api import CLOCK, FRANCE, WEATHER

MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
FUNCTIONS: list[Any] = [WEATHER["function"], CLOCK["function"]]
TOOLS = [{"name": each["name"], "input_schema": each.get("parameters", {"type": "object"})} for each in FUNCTIONS]
THINKS = {"type": "adaptive"}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 2}


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> FakeBackend:
    """The model of tests called `…without_thoughts…` has none."""
    is_plain = "without_thoughts" in request.node.name
    return FakeBackend() if is_plain else FakeBackend(template=TEMPLATE, specials=MARKS)


@pytest.fixture
def client(client: Client) -> Client:
    client.edit_config("Guide", template=None)
    return client


def body(words: Any = FRANCE, **fields: Any) -> dict[str, Any]:
    messages = words if isinstance(words, list) and "role" in words[0] else [{"role": "user", "content": words}]
    return {"model": "Guide", "max_tokens": 100, "messages": messages, **fields}


def message(client: Client, words: Any = FRANCE, **fields: Any) -> dict[str, Any]:
    reply = client.post(MESSAGES, body(words, **fields))
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def refused(client: Client, status: int = 400, path: str = MESSAGES, **fields: Any) -> str:
    reply = client.post(path, {**body(), **fields})
    told = reply.json()
    assert (reply.status_code, told["type"]) == (status, "error"), reply.text
    assert told["request_id"] == reply.headers["request-id"]
    return f"{told['error']['type']}: {told['error']['message']}"


def events_of(reply: requests.Response) -> list[dict[str, Any]]:
    """The events of a stream, each of which is called as its object's type is."""
    blocks = [block for block in reply.text.split("\n\n") if block and not block.startswith(":")]
    events = []
    for block in blocks:
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


def streamed(client: Client, words: Any = FRANCE, **fields: Any) -> list[dict[str, Any]]:
    reply = client.post(MESSAGES, body(words, stream=True, **fields))
    assert reply.headers["Content-Type"].startswith("text/event-stream")
    return events_of(reply)


def test_a_whole_reply(client: Client, backend: FakeBackend) -> None:
    backend.reply("Paris", " it is.")
    told = message(client, system="Be brief.", temperature=0, metadata={"user_id": "7"})
    assert told["content"] == [{"type": "text", "text": "Paris it is."}]
    assert (told["type"], told["role"], told["model"]) == ("message", "assistant", "Guide")
    assert (told["stop_reason"], told["stop_sequence"]) == ("end_turn", None)
    assert told["usage"]["output_tokens"] > 0
    n_prompt = told["usage"]["input_tokens"] + told["usage"]["cache_read_input_tokens"]
    assert prompt_of(backend).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user")
    assert client.post(COUNT, {"messages": body()["messages"], "system": "Be brief."}).json() == {"input_tokens": n_prompt}


def test_thoughts_text_and_calls_are_blocks_in_their_order(client: Client, backend: FakeBackend) -> None:
    backend.reply(*THOUGHT, "I look.\n", *call(), "\n", *call("clock", "{}"))
    told = message(client, tools=TOOLS, thinking=THINKS)
    thought, text, first, second = told["content"]
    assert (thought["thinking"], bool(thought["signature"])) == ("The user asks.", True)
    assert text == {"type": "text", "text": "I look."}
    assert (first["name"], first["input"]) == ("get_weather", json.loads(ARGUMENTS))
    assert (second["type"], second["name"], second["input"]) == ("tool_use", "clock", {})
    assert told["stop_reason"] == "tool_use"
    assert 0 < told["usage"]["output_tokens_details"]["thinking_tokens"] < told["usage"]["output_tokens"]
    backend.reply(*THOUGHT, "I look.\n", *call(), "\n", *call("clock", "{}"))
    alone = message(client, tools=TOOLS, tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    # Nobody asked for the thoughts.
    assert [block["type"] for block in alone["content"]] == ["text", "tool_use"]
    for fields in ({"thinking": {"type": "adaptive", "display": "omitted"}}, {}):
        backend.reply(*THOUGHT, "Paris.")
        assert message(client, **fields)["content"] == [{"type": "text", "text": "Paris."}]


def test_a_stream_has_its_events_in_order(client: Client, backend: FakeBackend) -> None:
    backend.reply(*THOUGHT, "I look.\n", *call())
    events = streamed(client, tools=TOOLS, thinking=THINKS)
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["message_start", "ping"]
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert events[0]["message"]["content"] == []
    usage = events[-2]["usage"]
    assert events[0]["message"]["usage"]["input_tokens"] == usage["input_tokens"] + usage["cache_read_input_tokens"]
    blocks = [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"]
    assert blocks == ["thinking", "text", "tool_use"]
    open_block = None
    for event in events:
        if event["type"] == "content_block_start":
            assert open_block is None
            open_block = event["index"]
        elif event["type"] in ("content_block_delta", "content_block_stop"):
            assert event["index"] == open_block
            open_block = None if event["type"] == "content_block_stop" else open_block
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(delta.get("thinking", "") for delta in deltas) == "The user asks."
    assert "".join(delta.get("text", "") for delta in deltas) == "I look."
    assert "".join(delta.get("partial_json", "") for delta in deltas) == ARGUMENTS
    assert [delta["type"] for delta in deltas].count("signature_delta") == 1
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert events[-2]["usage"]["output_tokens"] > 0


def test_a_tool_loop(client: Client, backend: FakeBackend) -> None:
    talk: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "text", "text": FRANCE}]}]
    backend.reply(*THOUGHT, "I look.\n", *call())
    talk.append({"role": "assistant", "content": message(client, talk, tools=TOOLS, thinking=THINKS)["content"]})
    (used,) = [block for block in talk[-1]["content"] if block["type"] == "tool_use"]
    parts = [{"type": "text", "text": "No service"}, {"type": "text", "text": "in Rome"}]
    result = {"type": "tool_result", "tool_use_id": used["id"], "is_error": True, "content": parts}
    talk.append({"role": "user", "content": [result, {"type": "text", "text": "What now?"}]})
    backend.reply("I do not know.")
    assert message(client, talk, tools=TOOLS)["content"][0]["text"] == "I do not know."
    prompt = prompt_of(backend)
    assert "<think>\nThe user asks.\n</think>" in prompt
    assert '{"name": "get_weather", "arguments": {"city": "Rome", "days": 2}}' in prompt
    assert "<tool_response>Error: No service\nin Rome</tool_response>" in prompt
    assert prompt.index("Error: No service") < prompt.index("What now?")


def test_choices_of_tools(client: Client, backend: FakeBackend) -> None:
    def choice(**fields: Any) -> tuple[str, str]:
        backend.reply(*call())
        message(client, tools=TOOLS, tool_choice=fields)
        constraint = backend.requests[-1].sampling.constraint
        return constraint.source if constraint and not constraint.triggers else "", prompt_of(backend)

    constraint, prompt = choice(type="any")
    assert "clock" in constraint
    assert "get_weather" in prompt
    constraint, prompt = choice(type="tool", name="get_weather")
    assert "get_weather" in constraint
    assert "clock" not in constraint
    assert "clock" in prompt
    assert "get_weather" in choice(type="auto")[1]
    assert "get_weather" not in choice(type="none")[1]


def test_why_an_answer_ended(client: Client, backend: FakeBackend) -> None:
    backend.reply("One two three")
    told = message(client, stop_sequences=["nine", " two"])
    assert (told["content"][0]["text"], told["stop_reason"], told["stop_sequence"]) == ("One", "stop_sequence", " two")
    backend.reply("One two three")
    assert message(client, max_tokens=2)["stop_reason"] == "max_tokens"
    backend.reply(*call())
    cut = message(client, tools=TOOLS, max_tokens=12)
    assert (cut["content"], cut["stop_reason"]) == ([], "max_tokens")


def test_a_last_message_of_the_assistant_is_continued(client: Client, backend: FakeBackend) -> None:
    backend.reply("42.")
    talk = [{"role": "user", "content": FRANCE}, {"role": "assistant", "content": "The answer is"}]
    assert message(client, talk)["content"][0]["text"] == "42."
    assert prompt_of(backend).endswith("<|im_start|>assistant\nThe answer is")


def test_system_messages_among_the_others(client: Client, backend: FakeBackend) -> None:
    billing = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=00a1b;"}
    rules = {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
    talk = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi."},
        {"role": "system", "content": [{"type": "text", "text": "Say it in French."}]},
        {"role": "user", "content": FRANCE},
    ]
    backend.reply("Paris.")
    reply = client.post(MESSAGES, body(talk, system=[billing, rules]))
    assert "X-Hearth-Ignored" not in reply.headers
    prompt = prompt_of(backend)
    assert "billing" not in prompt
    assert prompt.startswith("<|im_start|>system\nBe brief.<|im_end|>")
    assert "<|im_start|>system\nSay it in French.<|im_end|>" in prompt


def test_a_session_keeps_its_conversation(client: Client, backend: FakeBackend) -> None:
    backend.reply("Hello Zoe.")
    message(client, "I am Zoe.", session_id=7)
    backend.reply("Zoe.")
    message(client, "Who am I?", session_id=7)
    assert "I am Zoe." in prompt_of(backend)
    assert len(client.get("/answer/7").json()["messages"]) == 4
    talk = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]
    assert "session" in refused(client, messages=talk, session_id=7)


def test_documents_of_text_are_read(client: Client, backend: FakeBackend) -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "Herons are grey."}
    found = {
        "type": "search_result",
        "source": "birds.txt",
        "title": "Birds",
        "content": [{"type": "text", "text": "They fish."}],
    }
    message(
        client,
        [{"role": "user", "content": [{"type": "document", "source": source}, found, {"type": "text", "text": "So?"}]}],
    )
    assert "Herons are grey.\nbirds.txt\nThey fish.\nSo?" in prompt_of(backend)


def test_a_model_without_thoughts_keeps_to_a_budget(client: Client) -> None:
    told = message(client, thinking={"type": "enabled", "budget_tokens": 1024})
    assert [block["type"] for block in told["content"]] == ["text"]


def test_thinking_is_switched_and_limited(client: Client, backend: FakeBackend) -> None:
    backend.reply("Paris.")
    message(client, thinking={"type": "disabled"})
    assert prompt_of(backend).endswith("<think>\n\n</think>\n\n")
    backend.reply(Mark("<think>"), "\nLong", " thoughts", " of", " mine", Mark("</think>"), "\n\nParis.")
    message(client, thinking={"type": "enabled", "budget_tokens": 2})
    (model,) = [model for model in backend.models() if model.requests]
    assert model.requests[-1].thoughts
    assert model.requests[-1].thoughts.budget == 2


def test_an_answer_in_a_form(client: Client, backend: FakeBackend) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    for fields in (
        {"output_format": {"type": "json_schema", "schema": schema}},
        {"output_config": {"format": {"type": "json_schema", "schema": schema}, "effort": "low"}},
    ):
        backend.reply('{"city": "Paris"}')
        assert message(client, **fields)["content"][0]["text"] == '{"city": "Paris"}'
        constraint = backend.requests[-1].sampling.constraint
        assert constraint
        assert json.dumps(schema) in constraint.source


def test_tools_that_a_server_would_run_are_left_out_and_named(client: Client, backend: FakeBackend) -> None:
    backend.reply("I cannot.")
    reply = client.post(MESSAGES, body(tools=[SEARCH, *TOOLS], mood=1))
    assert reply.headers["X-Hearth-Ignored"] == "mood, tools.0.web_search_20250305"
    assert "web_search" not in prompt_of(backend)
    assert "tool_choice: there is no tool web_search" in refused(
        client, tools=[SEARCH], tool_choice={"type": "tool", "name": "web_search"}
    )


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": "A"}}]}]},
            "images",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "base64", "data": "A"}}]}]},
            "documents",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "tool_use_id is missing"),
        ({"messages": [{"role": "user", "content": [{"type": "magic"}]}]}, "magic"),
        ({"messages": [{"role": "user", "content": [{"type": "thinking", "thinking": "x"}]}]}, "role user"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [{"name": "a"}]}, "input_schema is missing"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "two tools"),
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{"name": "x"}]}, "mcp_servers"),
        ({"temperature": "hot"}, "temperature"),
        ({"stop_sequences": [""]}, "stop_sequences"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(client: Client, fields: dict[str, Any], told: str) -> None:
    error = refused(client, **fields)
    assert error.startswith("invalid_request_error: ")
    assert told in error


def test_errors_have_anthropics_shape(client: Client) -> None:
    assert "not_found_error" in refused(client, 404, model="nobody")
    assert "not_found_error" in refused(client, 404, path=COUNT, model="nobody")
    for headers in ({"x-api-key": "wrong"}, {}):
        reply = client.post(MESSAGES, body(), key=None, headers={"anthropic-version": "2023-06-01", **headers})
        assert (reply.status_code, reply.json()["error"]["type"]) == (401, "authentication_error")
    long = refused(client, messages=[{"role": "user", "content": "word " * 5000}])
    assert "invalid_request_error" in long
    assert "context" in long


def test_an_error_in_a_stream_is_an_event(client: Client, backend: FakeBackend) -> None:
    backend.reply("Par", RuntimeError("broken"))
    events = streamed(client)
    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["type"] == "api_error"


def test_models_in_anthropics_shape(client: Client) -> None:
    version = {"anthropic-version": "2023-06-01"}
    everything = client.get("/v1/models", headers=version).json()
    assert everything["data"][0].items() >= {"type": "model", "id": "Guide", "display_name": "Guide"}.items()
    assert (everything["first_id"], everything["has_more"]) == ("Guide", False)
    page = client.get("/v1/models?limit=1", headers=version).json()
    assert (len(page["data"]), page["has_more"], page["last_id"]) == (1, True, "Guide")
    rest = client.get("/v1/models?after_id=Guide", headers=version).json()
    assert [each["id"] for each in rest["data"]] == [each["id"] for each in everything["data"][1:]]
    before = client.get(f"/v1/models?limit=1&before_id={everything['last_id']}", headers=version).json()
    assert before["data"] == everything["data"][-2:-1]
    assert client.get("/v1/models/Guide", headers=version).json()["type"] == "model"
    missing = client.get("/v1/models/nobody", headers=version)
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")
    assert client.get("/v1/models/nobody").json()["error"]["code"] == "model_not_found"
    assert client.get("/v1/models?limit=0", headers=version).status_code == 400
    assert client.get("/v1/models").json()["object"] == "list"
