"""MiniMax M3: parameters as nested tags, each behind `]<]minimax[>[`.

    ]<]minimax[>[<tool_call>
    ]<]minimax[>[<invoke name="get_weather">]<]minimax[>[<city>Paris]<]minimax[>[</city>]<]minimax[>[</invoke>
    ]<]minimax[>[</tool_call>

An object's members are tags with their names, a list's are `<item>`; the schema says which it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from services.replies.calls import Calls
from services.replies.formats.literals import in_json
from services.replies.formats.values import types_of, value_json
from services.replies.formats.values_grammar import choices_of, resolved, text_of, text_to
from services.replies.grammar import SPACE, Lark, any_of
from services.replies.source import Cut, Parsing, Source, Unreadable, Waiting
from services.replies.syntax import CallSyntax
from services.replies.toolset import Toolset

NS = "]<]minimax[>["
_DEEPEST = 32
_DEEPEST_GRAMMAR = 6


@dataclass(frozen=True)
class Element:
    """A tag's contents: its text, or the tags within it, by their names."""

    text: str
    children: tuple[tuple[str, Element], ...] = ()


@dataclass(frozen=True)
class NestedTags(CallSyntax):
    """M3's calls."""

    openers: tuple[str, ...] = (f"{NS}<tool_call>",)
    markers: tuple[str, ...] = (f"{NS}</tool_call>", f"{NS}<invoke", f"{NS}</invoke>")
    is_list: bool = True

    @override
    def read(self, source: Source, calls: Calls, opener: str) -> Parsing[None]:
        while True:
            yield from source.space()
            tag = yield from source.expect(f'{NS}<invoke name="', f"{NS}</tool_call>")
            if "/" in tag:
                return
            name = yield from calls.known_name()
            yield from source.expect('">')
            yield calls.begin(name)
            yield from self._read_parameters(source, calls, calls.tools.schemas[name])
            yield from source.space()
            if not (yield from source.peek()):
                return

    def _read_parameters(self, source: Source, calls: Calls, schema: Any) -> Parsing[None]:
        is_first = True
        while (name := (yield from _next_name(source))) != "/invoke":
            yield calls.arguments(f'{"{" if is_first else ", "}"{in_json(name)}": ')
            is_first = False
            types = types_of(schema if isinstance(schema, Mapping) else {}, name)
            if types == {"string"}:
                yield calls.arguments('"')
                yield from _text_to(source, calls, f"{NS}</{name}>")
                yield calls.arguments('"')
            elif "string" in types and schema_names(schema, name):
                # Where a text is possible, tags within it are its own.
                text, _ = yield from source.text_before(f"{NS}</{name}>")
                yield calls.arguments(value_json(text, types))
            else:
                element = yield from _element(source, name, 0)
                yield calls.arguments(element_json(element, schema if isinstance(schema, Mapping) else {}, name))
        yield calls.arguments("{}" if is_first else "}")
        calls.end()

    @override
    def grammar(self, lark: Lark, tools: Toolset, many: bool) -> str:
        calls = any_of(self._call_grammar(lark, name, schema) for name, schema in tools.schemas.items())
        call = lark.rule("call", f"{SPACE} {calls}")
        return f"{call}{'+' if many else ''} {SPACE} {lark.text(f'{NS}</tool_call>')}"

    def _call_grammar(self, lark: Lark, name: str, schema: Any) -> str:
        begins = lark.text(f'{NS}<invoke name="{name}">')
        return f"{begins} {_members_grammar(lark, schema, schema, 0)} {SPACE} {lark.text(f'{NS}</invoke>')}"


M3 = NestedTags()


def schema_names(schema: Any, name: str) -> bool:
    """Return whether a schema declares the parameter."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    return isinstance(properties, Mapping) and name in properties


def element_json(element: Element, schema: Mapping[str, Any], name: str) -> str:
    """Return the JSON of what stands in the tag `name` of an object by the object's schema."""
    return _json(element, {"properties": {"value": schema.get("properties", {}).get(name, {})}, **_definitions(schema)})


