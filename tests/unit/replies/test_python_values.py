"""Calls in Python's form: literals of Python's and JSON's, by their schema, and arguments in any order."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.replies import reply_of
from tests.support.walks import SMALL, fits, writer
from tests.unit.replies.sampling import text_format

OBJECT = {
    "type": "object",
    "properties": {"a": {"type": "array", "items": {}}, "on": {"type": "boolean"}, "n": {"type": ["number", "null"]}},
    "required": ["on"],
}
TEXTS = {"type": "array", "items": {"type": "string"}, "maxItems": 2}
COUNTS = {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}}
CHOICES = {"anyOf": [{"enum": ["a", "b", 3]}, {"type": "array", "items": {"const": True}}]}
CASES: list[tuple[dict[str, Any], str, Any]] = [
    (OBJECT, "{'a': [1, 'x', {'k': None}], 'on': True, 'n': -0.5}", {"a": [1, "x", {"k": None}], "on": True, "n": -0.5}),
    (OBJECT, '{"a": [], "on": true, "n": null}', {"a": [], "on": True, "n": None}),
    (OBJECT, "{'n': None, \"on\": False}", {"n": None, "on": False}),
    (OBJECT, "{'a': []}", None),
    (OBJECT, "{'on': 1}", None),
    (TEXTS, "['a', 'it\\'s']", ["a", "it's"]),
    (TEXTS, "['a', \"b\"]", ["a", "b"]),
    (TEXTS, "['a', 'b', 'c']", None),
    (TEXTS, "[None]", None),
    (COUNTS, "{'a': 1, 'b': 2}", {"a": 1, "b": 2}),
    (COUNTS, "{'a': 1, 'a': 2}", None),
    (COUNTS, "{'a': -1}", None),
    (CHOICES, "'b'", "b"),
    (CHOICES, "3", 3),
    (CHOICES, "[True, True]", [True, True]),
    (CHOICES, "[False]", None),
    ({}, "{'x': [True, {}]}", {"x": [True, {}]}),
    ({"type": "string", "maxLength": 2}, '"ab"', "ab"),
    ({"type": "string", "maxLength": 2}, "'abc'", None),
]


@pytest.mark.parametrize(("schema", "written", "value"), CASES, ids=[f"{n}-{case[1][:20]}" for n, case in enumerate(CASES)])
def test_literals_fit_their_schema(schema: dict[str, Any], written: str, value: Any) -> None:
    parameters = {"type": "object", "properties": {"v": schema, "w": {"type": "integer"}}, "required": ["v"]}
    tools = [{"type": "function", "function": {"name": "run", "parameters": parameters}}]
    reply_format = text_format("LFM2-8B-A1B")
    constraint = reply_format.constraint(tools, "required", False)
    assert constraint
    for arguments, expected in ((f"v={written}, w=1", {"v": value, "w": 1}), (f"w=1, v={written}", {"w": 1, "v": value})):
        text = f"<|tool_call_start|>[run({arguments})]<|tool_call_end|>"
        here = writer(SMALL)
        assert here.accepts(here.matcher("lark", constraint.source), text) is (value is not None)
        if value is not None:
            reader = reply_format.reader(tools, False)
            [call] = reply_of([*reader.add(text), *reader.end()]).calls
            assert list(json.loads(call.arguments).items()) == list(expected.items())
            assert fits(parameters, call.arguments)


TAGS: dict[str, tuple[str, str]] = {
    "Qwen3-Coder": ("<tool_call>\n<function=run>\n<parameter=v>\n", "\n</parameter>\n</function>\n</tool_call>"),
    "ByteDance-Seed-OSS": (
        "<seed:tool_call>\n<function=run>\n<parameter=v>",
        "</parameter>\n</function>\n</seed:tool_call>",
    ),
    "openbmb-MiniCPM5-1B": ('<function name="run"><param name="v">', "</param></function>"),
}


@pytest.mark.parametrize(
    ("schema", "written", "value"),
    [
        ({"type": "boolean"}, "True", True),
        ({"type": "boolean"}, "false", False),
        ({"type": ["integer", "null"]}, "None", None),
        (OBJECT, "{'a': ['x', 2], 'on': True}", {"a": ["x", 2], "on": True}),
        (OBJECT, '{\n  "a": [\n    "</parameter>"\n  ],\n  "on": true\n}', {"a": ["</parameter>"], "on": True}),
        ({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}, "['a', 'b']", ["a", "b"]),
        ({"anyOf": [{"type": "boolean"}, {"type": "number", "minimum": 3}]}, "4.5", 4.5),
    ],
)
@pytest.mark.parametrize("template", TAGS)
def test_values_between_tags_may_be_python_s(template: str, schema: dict[str, Any], written: str, value: Any) -> None:
    begins, ends = TAGS[template]
    assert arguments_of(template, schema, f"{begins}{written}{ends}") == {"v": value}


@pytest.mark.parametrize("value", ["def f():\n    return '<b>'", "<![CDATA[x", "</param>", ""])
def test_a_text_may_stand_in_cdata(value: str) -> None:
    begins, ends = TAGS["openbmb-MiniCPM5-1B"]
    text = f"{begins}<![CDATA[{value}]]>{ends}"
    assert arguments_of("openbmb-MiniCPM5-1B", {"type": "string"}, text) == {"v": value}


def arguments_of(template: str, schema: dict[str, Any], text: str) -> Any:
    """Return the arguments of the only call in a text, which its grammar has to allow."""
    parameters = {"type": "object", "properties": {"v": schema}, "required": ["v"]}
    tools = [{"type": "function", "function": {"name": "run", "parameters": parameters}}]
    reply_format, here = text_format(template), writer(SMALL)
    constraint = reply_format.constraint(tools, "required", False)
    assert constraint
    assert here.accepts(here.matcher("lark", constraint.source), text)
    reader = reply_format.reader(tools, False)
    [call] = reply_of([*reader.add(text), *reader.end()]).calls
    return json.loads(call.arguments)
