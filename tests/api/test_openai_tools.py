"""Tools and thoughts over /v1, with a model that calls tools as Hermes and Qwen do, and thinks."""

from __future__ import annotations

from typing import Any

import pytest

from services.backend.types import Constraint, Mark
from tests.support.fake_backend import FakeBackend, Piece
from tests.support.in_process import Client
from tests.support.openai_api import CLOCK, FRANCE, WEATHER, chat, refused, stream

TEMPLATE = """{% if tools %}<|im_start|>system
<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>
Answer with <tool_call>{"name": NAME, "arguments": OBJECT}</tool_call> to call one.<|im_end|>
{% endif %}{% for m in messages %}{% if m.role == "tool" %}<|im_start|>user
<tool_response>{{ m.content }}</tool_response><|im_end|>
{% else %}<|im_start|>{{ m.role }}
{% if m.reasoning_content %}<think>
{{ m.reasoning_content }}
</think>

{% endif %}{{ m.content }}{% for call in m.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif %}{% endif %}"""
MARKS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>")
THOUGHT: tuple[Piece, ...] = (Mark("<think>"), "\nThe user", " asks.\n", Mark("</think>"), "\n\n")
ARGUMENTS = '{"city": "Rome", "days": 2}'


def call(name: str = "get_weather", arguments: str = ARGUMENTS) -> tuple[Piece, ...]:
    """A call as the model writes it."""
    return Mark("<tool_call>"), f'\n{{"name": "{name}", "arguments": {arguments}}}\n', Mark("</tool_call>")


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend(template=TEMPLATE, specials=MARKS)


@pytest.fixture
def client(client: Client) -> Client:
    client.edit_config("Guide", template=None)
    return client


def prompt_of(backend: FakeBackend) -> str:
    (model,) = [model for model in backend.models() if model.requests]
    return model.text(model.requests[-1].tokens)


def test_a_call_is_given_with_its_thoughts(client: Client, backend: FakeBackend) -> None:
    backend.reply(*THOUGHT, "I look.\n", *call())
    reply = chat(client, FRANCE, tools=[WEATHER, CLOCK])
    message = reply["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("I look.", "The user asks.")
    assert message["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": ARGUMENTS}
    assert reply["choices"][0]["finish_reason"] == "tool_calls"
    assert 0 < reply["usage"]["completion_tokens_details"]["reasoning_tokens"] < reply["usage"]["completion_tokens"]


def test_a_call_is_streamed_as_it_is_written(client: Client, backend: FakeBackend) -> None:
    backend.reply(*THOUGHT, *call(), "\n", *call("clock", "{}"))
    messages = [{"role": "user", "content": FRANCE}]
    *chunks, done = stream(client, "/v1/chat/completions", messages=messages, tools=[WEATHER, CLOCK])
    assert done == "[DONE]"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "The user asks."
    pieces = [piece for delta in deltas for piece in delta.get("tool_calls", ())]
    opened = [piece for piece in pieces if "id" in piece]
    assert [piece["function"] for piece in opened] == [{"name": name, "arguments": ""} for name in ("get_weather", "clock")]
    for index, arguments in enumerate((ARGUMENTS, "{}")):
        assert "".join(piece["function"]["arguments"] for piece in pieces if piece["index"] == index) == arguments
    assert len([piece for piece in pieces if piece["index"] == 0]) > 3
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_a_call_that_was_cut_is_none(client: Client, backend: FakeBackend) -> None:
    backend.reply(*call())
    choice = chat(client, FRANCE, tools=[WEATHER], max_tokens=12)["choices"][0]
    assert choice["finish_reason"] == "length"
    assert "tool_calls" not in choice["message"]


def test_a_tool_loop_of_two_steps(client: Client, backend: FakeBackend) -> None:
    talk: list[dict[str, Any]] = [{"role": "user", "content": FRANCE}]
    backend.reply(*THOUGHT, *call())
    message = chat(client, talk, tools=[WEATHER])["choices"][0]["message"]
    talk += [message, {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "Rain for 2 days"}]
    backend.reply("It rains.")
    assert chat(client, talk, tools=[WEATHER])["choices"][0]["message"]["content"] == "It rains."
    prompt = prompt_of(backend)
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome", "days": 2}}\n</tool_call>' in prompt
    assert "<think>\nThe user asks.\n</think>" in prompt
    assert "<tool_response>Rain for 2 days</tool_response>" in prompt


def test_the_older_form_of_calls(client: Client, backend: FakeBackend) -> None:
    functions = [WEATHER["function"]]
    talk: list[dict[str, Any]] = [{"role": "user", "content": FRANCE}]
    backend.reply(*call())
    choice = chat(client, talk, functions=functions, function_call="auto")["choices"][0]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"] == {"name": "get_weather", "arguments": ARGUMENTS}
    talk += [choice["message"], {"role": "function", "name": "get_weather", "content": "Rain"}]
    backend.reply("It rains.")
    assert chat(client, talk, functions=functions)["choices"][0]["message"]["content"] == "It rains."
    assert "<tool_response>Rain</tool_response>" in prompt_of(backend)
    backend.reply("No.")
    chat(client, FRANCE, functions=functions, function_call="none")
    assert "get_weather" not in prompt_of(backend)
    backend.reply(*call())
    chat(client, FRANCE, functions=functions, function_call={"name": "get_weather"})
    assert backend.requests[-1].sampling.constraint


def test_only_allowed_tools_are_shown(client: Client, backend: FakeBackend) -> None:
    allowed = {"tools": [{"type": "function", "function": {"name": "clock"}}]}
    constraints: list[Constraint] = []
    for mode in ("auto", "required"):
        backend.reply(*call("clock", "{}"))
        choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, **allowed}}
        chat(client, FRANCE, tools=[WEATHER, CLOCK], tool_choice=choice)
        assert "clock" in prompt_of(backend)
        assert "get_weather" not in prompt_of(backend)
        constraint = backend.requests[-1].sampling.constraint
        assert constraint
        constraints.append(constraint)
    assert constraints[0] != constraints[1]
    assert not constraints[1].triggers
    wrong = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", **allowed}}
    assert (
        refused(client, messages=[{"role": "user", "content": "x"}], tools=[WEATHER], tool_choice=wrong)["param"]
        == "tool_choice"
    )


