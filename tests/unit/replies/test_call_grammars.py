"""What a call's grammar allows is read as that call, with arguments by the tool's schema: texts made at random."""

from __future__ import annotations

import json
import random
from functools import cache
from typing import Any

import jsonschema
import pytest

from services.replies.formats import format_of
from tests.support.llama_replies import chat_format
from tests.support.real_models import chat_templates
from tests.support.replies import reply_of
from tests.unit.replies.sampling import matcher_of, sampled, text_format

_SCHEMAS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
            "unit": {"enum": ["c", "f"]},
            "deep": {
                "type": "object",
                "properties": {"a": {"type": "array", "items": {"type": "number"}}, "b": {"type": "boolean"}},
                "required": ["a"],
                "additionalProperties": False,
            },
        },
        "required": ["city", "deep"],
        "additionalProperties": False,
    },
    "no_arguments": {"type": "object", "properties": {}},
    "optional": {
        "type": "object",
        "properties": {
            "x": {"type": ["string", "null"]},
            "y": {"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/point"}]},
            "z": {"type": "string", "minLength": 2, "maxLength": 5},
        },
        "$defs": {"point": {"type": "object", "properties": {"n": {"type": "null"}}, "required": ["n"]}},
    },
    "free": {"type": "object"},
}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in _SCHEMAS.items()]
# Its markers are special tokens in every vocabulary, which bytes cannot write: test_constraints.py has it.
_TOKENS_ONLY = "harmony"


@cache
def _formats() -> dict[str, str]:
    """Return a template for each format whose markers may be text."""
    found: dict[str, str] = {}
    for template in chat_templates():
        found.setdefault(format_of(chat_format(template)).name, template)
    del found[_TOKENS_ONLY]
    return found


@pytest.mark.parametrize("choice", ["required", "get_weather", "optional"])
@pytest.mark.parametrize("name", _formats())
def test_what_a_grammar_allows_is_read_as_a_call(name: str, choice: str) -> None:
    reply_format = text_format(_formats()[name])
    source = random.Random(f"{name} {choice}")
    whole = 0
    for parallel in (False, True) if choice == "required" else (False,):
        constraint = reply_format.constraint(TOOLS, choice, parallel)
        assert constraint
        assert (constraint.kind, constraint.triggers) == ("lark", ())
        for _ in range(3):
            text = sampled(constraint, source)
            if text is None:
                continue
            whole += 1
            reader = reply_format.reader(TOOLS, False)
            reply = reply_of([*reader.add(text), *reader.end()])
            assert reply.calls, text
            assert (reply.cut_call, reply.content.strip()) == (None, ""), text
            assert parallel or len(reply.calls) == 1, text
            for call in reply.calls:
                assert choice in ("required", call.name)
                jsonschema.validate(json.loads(call.arguments), _SCHEMAS[call.name])
    assert whole >= 2


@pytest.mark.parametrize("name", _formats())
def test_a_call_that_has_begun_is_held(name: str) -> None:
    """With "auto" the grammar compiles, and holds from behind a trigger unless the first letter decides."""
    constraint = text_format(_formats()[name]).constraint(TOOLS, "auto", True)
    assert constraint
    for each in (constraint, *constraint.also):
        matcher_of(each)
