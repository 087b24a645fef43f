"""Conversations as clients send them, in every real template: nothing vanishes, nothing is written twice."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from services.backend.types import ChatFormat
from services.prompts.chat_formats import FORMATS
from services.prompts.chat_template import chat_template
from services.prompts.tool_schemas import inlined
from tests.unit.prompts.test_real_templates import compiled, templates

Message = dict[str, Any]
FIRST, SECOND = ("call_1", "look_1", "q"), ("call_2", "see_2", "p")


def said(role: str, content: Any, **more: Any) -> Message:
    return {"role": role, "content": content, **more}


def user(content: Any) -> Message:
    return said("user", content)


def call(call_id: str | None, name: str, arguments: Any) -> Message:
    made = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return made if call_id is None else {"id": call_id, **made}


def calls(*made: Message, content: Any = None) -> Message:
    return said("assistant", content, tool_calls=list(made))


def result(content: Any, call_id: str | None = "call_1", **more: Any) -> Message:
    return said("tool", content, **({} if call_id is None else {"tool_call_id": call_id}), **more)


def asked(arguments: Any) -> list[Message]:
    """A call with these arguments, and its result."""
    return [user("w100"), calls(call("call_1", "look", arguments)), result("w106"), said("assistant", "w107"), user("w108")]


def tool(**function: Any) -> Message:
    return {"type": "function", "function": {"name": "w900_look", **function}}


LOOK, SEE = call("call_1", "look", '{"q": "w103"}'), call("call_2", "see", '{"p": "w105"}')
NAMELESS = [call(None, "look", '{"q": "w103"}'), call(None, "see", '{"p": "w105"}')]
NULLABLE = {"anyOf": [{"$ref": "#/$defs/Kind"}, {"type": "null"}], "default": None}
MODELLED = {
    "type": "object",
    "properties": {"w901": {"$ref": "#/$defs/Place"}, "w902": NULLABLE, "w903": {"type": ["string", "null"]}},
    "$defs": {
        "Place": {"type": "object", "properties": {"w904": {"type": "string"}}},
        "Kind": {"enum": ["a"], "type": "string"},
    },
}
TALKS: dict[str, tuple[Sequence[Message], Sequence[Message]]] = {
    "systems": (
        [
            said("system", "w100"),
            said("system", "w101"),
            user("w102"),
            said("assistant", "w103"),
            said("system", "w104"),
            user("w105"),
        ],
        [tool()],
    ),
    "a system message at the end": ([user("w100"), said("assistant", "w101"), said("system", "w102")], []),
    "developers": ([said("system", "w100"), said("developer", "w101"), user("w102"), said("developer", "w103")], []),
    "only a system message": ([said("system", "w100")], [tool(parameters={"properties": {"w901": {"type": "string"}}})]),
    "only an assistant's": ([said("assistant", "w100")], []),
    "an assistant first": ([said("system", "w100"), said("assistant", "w101"), user("w102")], []),
    "a call first": ([calls(LOOK), result("w105"), user("w106")], []),
    "users in a row": (
        [user("w100"), user("w101"), said("assistant", "w102"), said("assistant", "w104"), user("w103")],
        [],
    ),
    "silence": ([user("w100"), {"role": "assistant"}, user("w101"), said("assistant", ""), user("w102")], []),
    "no calls": ([user("w100"), said("assistant", "w101", tool_calls=[]), user("w102")], []),
    "nothing asked": ([user("w100"), said("assistant", "w101"), user("")], []),
    "results out of order": ([user("w100"), calls(LOOK, SEE), result("w106", "call_2"), result("w107"), user("w108")], []),
    "calls and results without ids": ([user("w100"), calls(*NAMELESS), result("w106", None), result("w107", None)], []),
    "calls and results with empty ids": (
        [
            user("w100"),
            calls(*({**each, "id": ""} for each in NAMELESS)),
            result("w106", ""),
            result("w107", ""),
            user("w108"),
        ],
        [],
    ),
    "a result of another call": ([user("w100"), calls(LOOK), result("w106", "call_9"), user("w107")], []),
    "a result too late": ([user("w100"), calls(LOOK), user("w106"), result("w107")], []),
    "a result too few": ([user("w100"), calls(LOOK, SEE), result("w107", "call_2"), user("w108")], []),
    "a result alone": ([result("w100", "call_9"), user("w101")], []),
    "a result in parts": (
        [user("w100"), calls(LOOK), result([{"type": "text", "text": text} for text in ("w106", "w107")])],
        [],
    ),
    "an older result": ([user("w100"), calls(LOOK), {**result("w106"), "role": "function", "name": "look"}], []),
    "the same ids anew": (
        [user("w100"), calls(LOOK), result("w106"), calls(call("call_1", "see", '{"p": "w105"}')), result("w107")],
        [],
    ),
    "other letters": (
        [user("w100 ß"), calls(call("call_1", "größe_漢", '{"ключ": "w103"}')), result("w106", name="größe_漢")],
        [],
    ),
    "arguments that were cut": (asked('{"q": "w103'), []),
    "no arguments": (asked(""), []),
    "null for arguments": (asked(None), []),
    "null in arguments": (asked("null"), []),
    "a text for arguments": (asked('"w103"'), []),
    "a list of arguments": (asked('["w103"]'), []),
    "an object of arguments": (asked({"q": "w103"}), []),
    "a tool without anything": ([user("w100")], [tool()]),
    "a tool without parameters": ([user("w100")], [tool(description="w901", parameters={})]),
    "a tool of a strict kind": (
        [user("w100")],
        [tool(strict=True, parameters={"type": "object", "additionalProperties": False})],
    ),
    "a tool from a model's schema": ([user("w100")], [tool(description="w905", parameters=MODELLED)]),
}
# What templates leave out of a tool: fields of an object, where they write none.
LEFT_OUT = {("a tool from a model's schema", "ByteDance-Seed-OSS"): {"w904"}}


@pytest.mark.parametrize("talk", TALKS)
def test_nothing_vanishes_and_nothing_is_doubled(talk: str) -> None:
    messages, tools = TALKS[talk]
    words = Counter(re.findall(r"w1\d\d", json.dumps(messages)))
    offered = set(re.findall(r"w9\d\d", json.dumps(tools)))
    for name in templates():
        text = compiled(name).render(messages, tools).text
        found = Counter(re.findall(r"w1\d\d", text))
        assert found == words, (name, text)
        assert offered - LEFT_OUT.get((talk, name), set()) <= set(re.findall(r"w9\d\d", text)), (name, text)


@pytest.mark.parametrize("talk", TALKS)
def test_the_named_formats_lose_nothing_either(talk: str) -> None:
    messages, tools = TALKS[talk]
    words = set(re.findall(r"w\d\d\d", json.dumps([messages, tools])))
    for name, named in {"": None, **FORMATS}.items():
        text = chat_template(ChatFormat(named.template if named else "", "<s>", "</s>", ())).render(messages, tools).text
        assert words <= set(re.findall(r"w\d\d\d", text)), (name, text)


def parameters(schema: Mapping[str, Any]) -> Any:
    return inlined([tool(parameters=dict(schema))])[0]["function"]["parameters"]


def test_tools_hold_what_they_refer_to() -> None:
    assert parameters(MODELLED) == {
        "type": "object",
        "properties": {
            "w901": {"type": "object", "properties": {"w904": {"type": "string"}}},
            "w902": {"enum": ["a"], "type": "string", "default": None, "nullable": True},
            "w903": {"type": "string", "nullable": True},
        },
    }
    tree = {"properties": {"n": {"$ref": "#/$defs/N"}}, "$defs": {"N": {"items": {"$ref": "#/$defs/N"}}}}
    assert parameters(tree) == {"type": "object", "properties": {"n": {"items": {"$ref": "#/$defs/N"}}}}
    for reference in ("#", "#/nowhere", "other.json#/$defs/a", "#/$defs/a~1b%20c"):
        made = parameters({"items": {"$ref": reference}, "$defs": {"a/b c": {"type": "null"}}})
        assert made == {"items": {"type": "null"} if "~1" in reference else {"$ref": reference}}
    # Each definition holds the next one twice: what it would be is too large.
    twice = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    large = {"$ref": "#/$defs/d0", "$defs": twice}
    assert parameters(large) == large
