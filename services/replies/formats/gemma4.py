"""Gemma 4: `<|tool_call>call:NAME{city:<|"|>Paris<|"|>,days:3}<tool_call|>`.

Texts stand between `<|"|>`, keys without quotes; the arguments are given as JSON. Thoughts stand between
`<|channel>thought` and `<channel|>`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from services.backend.types import ChatFormat
from services.replies.calls import Calls
from services.replies.format import ReplyFormat
from services.replies.formats.literals import GEMMA, in_json, read_key, read_value
from services.replies.formats.values import types_of
from services.replies.formats.values_grammar import choices_of, resolved, value_grammar
from services.replies.grammar import Lark, any_of
from services.replies.source import Parsing, Source
from services.replies.syntax import CallSyntax, ThoughtTags
from services.replies.toolset import Toolset

_QUOTE = '<|"|>'
_DEEPEST = 5


@dataclass(frozen=True)
class GemmaCall(CallSyntax):
    """One call with its own tags."""

    openers: tuple[str, ...] = ("<|tool_call>",)
    markers: tuple[str, ...] = ("<tool_call|>", _QUOTE)
    between: str = ""

    @override
    def read(self, source: Source, calls: Calls, opener: str) -> Parsing[None]:
        yield from source.space()
        yield from source.follows("call:")
        name = yield from calls.known_name()
        yield from source.space()
        yield from source.expect("{")
        yield calls.begin(name)
        is_first = True
        while True:
            yield from source.space()
            if (yield from source.follows("}")):
                break
            key = yield from read_key(source, GEMMA, ":")
            yield calls.arguments(f'{"{" if is_first else ", "}"{in_json(key)}": ')
            is_first = False
            for piece in read_value(source, GEMMA):
                yield None if piece is None else calls.arguments(piece)
            yield from source.space()
            if (yield from source.peek()) != "}":
                yield from source.expect(",")
        yield calls.arguments("{}" if is_first else "}")
        calls.end()
        yield from source.space()
        yield from source.closing("<tool_call|>")

    @override
    def grammar(self, lark: Lark, tools: Toolset, many: bool) -> str:
        calls = (
            f"{lark.text(f'call:{name}{{')} {self._members(lark, schema, schema, 0)} {lark.text('}<tool_call|>')}"
            for name, schema in tools.schemas.items()
        )
        return any_of(calls)

    def _members(self, lark: Lark, schema: Any, root: Any, depth: int) -> str:
        """Return the expression for an object's members, in the alphabet's order as the template writes them."""
        schema = resolved(schema, root)
        properties = schema.get("properties")
        if not isinstance(properties, Mapping) or not properties:
            return ""
        names = sorted(properties, key=str.lower)
        required = [name for name in names if name in (schema.get("required") or ())]
        each = {name: f"{lark.text(name + ':')} {self._value(lark, properties[name], root, depth)}" for name in names}
        if not required:
            return f"({' | '.join(self._from(each, names[n:]) for n in range(len(names)))})?"
        first = names.index(required[0])
        before = [f'({each[name]} ",")?' for name in names[:first]]
        behind = [f'"," {each[name]}' if name in required else f'("," {each[name]})?' for name in names[first + 1 :]]
        return " ".join([*before, each[names[first]], *behind])

    def _from(self, each: Mapping[str, str], names: list[str]) -> str:
        return " ".join([each[names[0]], *(f'("," {each[name]})?' for name in names[1:])])

    def _value(self, lark: Lark, schema: Any, root: Any, depth: int) -> str:
        """Return the expression for a value: a text in quotes, else as its type is written."""
        part = resolved(schema, root)
        if choices := choices_of(part) if depth < _DEEPEST else []:
            return any_of(self._value(lark, each, root, depth + 1) for each in choices)
        if "const" in part or isinstance(part.get("enum"), list):
            return any_of(lark.text(_written(each)) for each in part.get("enum", [part.get("const")]))
        types = types_of({"properties": {"value": part}}, "value")
        simple = [kind for kind in ("number", "integer", "boolean", "null") if kind in types]
        each = [lark.json({**part, "type": kind}) for kind in simple if kind != "integer" or "number" not in types]
        if "string" in types:
            text = value_grammar(lark, {"properties": {"value": {"type": "string", **_lengths(part)}}}, "value", _QUOTE)
            each.append(f"{lark.text(_QUOTE)} {text}")
        if "array" in types:
            each.append(self._list(lark, part, root, depth))
        if "object" in types:
            inner = self._members(lark, part, root, depth + 1) if depth < _DEEPEST else ""
            each.append(f'"{{" {inner} "}}"')
        return any_of(each)

    def _list(self, lark: Lark, part: Mapping[str, Any], root: Any, depth: int) -> str:
        if depth >= _DEEPEST:
            return '"[]"'
        item = self._value(lark, part.get("items", {"type": "string"}), root, depth + 1)
        least, most = (part.get(key) for key in ("minItems", "maxItems"))
        least, most = least if isinstance(least, int) else 0, most if isinstance(most, int) else None
        if most == 0:
            return '"[]"'
        more = f'("," {item}){{{max(least - 1, 0)},{"" if most is None else most - 1}}}'
        return f'"[" {item} {more} "]"' if least else f'"[" ({item} {more})? "]"'


def _written(value: Any) -> str:
    """Return a value of an enumeration as Gemma writes it."""
    return f"{_QUOTE}{value}{_QUOTE}" if isinstance(value, str) else json.dumps(value)


def _lengths(part: Mapping[str, Any]) -> dict[str, Any]:
    return {key: part[key] for key in ("minLength", "maxLength") if key in part}


def gemma4(chat_format: ChatFormat) -> ReplyFormat | None:
    """Return the format of templates with Gemma 4's tokens."""
    template = chat_format.template + chat_format.tool_template
    if "<|tool_call>" not in template or "<tool_call|>" not in template:
        return None
    thoughts = ThoughtTags("<|channel>thought", "<channel|>", after="")
    return ReplyFormat(
        "gemma4",
        thoughts,
        syntaxes=(GemmaCall(),),
        skipped=("<|channel>", "<channel|>"),
        tokens=frozenset(chat_format.specials),
    )