def _json(element: Element, holder: Mapping[str, Any]) -> str:
    """Return the JSON of an element; `holder` is the schema of an object whose member `value` it is."""
    types = types_of(holder, "value")
    if not element.children:
        empty = {"array": "[]", "object": "{}"}
        only = next((empty[kind] for kind in empty if types == {kind} and not element.text.strip()), None)
        return only or value_json(element.text, types)
    part = holder["properties"]["value"]
    names = [name for name, _ in element.children]
    if "array" in types and set(names) == {"item"}:
        items = (_json(child, _inner(part, holder, "items")) for _, child in element.children)
        return f"[{', '.join(items)}]"
    members = (f'"{in_json(name)}": {_json(child, _inner(part, holder, name))}' for name, child in element.children)
    return f"{{{', '.join(members)}}}"


def _inner(part: Any, holder: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a holder for a member, or for the items of a list, whose schema is `part` or one of its choices."""
    found: Any = {}
    choices = [part, *part.get("anyOf", ()), *part.get("oneOf", ())] if isinstance(part, Mapping) else []
    for each in choices:
        inner = each.get("items") if name == "items" else each.get("properties", {}).get(name)
        found = found or inner or {}
    return {"properties": {"value": found}, **_definitions(holder)}


def _definitions(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {key: schema[key] for key in ("$defs", "definitions") if key in schema}


def _next_name(source: Source) -> Waiting[str]:
    """Read the next tag; return its name, with "/" if it is a closing one."""
    yield from source.space()
    yield from source.expect(f"{NS}<")
    name, found = yield from source.text_before(">", "\n", "<")
    if found != ">":
        raise Unreadable
    return name


def _element(source: Source, name: str, depth: int) -> Waiting[Element]:
    """Read a tag's contents and its closing tag."""
    if depth > _DEEPEST:
        raise Unreadable
    children: list[tuple[str, Element]] = []
    text, _ = yield from source.text_before(f"{NS}<")
    while True:
        inner, found = yield from source.text_before(">", "\n", "<")
        if found != ">":
            raise Unreadable
        if inner == f"/{name}":
            return Element(text, tuple(children))
        children.append((inner, (yield from _element(source, inner, depth + 1))))
        yield from source.space()
        yield from source.expect(f"{NS}<")


def _text_to(source: Source, calls: Calls, ends: str) -> Parsing[None]:
    while True:
        text, found = yield from source.find((ends,))
        if found:
            return
        if not text:
            raise Cut
        yield calls.arguments(in_json(text))


def _members_grammar(lark: Lark, schema: Any, root: Any, depth: int) -> str:
    """Return the expression for an object's members, in the schema's order."""
    schema = resolved(schema, root)
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return ""
    required = schema.get("required") or ()
    parts = []
    for name, part in properties.items():
        value = _value_grammar(lark, part, root, f"{NS}</{name}>", depth + 1)
        member = f"{lark.text(f'{NS}<{name}>')} {value}"
        parts.append(member if name in required else f"({member})?")
    return " ".join(parts)


def _value_grammar(lark: Lark, schema: Any, root: Any, ends: str, depth: int) -> str:
    """Return the expression for a tag's contents and the text `ends` behind it; any text for what is nested too deep."""
    part = resolved(schema, root)
    types = types_of({"properties": {"value": part}, **_definitions(root)}, "value")
    if depth > _DEEPEST_GRAMMAR:
        return text_to(lark, ends)
    if "const" in part or isinstance(part.get("enum"), list):
        values = part.get("enum", [part.get("const")])
        each = [lark.text(value if isinstance(value, str) else json.dumps(value)) for value in values]
        return f"{any_of(each)} {lark.text(ends)}"
    if "string" in types:
        return text_of(lark, part, ends)
    if choices := choices_of(part):
        return any_of(_value_grammar(lark, each, root, ends, depth + 1) for each in choices)
    each = [lark.json({**part, "type": kind}) for kind in ("number", "integer", "boolean", "null") if kind in types]
    if "object" in types:
        members = _members_grammar(lark, part, root, depth)
        each.append(f"({members})" if members else '""')
    if "array" in types:
        item = _value_grammar(lark, part.get("items", {}), root, f"{NS}</item>", depth + 1)
        each.append(f"({lark.text(f'{NS}<item>')} {item})*")
    return f"{any_of(each)} {lark.text(ends)}"
