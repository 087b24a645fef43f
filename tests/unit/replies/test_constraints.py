"""Grammars allow what a model of the family would write as a call, and no other name and no other arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from services.backend.types import Constraint
from services.replies.format import ReplyFormat
from tests.unit.replies.guided import allows, held, kept
from tests.unit.replies.reading import tokens_of, tool, with_marks
from tests.unit.replies.test_formats import GENERIC, GPT_OSS, LLAMA, MAGISTRAL, NEMO, PHI, QWEN, R1, R7B, V31, format_for

WEATHER = tool("get_weather", city="string", days="integer")
WEATHER["function"]["parameters"] |= {"required": ["city"], "additionalProperties": False}
TOOLS = [WEATHER, tool("add", a="integer", b="integer")]
PARIS = '{"city": "Paris"}'

# A template, what its model would write, and its trigger.
CALLS = [
    (QWEN, '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>', "<tool_call>"),
    (GENERIC, '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>', "<tool_call>"),
    (NEMO, '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "123456789"}]', "[TOOL_CALLS]"),
    ("Mistral-Small-3.2-24B-Instruct-2506", f"[TOOL_CALLS]get_weather[CALL_ID]123456789[ARGS]{PARIS}", "[TOOL_CALLS]"),
    (MAGISTRAL, f"[TOOL_CALLS]get_weather[ARGS]{PARIS}", "[TOOL_CALLS]"),
    (
        V31,
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{PARIS}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "<｜tool▁calls▁begin｜>",
    ),
    (
        R1,
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
        f"{PARIS}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "<｜tool▁calls▁begin｜>",
    ),
    (
        R7B,
        '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Paris"}}\n]'
        "<|END_ACTION|>",
        "<|START_ACTION|>",
    ),
    (
        "CohereForAI-c4ai-command-r-plus-tool_use",
        'Action:\n```json\n[\n    {"tool_name": "get_weather", "parameters": {"city": "Paris"}}\n]```',
        "Action:\n```json",
    ),
    ("Apertus-8B-Instruct", '<|tools_prefix|>[{"get_weather": {"city": "Paris"}}]<|tools_suffix|>', "<|tools_prefix|>"),
    (
        "ibm-granite-granite-3.3-2B-Instruct",
        '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris"}}]',
        "<|tool_call|>",
    ),
    (PHI, '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris"}}]<|/tool_call|>', "<|tool_call|>"),
    (
        "NVIDIA-Nemotron-Nano-v2",
        '<TOOLCALL>[{"name": "get_weather", "arguments": {"city": "Paris"}}]</TOOLCALL>',
        "<TOOLCALL>",
    ),
    (
        "unsloth-Apriel-1.5",
        '<tool_calls>[{"name": "get_weather", "arguments": {"city": "Paris"}}]</tool_calls>',
        "<tool_calls>",
    ),
    (
        GPT_OSS,
        f"<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{PARIS}",
        " to=functions.",
    ),
]
FORMATS = pytest.mark.parametrize(("template", "text", "trigger"), CALLS, ids=[call[0][:24] for call in CALLS])
MARKED = pytest.mark.parametrize("marked", [False, True], ids=["text", "marks"])


def constraint_of(reply_format: ReplyFormat, tools: Sequence[Mapping[str, Any]], choice: str, parallel: bool) -> Constraint:
    found = reply_format.constraint(tools, choice, parallel)
    assert found
    return found


def closing_of(reply_format: ReplyFormat) -> str:
    assert reply_format.thoughts
    return reply_format.thoughts.closing


def setting(template: str, text: str, marked: bool) -> tuple[ReplyFormat, list[str], tuple[str, ...]]:
    tokens = tuple(tokens_of(format_for(template, ()))) if marked else ()
    found = format_for(template, tokens)
    return found, with_marks(text, tokens), tokens


@MARKED
@FORMATS
def test_a_call_is_allowed_from_the_first_token(template: str, text: str, trigger: str, marked: bool) -> None:
    found, pieces, tokens = setting(template, text, marked)
    for choice in ("required", "get_weather"):
        constraint = constraint_of(found, TOOLS, choice, False)
        assert constraint.triggers == ()
        assert kept(constraint, pieces, tokens) == "whole"


@MARKED
@FORMATS
def test_a_call_is_allowed_behind_its_trigger(template: str, text: str, trigger: str, marked: bool) -> None:
    found, _, tokens = setting(template, text, marked)
    for parallel in (True, False):
        constraint = constraint_of(found, TOOLS, "auto", parallel)
        assert constraint.once == (not parallel and bool(constraint.triggers))
        assert held(constraint, with_marks(text, tokens), tokens) == "whole"
        for wrong in (text.replace("city", "town"), text.replace('"Paris"', "7"), text.replace('"city": "Paris"', "")):
            assert held(constraint, with_marks(wrong, tokens), tokens) not in ("whole", "free", "begun"), wrong


@FORMATS
def test_other_calls_are_not_allowed(template: str, text: str, trigger: str) -> None:
    found, _, _ = setting(template, text, False)
    required, named = constraint_of(found, TOOLS, "required", True), constraint_of(found, TOOLS, "add", True)
    assert not allows(required, [text.replace("get_weather", "get_secret")])
    assert not allows(required, [text.replace("city", "town")])
    assert not allows(required, [text.replace('"Paris"', "7")])
    assert not allows(required, [text.replace('"city": "Paris"', "")])
    assert not allows(required, [text.replace('"Paris"', '"Paris", "x": 1')])
    assert not allows(required, [""])
    assert not allows(required, ["Hello"])
    assert not allows(named, [text])


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (QWEN, CALLS[0][1] + "\n" + CALLS[0][1]),
        (MAGISTRAL, CALLS[4][1] * 2),
        (NEMO, CALLS[2][1][:-1] + CALLS[2][1].replace("[TOOL_CALLS][", ", ")),
        (LLAMA, '{"name": "add", "parameters": {"a": 1}}; {"name": "add", "parameters": {}}'),
    ],
)
def test_several_calls_are_allowed_where_they_may_be(template: str, text: str) -> None:
    found = format_for(template, ())
    assert kept(constraint_of(found, TOOLS, "required", True), [text]) == "whole"
    assert not allows(constraint_of(found, TOOLS, "required", False), [text])


@pytest.mark.parametrize(
    ("text", "is_allowed"),
    [
        ('{"name": "get_weather", "parameters": {"city": "Paris"}}', True),
        ('{"name": "get_weather", "parameters": {"town": "Paris"}}', False),
        ('{"name": "Ada"}', True),
        ('{"city": "Paris"}', True),
        ("Hello {", True),
        ("", True),
        ("[1, 2]", True),
    ],
)
def test_llama_may_answer_or_call(text: str, is_allowed: bool) -> None:
    constraint = constraint_of(format_for(LLAMA, ()), TOOLS, "auto", True)
    assert constraint.triggers == ()
    assert allows(constraint, [text]) == is_allowed


def test_without_tools_there_is_no_constraint() -> None:
    assert format_for(QWEN, ()).constraint([], "auto", True) is None
    assert format_for(QWEN, ()).constraint(TOOLS, "missing", True) is None


def test_references_begin_at_a_tools_own_root() -> None:
    shared = tool("walk")
    shared["function"]["parameters"] = {
        "type": "object",
        "properties": {"to": {"$ref": "#/$defs/point"}},
        "required": ["to"],
        "$defs": {"point": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}},
    }
    constraint = constraint_of(format_for(QWEN, ()), [shared, WEATHER], "required", False)
    text = '<tool_call>\n{{"name": "walk", "arguments": {{"to": {{"x": {}}}}}}}\n</tool_call>'
    assert allows(constraint, [text.format(1)])
    assert not allows(constraint, [text.format('"a"')])


def test_names_are_written_as_json_has_them() -> None:
    odd = tool('say "hi"/é', a="integer")
    constraint = constraint_of(format_for(QWEN, ()), [odd], "required", False)
    assert allows(constraint, ['<tool_call>\n{"name": "say \\"hi\\"/é", "arguments": {"a": 1}}\n</tool_call>'])


def test_a_schema_of_the_answer_is_framed() -> None:
    schema = Constraint("json_schema", '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}')
    harmony, cohere = format_for(GPT_OSS, ()), format_for(R7B, ())
    assert allows(harmony.framed(schema), ['<|channel|>final <|constrain|>json<|message|>{"a": 1}'])
    assert allows(harmony.framed(schema), ['<|start|>assistant<|channel|>final<|message|>{"a": 1}'])
    assert not allows(harmony.framed(schema), ['{"a": 1}'])
    assert allows(cohere.framed(schema), ['<|START_RESPONSE|>{"a": 1}<|END_RESPONSE|>'])
    assert allows(cohere.framed(Constraint("regex", "a/b|c\\/d")), ["<|START_RESPONSE|>a/b<|END_RESPONSE|>"])
    for text in ('{"a": 1}', '\n\n{"a": 1}', '\n{"a":1}'):
        assert allows(format_for(QWEN, ()).framed(schema), [text])
    assert not allows(format_for(QWEN, ()).framed(schema), ['\n\n\n{"a": 1}'])
    regex = Constraint("regex", "a|b")
    assert format_for(QWEN, ()).framed(regex) == regex


def test_thoughts_come_with_the_text_that_closes_them() -> None:
    assert closing_of(format_for(QWEN, ())).endswith("</think>\n\n")
    assert closing_of(format_for(GPT_OSS, ())).endswith("<|end|><|start|>assistant<|channel|>final<|message|>")
