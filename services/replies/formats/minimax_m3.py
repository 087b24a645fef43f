"""MiniMax M3: parameters as nested tags, each behind `]<]minimax[>[`.

    ]<]minimax[>[<tool_call>
    ]<]minimax[>[<invoke name="get_weather">]<]minimax[>[<city>Paris]<]minimax[>[</city>]<]minimax[>[</invoke>
    ]<]minimax[>[</tool_call>

An object's members are tags with their names, a list's are `<item>`; the schema says which it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from services.replies.calls import Calls
from services.replies.formats import values
from services.replies.formats.literals import in_json
from services.replies.formats.nested import DEEPEST, list_grammar, shapes
from services.replies.formats.parameters import Members, members_grammar, place_of, refused
from services.replies.formats.tag_values import value_grammar
from services.replies.formats.text_schema import UnkeptSchema
from services.replies.formats.values import parameter_of, types_in, types_of, value_json
from services.replies.formats.values_grammar import Place, json_grammar
from services.replies.grammar import SPACE, Lark, any_of
from services.replies.source import Cut, Parsing, Source, Unreadable, Waiting
from services.replies.syntax import CallSyntax
from services.replies.toolset import Toolset

NS = "]<]minimax[>["
_DEEPEST = 32


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
            else:
                part = parameter_of(schema, name)
                element = yield from _element(source, name, part, schema)
                yield calls.arguments(element_json(element, part, schema))
        yield calls.arguments("{}" if is_first else "}")
        calls.end()

    @override
    def grammar(self, lark: Lark, tools: Toolset, many: bool, opener: str = "") -> str:
        calls = any_of(self._call_grammar(lark, name, schema) for name, schema in tools.schemas.items())
        call = lark.rule("call", f"{SPACE} {calls}")
        return f"{call}{'+' if many else ''} {SPACE} {lark.text(f'{NS}</tool_call>')}"

    def _call_grammar(self, lark: Lark, name: str, schema: Any) -> str:
        begins = lark.text(f'{NS}<invoke name="{name}">')
        try:
            members = _members_grammar(lark, schema, schema, 0, Place(name))
        except UnkeptSchema as error:
            raise refused(Place(name), error) from None
        return f"{begins} {members} {SPACE} {lark.text(f'{NS}</invoke>')}"


M3 = NestedTags()


def element_json(element: Element, part: Any, root: Any) -> str:
    """Return the JSON of a tag's contents by the part of a schema that they should fit."""
    types = types_in(part, root)
    if not element.children:
        empty = {"object": "{}", "array": "[]"} if not element.text.strip() and "string" not in types else {}
        return next((empty[kind] for kind in empty if kind in types), None) or value_json(element.text, types)
    names = [name for name, _ in element.children]
    if "array" in types and set(names) == {"item"}:
        items = values.items_of(part, root)
        return f"[{', '.join(element_json(child, items, root) for _, child in element.children)}]"
    members = (
        f'"{in_json(name)}": {element_json(child, parameter_of(part, name, root), root)}'
        for name, child in element.children
    )
    return f"{{{', '.join(members)}}}"


def _next_name(source: Source) -> Waiting[str]:
    """Read the next tag; return its name, with "/" if it is a closing one."""
    yield from source.space()
    yield from source.expect(f"{NS}<")
    name, found = yield from source.text_before(">", "\n", "<")
    if found != ">":
        raise Unreadable
    return name


def _element(source: Source, name: str, part: Any, root: Any, depth: int = 0) -> Waiting[Element]:
    """Read a tag's contents, which should fit a part of a schema, and its closing tag."""
    if depth > _DEEPEST:
        raise Unreadable
    if isinstance(part, Mapping) and part and "string" in types_in(part, root):
        # Where a text is possible, tags within it are its own.
        text, _ = yield from source.text_before(f"{NS}</{name}>")
        return Element(text)
    children: list[tuple[str, Element]] = []
    text, _ = yield from source.text_before(f"{NS}<")
    while True:
        inner, found = yield from source.text_before(">", "\n", "<")
        if found != ">":
            raise Unreadable
        if inner == f"/{name}":
            return Element(text, tuple(children))
        is_item = inner == "item" and "array" in types_in(part, root)
        within = values.items_of(part, root) if is_item else parameter_of(part, inner, root)
        children.append((inner, (yield from _element(source, inner, within, root, depth + 1))))
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


def _members_grammar(lark: Lark, schema: Any, root: Any, depth: int, place: Place) -> str:
    """Return the expression for an object's members."""
    if depth > DEEPEST:
        raise UnkeptSchema("properties", "objects are nested too deeply")

    def member(name: str) -> str:
        inner = place if depth else place_of(place.tool, name)
        value = _value_grammar(lark, parameter_of(schema, name, root), root, f"{NS}</{name}>", depth + 1, inner)
        return f"{lark.text(f'{NS}<{name}>')} {value}"

    return members_grammar(lark, Members.of(schema, root), member)


def _value_grammar(lark: Lark, part: Any, root: Any, ends: str, depth: int, place: Place) -> str:
    """Return the expression for a tag's contents and the text `ends` behind it."""
    types = types_in(part, root)
    if "string" in types:
        # Tags within a text are its own.
        return value_grammar(lark, part, root, ends, place)
    each = []
    if scalars := types & {"number", "integer", "boolean", "null"}:
        each.append(json_grammar(lark, part, root, "", place, scalars))
    for shape in shapes(part, root):
        if "enum" in shape.schema or "const" in shape.schema:
            each.append(json_grammar(lark, part, root, "", place, frozenset((shape.kind,))))
            continue
        inner = _object_grammar if shape.kind == "object" else _list_grammar
        each.append(inner(lark, shape.schema, root, depth, place))
    if not each:
        raise UnkeptSchema("", "nothing fits it")
    return f"{lark.rule('value', any_of(dict.fromkeys(each)))} {lark.text(ends)}"


def _object_grammar(lark: Lark, schema: Mapping[str, Any], root: Any, depth: int, place: Place) -> str:
    if Members.of(schema, root).takes_any(schema):
        # No grammar ends a tag by a name that it does not know.
        return json_grammar(lark, schema, root, "", place, frozenset(("object",)))
    members = _members_grammar(lark, schema, root, depth, place)
    return f"({members})" if members else '""'


def _list_grammar(lark: Lark, schema: Mapping[str, Any], root: Any, depth: int, place: Place) -> str:
    if depth > DEEPEST:
        raise UnkeptSchema("items", "arrays are nested too deeply")

    def item(part: Any) -> str:
        value = _value_grammar(lark, part, root, f"{NS}</item>", depth + 1, place)
        return f"{lark.text(f'{NS}<item>')} {value}"

    return list_grammar(lark, schema, root, item) or '""'