@pytest.mark.parametrize("choice", ["required", "any", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_forced_call_is_held_from_the_first_token(client: Client, backend: FakeBackend, choice: Any) -> None:
    backend.reply(*call())
    chat(client, FRANCE, tools=[WEATHER, CLOCK], tool_choice=choice)
    constraint = backend.requests[-1].sampling.constraint
    assert constraint
    assert constraint.triggers == ()
    assert ("clock" in constraint.source) == isinstance(choice, str)


def test_an_answer_under_a_schema_is_no_call(client: Client, backend: FakeBackend) -> None:
    text = f'{{"name": "get_weather", "arguments": {ARGUMENTS}}}'
    backend.reply(text)
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    choice = chat(client, FRANCE, tools=[WEATHER], response_format=wanted)["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (text, "stop")
    backend.reply(*call())
    choice = chat(client, FRANCE, tools=[WEATHER], response_format=wanted)["choices"][0]
    assert choice["message"]["tool_calls"]


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_effort": "none"},
        {"enable_thinking": False},
        {"think": False},
        {"thinking": {"type": "disabled"}},
        {"thinking": False},
        {"reasoning": {"enabled": False}},
        {"reasoning": {"effort": "none"}},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ],
)
def test_thinking_is_switched_off(client: Client, backend: FakeBackend, fields: dict[str, Any]) -> None:
    backend.reply("Paris.")
    chat(client, FRANCE, **fields)
    assert prompt_of(backend).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    "fields",
    [
        {"thinking_budget": 7},
        {"thinking_budget_tokens": 7},
        {"thinking_token_budget": 7},
        {"reasoning_budget_tokens": 7.0},
        {"thinking": {"type": "enabled", "budget_tokens": 7}},
        {"reasoning": {"max_tokens": 7}},
    ],
)
def test_thoughts_have_a_budget(client: Client, backend: FakeBackend, fields: dict[str, Any]) -> None:
    backend.reply("Paris.")
    chat(client, FRANCE, **fields)
    thoughts = backend.requests[-1].thoughts
    assert thoughts
    assert thoughts.budget == 7


def test_thoughts_of_earlier_messages_reach_the_template(client: Client, backend: FakeBackend) -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": "Yes."}]
    forms: list[dict[str, Any]] = [
        {"content": "Yes.", "reasoning_content": "Hm."},
        {"content": "Yes.", "reasoning": "Hm."},
        {"content": "Yes.", "thinking": "Hm."},
        {"content": parts},
    ]
    prompts = []
    for form in forms:
        backend.reply("Paris.")
        chat(
            client,
            [{"role": "user", "content": "Is it?"}, {"role": "assistant", **form}, {"role": "user", "content": FRANCE}],
        )
        prompts.append(prompt_of(backend))
    assert "<think>\nHm.\n</think>\n\nYes." in prompts[0]
    assert len(set(prompts)) == 1


