"""What public bug reports say of other servers' parsers: each kind on the families where it may come."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.backend.types import Mark
from services.replies.events import Reply
from services.replies.formats import format_of
from tests.support.llama_replies import chat_format, pieces_in
from tests.support.replies import reply_of

_PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "n": {"type": "integer"},
        "ok": {"type": "boolean"},
        "o": {"type": "object"},
        "l": {"type": "array", "items": {"type": "string"}},
        "m": {"type": ["string", "null"]},
    },
}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": _PARAMETERS}} for name in ("f", "g.h", "f_more")]
QWEN, CODER, GLM, LLAMA = "Qwen-Qwen3-0.6B", "Qwen3-Coder", "GLM-4.6", "meta-llama-Llama-3.1-8B-Instruct"
GPT_OSS, LFM2, NEMO = "openai-gpt-oss-120b", "LFM2-8B-A1B", "mistralai-Mistral-Nemo-Instruct-2407"
P = {"city": "P"}
ARGUMENTS = '{"city": "P"}'
NAMED = f'"name": "f", "arguments": {ARGUMENTS}'
HERMES = f"<tool_call>{{{NAMED}}}</tool_call>"


def function(inner: str, name: str = "f") -> str:
    return f"<tool_call>\n<function={name}>\n{inner}\n</function>\n</tool_call>"


def parameter(name: str, value: str) -> str:
    return f"<parameter={name}>\n{value}\n</parameter>"


# A template, what the model wrote, and the arguments of the calls of `f` that it meant.
CASES: dict[str, tuple[str, str, list[Any]]] = {
    "a code fence within the tag": (QWEN, f"<tool_call>\n```json\n{{{NAMED}}}\n```\n</tool_call>", [P]),
    "a code fence without a tag": (QWEN, f"```json\n{{{NAMED}}}\n```", [P]),
    "the other name of arguments": (QWEN, HERMES.replace("arguments", "parameters"), [P]),
    "a namespace in JSON": (QWEN, HERMES.replace('"f"', '"functions.f"'), [P]),
    "a namespace in a tag": (CODER, function(parameter("city", "P"), "functions.f"), [P]),
    "arguments first": (QWEN, f'<tool_call>{{"arguments": {ARGUMENTS}, "name": "f"}}</tool_call>', [P]),
    "arguments as a text": (QWEN, HERMES.replace(ARGUMENTS, json.dumps(ARGUMENTS)), [P]),
    "an empty list of arguments": (QWEN, HERMES.replace(ARGUMENTS, "[]"), [{}]),
    "an empty text of arguments": (QWEN, HERMES.replace(ARGUMENTS, '""'), [{}]),
    "no arguments": (QWEN, '<tool_call>{"name": "f"}</tool_call>', [{}]),
    "another member": (QWEN, HERMES.replace('"f",', '"f", "thought": {"a": [1]},'), [P]),
    "Python's words": (QWEN, HERMES.replace('"P"', "None, 'ok': True"), [{"city": None, "ok": True}]),
    "single quotes": (QWEN, HERMES.replace('"', "'").replace("P", 'it\\\'s "P"'), [{"city": 'it\'s "P"'}]),
    "a comma behind the last member": (QWEN, HERMES.replace('"P"', '"P",'), [P]),
    "a brace too many": (QWEN, HERMES.replace("}}<", "}}}\n<"), [P]),
    "a brace too few": (QWEN, HERMES.replace("}}<", "}\n<"), [P]),
    "a brace too few before another call": (QWEN, HERMES.replace("}}<", "}<") + f"\n{HERMES}", [P, P]),
    "no opening tag": (QWEN, f"{{{NAMED}}}\n</tool_call>", [P]),
    "two calls without a separator": (QWEN, HERMES * 2, [P, P]),
    "two calls in one tag": (QWEN, f"<tool_call>\n{{{NAMED}}}\n{{{NAMED}}}\n</tool_call>", [P, P]),
    "braces and tags in a text": (QWEN, HERMES.replace('"P"', '"}}</tool_call>{"'), [{"city": "}}</tool_call>{"}]),
    "an escaped name": (QWEN, HERMES.replace('"f"', '"\\u0066"'), [P]),
    "no outer tag": (CODER, f"<function=f>\n{parameter('city', 'P')}\n</function>", [P]),
    "values on the tags' lines": (
        CODER,
        "<tool_call><function=f><parameter=city>P</parameter></function></tool_call>",
        [P],
    ),
    "a parameter's end forgotten": (
        CODER,
        function(f"<parameter=city>\nP\n{parameter('n', '3')}"),
        [{"city": "P", "n": 3}],
    ),
    "the last parameter's end forgotten": (CODER, function("<parameter=city>\nP"), [P]),
    "the function's end forgotten": (CODER, function(parameter("city", "P")).replace("</function>\n", ""), [P]),
    "JSON within the function": (CODER, function(ARGUMENTS), [P]),
    "JSON within the outer tag": (CODER, HERMES, [P]),
    "quotes around names": (CODER, function(parameter('"city"', "P"), '"f"'), [P]),
    "carriage returns": (CODER, function(parameter("city", "P")).replace("\n", "\r\n"), [P]),
    "Python's values in tags": (
        CODER,
        function("\n".join([parameter("ok", "True"), parameter("m", "None"), parameter("l", "['a', 'b']")])),
        [{"ok": True, "m": None, "l": ["a", "b"]}],
    ),
    "JSON in a text that may be null": (CODER, function(parameter("m", '{"a": 1}')), [{"m": '{"a": 1}'}]),
    "the closing tag within JSON": (
        CODER,
        function(parameter("o", '{"s": "</parameter>"}')),
        [{"o": {"s": "</parameter>"}}],
    ),
    "texts like numbers": (CODER, function(parameter("city", "75001")), [{"city": "75001"}]),
    "quotes and markup in a text": (
        CODER,
        function(parameter("city", "if a < b: \"x\"\n  'y'")),
        [{"city": "if a < b: \"x\"\n  'y'"}],
    ),
    "JSON behind the name": (GLM, f"<tool_call>f\n{ARGUMENTS}\n</tool_call>", [P]),
    "no line breaks": (GLM, "<tool_call>f<arg_key>city</arg_key><arg_value>P</arg_value></tool_call>", [P]),
    "nothing to pass": (GLM, "<tool_call>f</tool_call><tool_call>f\n</tool_call>", [{}, {}]),
    "Llama's list of Python": (LLAMA, "[f(city='P'), f(n=3)]", [P, {"n": 3}]),
    "Llama's other Python": (LLAMA, "<|python_tag|>f(city='P')", [P]),
    "Llama's tags": (LLAMA, f"<function=f>{ARGUMENTS}</function>", [P]),
    "Llama's list of objects": (LLAMA, f"[{{{NAMED}}}, {{{NAMED}}}]", [P, P]),
    "harmony's empty call": (GPT_OSS, "<|channel|>commentary to=functions.f <|constrain|>json<|message|><|call|>", [{}]),
    "harmony without a namespace": (GPT_OSS, f"<|channel|>commentary to=f<|message|>{ARGUMENTS}", [P]),
    "harmony in analysis": (GPT_OSS, f"<|channel|>analysis to=functions.f code<|message|>{ARGUMENTS}<|call|>", [P]),
    "JSON where Python is usual": (LFM2, f"<|tool_call_start|>[{{{NAMED}}}]<|tool_call_end|>", [P]),
    "commas behind the last of a list": (LFM2, "<|tool_call_start|>[\n  f(\n    city='P',\n  ),\n]<|tool_call_end|>", [P]),
    "ids that are missing": (NEMO, f"[TOOL_CALLS][{{{NAMED}}}]", [P]),
}


def read(template: str, pieces: list[str]) -> Reply:
    reader = format_of(chat_format(template)).reader(TOOLS, False)
    return reply_of([*(event for piece in pieces for event in reader.add(piece)), *reader.end()])


@pytest.mark.parametrize("name", CASES)
def test_a_call_is_read_as_it_was_meant(name: str) -> None:
    template, text, expected = CASES[name]
    for pieces in (pieces_in(text), [text], list(text)):
        reply = read(template, pieces)
        assert [(call.name, json.loads(call.arguments)) for call in reply.calls] == [("f", each) for each in expected]
        assert (reply.content.strip(), reply.cut_call, reply.is_broken) == ("", None, False)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (QWEN, '{"name": "f", "description": "a tool"}'),
        (QWEN, '```json\n{"name": "Ada"}\n```'),
        (QWEN, "```python\nf(1)\n```"),
        (QWEN, "{'a': True}"),
        (LLAMA, "[1, 2, 3]"),
        (LLAMA, "[f](url) and [g.h]"),
        (CODER, "<tool_call>\n<function=zz>\n</function>\n</tool_call>"),
        (GPT_OSS, "Write to=functions.f in the header."),
    ],
)
def test_what_is_no_call_is_content(template: str, text: str) -> None:
    for pieces in ([text], list(text)):
        assert read(template, pieces) == Reply(content=text)


@pytest.mark.parametrize(
    ("template", "begins", "ends"),
    [
        (QWEN, '<tool_call>{"name": "f", "arguments": {"city": "', '"}}</tool_call>'),
        (NEMO, '[TOOL_CALLS][{"name": "f", "arguments": {"city": "', '"}, "id": "123456789"}]'),
        (GPT_OSS, '<|channel|>commentary to=functions.f<|message|>{"city": "', '"}'),
        (CODER, "<tool_call>\n<function=f>\n<parameter=city>\n", "\n</parameter>\n</function>\n</tool_call>"),
    ],
)
def test_special_tokens_in_arguments_are_their_text(template: str, begins: str, ends: str) -> None:
    reply = read(template, [*pieces_in(begins), "a", Mark("<|endoftext|>"), "b", *pieces_in(ends)])
    assert [json.loads(call.arguments) for call in reply.calls] == [{"city": "a<|endoftext|>b"}]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (QWEN, f"<tool_call>\n{{{NAMED}}}\n</tool_call>"),
        (CODER, function(parameter("city", "P"))),
        (GLM, "<tool_call>f\n<arg_key>city</arg_key>\n<arg_value>P</arg_value>\n</tool_call>"),
        (LLAMA, f"<function=f>{ARGUMENTS}</function>"),
        (NEMO, f'[TOOL_CALLS][{{{NAMED}, "id": "123456789"}}]'),
        (LFM2, "<|tool_call_start|>[f(city='P')]<|tool_call_end|>"),
        ("google-gemma-4-31B-it", '<|tool_call>call:f{city:<|"|>P<|"|>}<tool_call|>'),
    ],
)
def test_the_beginning_of_a_call_that_was_cut_is_no_content(template: str, text: str) -> None:
    opener = next(length for length in range(1, len(text)) if text[:length] in OPENERS)
    for length in range(opener + 3, len(text)):
        reader = format_of(chat_format(template)).reader(TOOLS, False)
        events = [*reader.add("I look."), *reader.add(Mark(text[:opener])), *reader.add(text[opener:length])]
        reader.cut()
        assert reply_of([*events, *reader.end()]).content == "I look.", text[:length]


OPENERS = ("<tool_call>", "<function=", "[TOOL_CALLS]", "<|tool_call_start|>", "<|tool_call>")


def test_a_tag_at_the_end_of_a_text_that_was_cut_is_content() -> None:
    reader = format_of(chat_format(QWEN)).reader(TOOLS, False)
    events = reader.add("One writes <tool_call>")
    reader.cut()
    assert reply_of([*events, *reader.end()]).content == "One writes <tool_call>"
