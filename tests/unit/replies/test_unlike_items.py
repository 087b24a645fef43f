"""Forms without JSON: no item twice where the schema says `uniqueItems`, no parameter twice, and members of any name."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from services.backend.types import Constraint
from tests.support.replies import reply_of
from tests.support.walks import SMALL, fits, writer
from tests.unit.replies.sampling import text_format

GEMMA, M3, LFM2, CODER = "google-gemma-4-31B-it", "MiniMax-M3", "LFM2-8B-A1B", "Qwen3-Coder"
NS, QUOTE = "]<]minimax[>[", '<|"|>'
# What a repetition is made of, and what ends the text.
PARTS = ["a", QUOTE, ",", *[f"{NS}</item>", f"{NS}<item>"] * 2, "red", "der", "true", "1", "2", '"', '","']
ENDS = [QUOTE, '"', "]", "}", ")", f"{NS}</item>", f"{NS}</v>"]


def unique(items: Any, **beside: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, "uniqueItems": True, **beside}


LISTS: dict[str, dict[str, Any]] = {
    "texts": unique({"type": "string"}),
    "an enum": unique({"enum": ["red", "redder", "blue"]}, minItems=2),
    "an enum with a limit": unique({"type": "string", "enum": ["red", "redder", "blue"]}, maxItems=2),
    "booleans": unique({"type": "boolean"}, minItems=2),
    "integers": unique({"type": "integer"}),
    "a range": unique({"type": "integer", "minimum": 1, "maximum": 3}, minItems=3),
    "a choice": unique({"anyOf": [{"enum": ["a", "b"]}, {"type": "null"}]}, minItems=3),
}


def tools(schema: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "run", "parameters": schema}}]


def constraint_of(template: str, schema: dict[str, Any]) -> Constraint:
    found = text_format(template).constraint(tools(schema), "required", False)
    assert found
    return found


def pushed(constraint: Constraint, rng: random.Random) -> str:
    """Return a text by a writer that repeats itself wherever the grammar lets it, or ends it once it is long."""
    here = writer(SMALL)
    matcher = here.matcher("lark", constraint.source)
    codes = {code: here.spelled[bytes([code])] for code in range(32, 127)}
    written: list[int] = []
    while not matcher.is_over and len(written) < 1000:
        wanted = rng.choice(PARTS if len(written) < 60 else ENDS).encode()
        if not matcher.allows(codes[wanted[0]]):
            allowed = [code for code in codes if matcher.allows(codes[code])]
            if len(allowed) > 1 and rng.random() < 0.9:
                continue
            wanted = bytes([rng.choice(allowed)])
        for code in wanted:
            if not matcher.allows(codes[code]):
                break
            matcher.accept(codes[code])
            written.append(codes[code])
    return here.text(written)


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("template", [GEMMA, M3, LFM2])
def test_items_are_unlike(template: str, name: str) -> None:
    schema = {"type": "object", "properties": {"v": LISTS[name]}, "required": ["v"], "additionalProperties": False}
    constraint, rng = constraint_of(template, schema), random.Random(f"{template} {name}")
    for _ in range(4):
        text = pushed(constraint, rng)
        reader = text_format(template).reader(tools(schema), False)
        reply = reply_of([*reader.add(text), *reader.end()])
        assert reply.calls, text
        assert fits(schema, reply.calls[0].arguments), text


def called(template: str, *pairs: tuple[str, str]) -> str:
    """Return a call with these parameters, as the family writes them."""
    if template == GEMMA:
        return f"<|tool_call>call:run{{{','.join(f'{name}:{QUOTE}{value}{QUOTE}' for name, value in pairs)}}}<tool_call|>"
    if template == LFM2:
        written = ", ".join(f'{name}="{value}"' for name, value in pairs)
        return f"<|tool_call_start|>[run({written})]<|tool_call_end|>"
    written = "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in pairs)
    return f"<tool_call>\n<function=run>\n{written}</function>\n</tool_call>"


@pytest.mark.parametrize("name", ["texts", "an enum"])
@pytest.mark.parametrize("template", [GEMMA, M3, LFM2])
def test_no_item_comes_twice(template: str, name: str) -> None:
    here, constraint = writer(SMALL), constraint_of(template, {"properties": {"v": LISTS[name]}, "required": ["v"]})
    for items, is_allowed in [(["red", "blue"], True), (["redder", "red"], True), (["red", "blue", "red"], False)]:
        assert here.accepts(here.matcher("lark", constraint.source), listed(template, items)) is is_allowed, items


def listed(template: str, items: list[str]) -> str:
    """Return a call with a list of texts as the family writes it."""
    if template == GEMMA:
        return f"<|tool_call>call:run{{v:[{','.join(f'{QUOTE}{item}{QUOTE}' for item in items)}]}}<tool_call|>"
    if template == LFM2:
        return f"<|tool_call_start|>[run(v={json.dumps(items)})]<|tool_call_end|>"
    written = f"{NS}<v>{''.join(f'{NS}<item>{item}{NS}</item>' for item in items)}{NS}</v>"
    return f'{NS}<tool_call>{NS}<invoke name="run">{written}{NS}</invoke>{NS}</tool_call>'


@pytest.mark.parametrize("template", [GEMMA, LFM2, CODER])
def test_parameters_that_no_schema_names_come_once(template: str) -> None:
    here, constraint = writer(SMALL), constraint_of(template, {"type": "object", "maxProperties": 3})
    for names, is_allowed in [("", True), (["a", "b", "ab"], True), ("aa", False), ("aba", False), ("abcd", False)]:
        text = called(template, *((name, "x") for name in names))
        assert here.accepts(here.matcher("lark", constraint.source), text) is is_allowed, names


@pytest.mark.parametrize(
    ("template", "written"),
    [
        (GEMMA, f"headers:{{Content-Type:{QUOTE}x{QUOTE},Accept:{QUOTE}y{QUOTE}}}"),
        (M3, f'{NS}<headers>{{"Content-Type": "x", "Accept": "y"}}{NS}</headers>'),
    ],
)
def test_objects_have_members_that_no_schema_names(template: str, written: str) -> None:
    headers = {"type": "object", "additionalProperties": {"type": "string"}}
    schema = {"type": "object", "properties": {"headers": headers}, "required": ["headers"]}
    text = {
        GEMMA: f"<|tool_call>call:run{{{written}}}<tool_call|>",
        M3: f'{NS}<tool_call>{NS}<invoke name="run">{written}{NS}</invoke>{NS}</tool_call>',
    }[template]
    here, constraint = writer(SMALL), constraint_of(template, schema)
    assert here.accepts(here.matcher("lark", constraint.source), text)
    again = text.replace("Accept", "Content-Type")
    assert not here.accepts(here.matcher("lark", constraint.source), again)
    reader = text_format(template).reader(tools(schema), False)
    [call] = reply_of([*reader.add(text), *reader.end()]).calls
    assert json.loads(call.arguments) == {"headers": {"Content-Type": "x", "Accept": "y"}}