def test_a_thought_is_continued(client: Client, backend: FakeBackend) -> None:
    talk = [{"role": "user", "content": FRANCE}, {"role": "assistant", "content": "", "reasoning_content": "The user"}]
    for fields in ({}, {"continue_final_message": "reasoning_content"}):
        backend.reply(" asks.\n", Mark("</think>"), "\n\nParis.")
        message = chat(client, talk, **fields)["choices"][0]["message"]
        assert prompt_of(backend).endswith("<think>\nThe user")
        assert (message["reasoning_content"].strip(), message["content"]) == ("asks.", "Paris.")
    assert refused(client, messages=talk, continue_final_message="content")["param"] == "continue_final_message"


SHOUT = {"type": "custom", "custom": {"name": "shout", "description": "Say it.", "format": {"type": "text"}}}


def test_a_custom_tool_takes_a_text(client: Client, backend: FakeBackend) -> None:
    talk: list[dict[str, Any]] = [{"role": "user", "content": FRANCE}]
    backend.reply("I shout.", *call("shout", '{"input": "Hey\\n!"}'), *call())
    message = chat(client, talk, tools=[SHOUT, WEATHER])["choices"][0]["message"]
    shouted, called = message["tool_calls"]
    assert shouted == {"id": shouted["id"], "type": "custom", "custom": {"name": "shout", "input": "Hey\n!"}}
    assert called["type"] == "function"
    talk += [message, *({"role": "tool", "tool_call_id": each["id"], "content": "ok"} for each in (shouted, called))]
    backend.reply("Done.")
    chat(client, talk, tools=[SHOUT, WEATHER], tool_choice="none")
    assert '{"name": "shout", "arguments": {"input": "Hey\\n!"}}' in prompt_of(backend)


def test_a_custom_tools_call_is_streamed(client: Client, backend: FakeBackend) -> None:
    backend.reply(*call(), *call("shout", '{"input": "Hey!"}'))
    messages = [{"role": "user", "content": FRANCE}]
    *chunks, _ = stream(client, "/v1/chat/completions", messages=messages, tools=[SHOUT, WEATHER])
    pieces = [piece for chunk in chunks for piece in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert "".join(piece["function"]["arguments"] for piece in pieces if piece["index"] == 0) == ARGUMENTS
    (shouted,) = [piece for piece in pieces if piece["index"] == 1]
    assert (shouted["type"], shouted["custom"]) == ("custom", {"name": "shout", "input": "Hey!"})
    # One that is cut is no call.
    backend.reply(*call("shout", '{"input": "Hey!"}'))
    *chunks, _ = stream(client, "/v1/chat/completions", messages=messages, tools=[SHOUT], max_tokens=12)
    assert not any(chunk["choices"][0]["delta"].get("tool_calls") for chunk in chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_the_tools_that_are_held_to_a_form(client: Client, backend: FakeBackend) -> None:
    regex = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "[A-Z]+"}}
    tool = {"type": "custom", "custom": {"name": "shout", "format": regex}}
    backend.reply(*call("shout", '{"input": "HEY"}'))
    chat(client, FRANCE, tools=[tool], tool_choice={"type": "custom", "custom": {"name": "shout"}})
    constraint = backend.requests[-1].sampling.constraint
    assert constraint
    assert "^(?:[A-Z]+)$" in constraint.source
    wrong = {"type": "function", "function": {"name": "shout"}}
    messages = [{"role": "user", "content": FRANCE}]
    assert refused(client, messages=messages, tools=[WEATHER], tool_choice=wrong)["param"] == "tool_choice"


def test_tools_that_a_server_would_run_are_left_out_and_named(client: Client, backend: FakeBackend) -> None:
    lark = {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: /x/"}}
    tools = [
        {"type": "web_search", "filters": {"x": 1}},
        WEATHER,
        {"type": "custom", "custom": {"name": "f", "format": lark}},
    ]
    body = {"model": "Guide", "messages": [{"role": "user", "content": FRANCE}], "tools": tools}
    for fields in ({}, {"stream": True}):
        reply = client.post("/v1/chat/completions", {**body, **fields})
        assert reply.status_code == 200, reply.text
        assert reply.headers["X-Hearth-Ignored"] == "tools.0.web_search, tools.2.custom.format.lark"
    assert "web_search" not in prompt_of(backend)
    assert "start: /x/" in prompt_of(backend)
