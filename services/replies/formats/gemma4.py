"""Gemma 4: `<|tool_call>call:NAME{city:<|"|>Paris<|"|>,days:3}<tool_call|>`.

Texts stand between `<|"|>`, keys without quotes; the arguments are given as JSON. Thoughts stand between
`<|channel>thought` and `<channel|>`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from services.backend.types import ChatFormat
from services.replies.calls import Calls
from services.replies.format import ReplyFormat
from services.replies.formats.literals import GEMMA, in_json, read_key, read_value
from services.replies.formats.nested import DEEPEST, list_grammar, shapes
from services.replies.formats.parameters import ANY_NAME, Members, members_grammar, place_of, refused
from services.replies.formats.text_schema import UnkeptSchema, written
from services.replies.formats.values import parameter_of, types_in
from services.replies.formats.values_grammar import Place, json_grammar, text_to
from services.replies.grammar import Lark, any_of
from services.replies.source import Parsing, Source
from services.replies.syntax import CallSyntax, ThoughtTags
from services.replies.toolset import Toolset

_QUOTE = '<|"|>'
# What undeclared members may be.
_ANY = {"type": ["string", "number", "boolean", "null"]}
_AS_JSON = frozenset(("number", "integer", "boolean", "null"))


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
    def grammar(self, lark: Lark, tools: Toolset, many: bool, opener: str = "") -> str:
        return any_of(self._call_grammar(lark, name, schema) for name, schema in tools.schemas.items())

    def _call_grammar(self, lark: Lark, name: str, schema: Any) -> str:
        try:
            members = self._members(lark, schema, schema, 0, Place(name))
        except UnkeptSchema as error:
            raise refused(Place(name), error) from None
        return f"{lark.text(f'call:{name}{{')} {members} {lark.text('}<tool_call|>')}"

    def _members(self, lark: Lark, schema: Any, root: Any, depth: int, place: Place) -> str:
        """Return the expression for an object's members."""
        if depth > DEEPEST:
            raise UnkeptSchema("properties", "objects are nested too deeply")
        members = Members.of(schema, root)
        if members.takes_any(schema):
            extra = schema.get("additionalProperties")
            inner = place_of(place.tool, "") if not depth else place
            value = self._value(lark, extra if isinstance(extra, Mapping) else _ANY, root, depth, inner)
            return members.any_grammar(f'{ANY_NAME} ":" {value}', '","')

        def member(name: str) -> str:
            inner = place if depth else place_of(place.tool, name)
            return f"{lark.text(name + ':')} {self._value(lark, parameter_of(schema, name, root), root, depth, inner)}"

        # With many of them, in the alphabet's order as the template writes them.
        members.names.sort(key=str.lower)
        return members_grammar(lark, members, member, '","')

    def _value(self, lark: Lark, part: Any, root: Any, depth: int, place: Place) -> str:
        """Return the expression for a value: a text in quotes, else as its type is written."""
        types = types_in(part, root)
        each = []
        if scalars := types & _AS_JSON:
            each.append(json_grammar(lark, part, root, "", place, scalars))
        if "string" in types and (text := written(part, root, "string")) is not None:
            each.append(f"{lark.text(_QUOTE)} {text_to(lark, _QUOTE, text)}")
        if types & {"array", "object"}:
            for shape in shapes(part, root):
                if "enum" in shape.schema or "const" in shape.schema:
                    each.append(json_grammar(lark, part, root, "", place, frozenset((shape.kind,))))
                elif shape.kind == "array":
                    each.append(self._list(lark, shape.schema, root, depth, place))
                else:
                    each.append(f'"{{" {self._members(lark, shape.schema, root, depth + 1, place)} "}}"')
        if not each:
            raise UnkeptSchema("", "nothing fits it")
        return lark.rule("value", any_of(dict.fromkeys(each)))

    def _list(self, lark: Lark, schema: Mapping[str, Any], root: Any, depth: int, place: Place) -> str:
        if depth > DEEPEST:
            raise UnkeptSchema("items", "arrays are nested too deeply")
        if schema.get("uniqueItems") is True and types_in(schema.get("items"), root) <= _AS_JSON:
            # Such a list is written as in JSON, where the engine compares numbers too.
            return json_grammar(lark, schema, root, "", place, frozenset(("array",)))
        listed = list_grammar(lark, schema, root, lambda part: self._value(lark, part, root, depth + 1, place), comma='","')
        return f'"[" {listed} "]"'


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
