"""What a call's grammar allows is read as that call, with arguments by the tool's schema: texts made at random."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest
from llguidance import LLMatcher, LLTokenizer

from services.replies.format import ReplyFormat
from services.replies.formats import format_of
from tests.support.llama_replies import chat_format
from tests.support.real_models import chat_templates
from tests.support.replies import reply_of

_BYTES = LLTokenizer("byte")
_END = _BYTES.eos_token
_LONGEST = 2_000
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
# Texts that end a value or a call in one family or another: a random walk through free text hardly ever writes them.
_ENDS: tuple[str, ...] = (
    *(
        "</parameter>",
        "\n</parameter>",
        "</arg_value>",
        "</arg_value:opensource>",
        "</param>",
        "</atem:parameter>",
        '<|"|>',
    ),
    *("<|close|>argument<|sep|>", "</\uff5cDSML\uff5cparameter>"),
    *(f"]<]minimax[>[</{name}>" for name in ("city", "x", "y", "z")),
)


# Its markers are special tokens in every vocabulary, which bytes cannot write: test_constraints.py has it.
_TOKENS_ONLY = "harmony"


def _formats() -> dict[str, str]:
    """Return a template for each format whose markers may be text."""
    found: dict[str, str] = {}
    for template in chat_templates():
        found.setdefault(format_of(chat_format(template)).name, template)
    del found[_TOKENS_ONLY]
    return found


def _text_format(template: str) -> ReplyFormat:
    """Return the format of a model whose vocabulary spells the markers as text, which a byte tokenizer can write."""
    own = chat_format(template)
    return format_of(type(own)(own.template, own.bos, own.eos, ()))


def _allowed(matcher: LLMatcher) -> list[int]:
    bits = matcher.compute_bitmask()
    return [token for token in range(_BYTES.vocab_size) if bits[token // 8] >> (token % 8) & 1]


def _sample(grammar: str, source: random.Random) -> str | None:
    """Return a text that the grammar allows, closing free texts early; None if it became too long."""
    matcher = LLMatcher(_BYTES, grammar)
    assert not matcher.is_error(), matcher.get_error()
    ends = [list(end.encode()) for end in _ENDS if json.dumps(end, ensure_ascii=False)[1:-1] in grammar]
    ends += [[ord(sign)] for sign in '"}]']
    out = bytearray()
    while not matcher.is_stopped():
        if len(out) > _LONGEST:
            return None
        allowed = _allowed(matcher)
        assert allowed, (bytes(out), matcher.get_error())
        if _END in allowed and (len(allowed) == 1 or source.random() < 0.5):
            break
        closing = [end for end in ends if matcher.validate_tokens(end) == len(end)]
        plain = [token for token in allowed if 32 <= token < 127 or token == 10]
        chosen = source.choice(closing) if closing and source.random() < 0.5 else [source.choice(plain or allowed)]
        for token in chosen:
            matcher.consume_token(token)
            out.append(token)
    return out.decode("utf-8", "replace")


@pytest.mark.parametrize("choice", ["required", "get_weather", "optional"])
@pytest.mark.parametrize("name", _formats())
def test_what_a_grammar_allows_is_read_as_a_call(name: str, choice: str) -> None:
    reply_format = _text_format(_formats()[name])
    source = random.Random(f"{name} {choice}")
    whole = 0
    for parallel in (False, True):
        constraint = reply_format.constraint(TOOLS, choice, parallel)
        assert constraint
        assert (constraint.kind, constraint.triggers) == ("lark", ())
        for _ in range(3):
            text = _sample(constraint.source, source)
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
    assert whole >= 3


@pytest.mark.parametrize("name", _formats())
def test_a_call_that_has_begun_is_held(name: str) -> None:
    """With "auto" the grammar compiles, and holds from behind a trigger unless the first letter decides."""
    constraint = _text_format(_formats()[name]).constraint(TOOLS, "auto", True)
    assert constraint
    matcher = LLMatcher(_BYTES, constraint.source)
    assert not matcher.is_error(), matcher.get_error()
