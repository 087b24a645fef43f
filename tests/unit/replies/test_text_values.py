"""Values without quotes are held to everything that their schema says, or refused by name."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import jsonschema
import pytest

from services.backend.types import Constraint
from services.errors import InvalidRequest
from services.replies.format import ReplyFormat
from services.replies.formats import format_of
from tests.support.llama_replies import chat_format, pieces_in
from tests.support.replies import reply_of
from tests.unit.replies.guided import kept
from tests.unit.replies.sampling import sampled, text_format

SCHEMAS: dict[str, Any] = {
    "a whole pattern": {"type": "string", "pattern": "^[A-Z]{2}[0-9]+$"},
    "lengths": {"type": "string", "minLength": 2, "maxLength": 4},
    "a format": {"type": "string", "format": "date"},
    "an enum": {"type": "string", "enum": ["a b", "c<d", "</x>", "1"]},
    "a const": {"const": "only"},
    "an enum of several types": {"enum": ["a", 1, True, None]},
    "a text or null": {"type": ["string", "null"], "pattern": "^x+$"},
    "a text or an integer": {"anyOf": [{"type": "string", "pattern": "^q.$"}, {"type": "integer"}]},
    "a text or an object": {
        "anyOf": [
            {"type": "string", "maxLength": 3},
            {"type": "object", "properties": {"k": {"type": "integer"}}, "required": ["k"], "additionalProperties": False},
        ]
    },
    "all of several": {"allOf": [{"type": "string", "pattern": "^[ab]+$"}, {"minLength": 3, "maxLength": 5}]},
    "a reference": {"$ref": "#/$defs/code"},
    "no type": {"minLength": 3, "maxLength": 4},
    "a boolean or a text": {"type": ["boolean", "string"], "maxLength": 4},
    "an integer": {"type": "integer", "minimum": 3, "maximum": 7},
    "a list": {"type": "array", "items": {"type": "string", "pattern": "^[a-c]$"}, "minItems": 1, "maxItems": 2},
    "an object": {
        "type": "object",
        "properties": {"p": {"type": "string", "pattern": "^z+$"}, "q": {"type": "array", "items": {"type": "integer"}}},
        "required": ["p"],
        "additionalProperties": False,
    },
}
# What JSON families refuse, since a regular expression has no opposite there.
OPPOSITES: dict[str, Any] = {
    "one of several": {"oneOf": [{"type": "string", "maxLength": 3}, {"type": "string", "pattern": "^a"}]},
    "no": {"type": "string", "not": {"pattern": "a"}, "maxLength": 5},
    "if": {"type": "string", "if": {"pattern": "^a"}, "then": {"maxLength": 6, "minLength": 3}, "else": {"maxLength": 2}},
}
LISTS = {"type": "array", "items": {"type": "string"}}
DEFINITIONS = {"code": {"type": "string", "pattern": "^k[0-9]$"}}
TAGS = ["Qwen3-Coder", "GLM-4.6", "MiniMax-M2", "deepseek-ai-DeepSeek-V3.2", "openbmb-MiniCPM5-1B"]
NESTED = ["google-gemma-4-31B-it", "MiniMax-M3", "LFM2-8B-A1B"]
CASES = [*itertools.product(TAGS[:2], {**SCHEMAS, **OPPOSITES}), *itertools.product([*TAGS[2:], *NESTED], SCHEMAS)]


def tools(parameters: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "run", "parameters": {"type": "object", **parameters}}}]


def constraint_of(reply_format: ReplyFormat, parameters: dict[str, Any]) -> Constraint:
    found = reply_format.constraint(tools(parameters), "required", False)
    assert found
    return found


@pytest.mark.parametrize(("template", "name"), CASES, ids=[f"{template[:14]}-{name}" for template, name in CASES])
def test_what_may_be_written_fits_the_schema(template: str, name: str) -> None:
    schema = {
        "type": "object",
        "properties": {"v": {**SCHEMAS, **OPPOSITES}[name]},
        "required": ["v"],
        "$defs": DEFINITIONS,
    }
    reply_format = text_format(template)
    source = random.Random(f"{template} {name}")
    texts = [sampled(constraint_of(reply_format, schema), source) for _ in range(3)]
    assert any(texts)
    for text in filter(None, texts):
        reader = reply_format.reader(tools(schema), False)
        reply = reply_of([*reader.add(text), *reader.end()])
        assert (len(reply.calls), reply.content.strip()) == (1, ""), text
        jsonschema.validate(json.loads(reply.calls[0].arguments), schema)


def call(**values: str) -> str:
    parameters = "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in values.items())
    return f"<tool_call>\n<function=run>\n{parameters}</function>\n</tool_call>"


CODER = "Qwen3-Coder"


@pytest.mark.parametrize("marked", [False, True], ids=["text", "marks"])
@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string", "pattern": "^[A-Z]{2}[0-9]+$"}, "AB12", "ab12"),
        ({"type": "string", "pattern": "b"}, "abc", "acc"),
        ({"type": "string", "maxLength": 3}, "abc", "abcd"),
        ({"type": "string", "maxLength": 3}, "a\nb", "a\nbc"),
        ({"type": "string", "format": "date"}, "2024-02-29", "2023-02-29"),
        ({"type": "string", "enum": ["a", "b c"]}, "b c", "c"),
        ({"const": 5}, "5", "6"),
        ({"type": ["string", "null"], "pattern": "^x"}, "null", "y"),
        ({"anyOf": [{"type": "string", "enum": ["on"]}, {"type": "boolean"}]}, "true", "off"),
        ({"oneOf": [{"type": "string", "maxLength": 3}, {"type": "string", "pattern": "^a"}]}, "abcd", "abc"),
        ({"type": "string", "not": {"const": "no"}}, "non", "no"),
    ],
)
def test_a_text_keeps_to_its_schema(schema: dict[str, Any], good: str, bad: str, marked: bool) -> None:
    reply_format = format_of(chat_format(CODER)) if marked else text_format(CODER)
    tokens = tuple(sorted(reply_format.tokens))
    constraint = constraint_of(reply_format, {"properties": {"v": schema}, "required": ["v"]})
    for value, is_kept in ((good, True), (bad, False)):
        pieces = pieces_in(call(v=value)) if marked else [call(v=value)]
        assert (kept(constraint, pieces, tokens) == "whole") == is_kept, value


THREE = {"a": {"type": "integer"}, "b": {"type": "string"}, "c": {"type": "boolean"}}
VALUES = {"a": "1", "b": "x", "c": "true"}


def test_parameters_come_in_any_order_and_the_required_ones_do_come() -> None:
    constraint = constraint_of(text_format(CODER), {"properties": THREE, "required": ["a", "b"]})
    for n in range(4):
        for names in itertools.permutations(VALUES, n):
            is_whole = {"a", "b"} <= set(names)
            found = kept(constraint, [call(**{name: VALUES[name] for name in names})])
            assert (found == "whole") == is_whole, names
    double = call(a="1", b="x").replace("</function>", "<parameter=a>\n2\n</parameter>\n</function>")
    assert kept(constraint, [double]) != "whole"


def test_many_parameters_come_in_their_own_order() -> None:
    names = [f"p{n}" for n in range(30)]
    schema = {"properties": {name: {"type": "integer"} for name in names}, "required": names}
    constraint = constraint_of(text_format(CODER), schema)
    assert kept(constraint, [call(**dict.fromkeys(names, "1"))]) == "whole"
    assert kept(constraint, [call(**dict.fromkeys(reversed(names), "1"))]) != "whole"


@pytest.mark.parametrize(
    ("rules", "good", "bad"),
    [
        ({"minProperties": 2}, ("a", "c"), ("c",)),
        ({"maxProperties": 1}, ("c",), ("a", "c")),
        ({"dependentRequired": {"a": ["c"]}}, ("c", "a"), ("a",)),
        ({"anyOf": [{"required": ["a"]}, {"required": ["b", "c"]}]}, ("c", "b"), ("b",)),
        ({"allOf": [{"required": ["a"]}]}, ("a",), ("b",)),
        ({"required": ["d"]}, ("d",), ("a",)),
    ],
)
def test_rules_between_parameters_are_kept(rules: dict[str, Any], good: tuple[str, ...], bad: tuple[str, ...]) -> None:
    constraint = constraint_of(text_format(CODER), {"properties": THREE, **rules})
    assert kept(constraint, [call(**{name: VALUES.get(name, "y") for name in good})]) == "whole"
    assert kept(constraint, [call(**{name: VALUES.get(name, "y") for name in bad})]) != "whole"


@pytest.mark.parametrize(
    ("template", "schema", "message"),
    [
        (CODER, {"properties": {"v": {"type": "string", "pattern": "(?=a)b"}}}, "#/properties/v/pattern: "),
        (CODER, {"properties": {"v": {"type": "string", "format": "regex"}}}, "#/properties/v/format: "),
        (CODER, {"properties": {"v": {"type": "string", "$ref": "other.json"}}}, "#/properties/v/$ref: "),
        (CODER, {"properties": THREE, "patternProperties": {"^x": {}}}, "#/patternProperties: "),
        ("GLM-4.6", {"properties": THREE, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, "#/oneOf: "),
        (
            "google-gemma-4-31B-it",
            {"properties": {"v": {"type": "array", "items": LISTS, "uniqueItems": True}}},
            "/uniqueItems: ",
        ),
        ("MiniMax-M3", {"properties": {"v": {"type": "array", "contains": {"const": 1}}}}, "/contains: "),
        ("LFM2-8B-A1B", {"properties": {f"p{n}": {} for n in range(30)}, "minProperties": 1}, "rules between them"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(template: str, schema: dict[str, Any], message: str) -> None:
    for choice in ("auto", "required"):
        with pytest.raises(InvalidRequest, match="the schema of tool") as refused:
            constraint = text_format(template).constraint(tools(schema), choice, True)
            assert constraint
        assert message in str(refused.value)
        assert '"run"' in str(refused.value)
        assert refused.value.param == "tools"
