"""Apertus: `<|tools_prefix|>[{"get_weather": {"city": "Paris"}}]<|tools_suffix|>`, and thoughts in `<|inner_prefix|>`."""

from __future__ import annotations

import json
from dataclasses import dataclass

from typing_extensions import override

from services.backend.types import ChatFormat
from services.replies.calls import Calls
from services.replies.format import ReplyFormat
from services.replies.grammar import Lark, any_of, json_text, quoted
from services.replies.source import Parsing, Source, Unreadable
from services.replies.syntax import CallSyntax, ThoughtTags
from services.replies.toolset import Toolset

_BEGIN, _END = "<|tools_prefix|>", "<|tools_suffix|>"


@dataclass(frozen=True)
class NamedObjects(CallSyntax):
    """A list of objects, each with a tool's name and its arguments."""

    openers: tuple[str, ...] = (_BEGIN,)
    markers: tuple[str, ...] = (_END,)
    is_list: bool = True

    @override
    def read(self, source: Source, calls: Calls, opener: str) -> Parsing[None]:
        yield from source.space()
        yield from source.expect("[")
        separator = ","
        while separator == ",":
            yield from source.space()
            yield from self._read_object(source, calls)
            yield from source.space()
            separator = yield from source.closing(",", "]")
        yield from source.space()
        yield from source.closing(_END)

    def _read_object(self, source: Source, calls: Calls) -> Parsing[None]:
        yield from source.expect("{")
        yield from source.space()
        if (yield from source.peek()) not in ('"', ""):
            raise Unreadable
        name = json.loads((yield from source.whole_json()))
        if name not in calls.tools.schemas:
            raise Unreadable
        yield from source.space()
        yield from source.expect(":")
        yield from source.space()
        yield calls.begin(name)
        yield from calls.json_arguments()
        yield from source.space()
        yield from source.closing("}")
        calls.end()

    @override
    def grammar(self, lark: Lark, tools: Toolset, many: bool, opener: str = "") -> str:
        heads = {name: quoted("{" + json_text(name) + ": ") for name in tools.schemas}
        call = any_of(f'{heads[name]} {lark.json(schema, name)} "}}"' for name, schema in tools.schemas.items())
        call = lark.rule("object", call)
        more = f' (", " {call})*' if many else ""
        return f'"[" {call}{more} "]" {lark.text(_END)}'


def apertus(chat_format: ChatFormat) -> ReplyFormat | None:
    """Return the format of templates that write `<|tools_prefix|>`."""
    if _BEGIN not in chat_format.template + chat_format.tool_template:
        return None
    thoughts = ThoughtTags("<|inner_prefix|>", "<|inner_suffix|>", after="")
    return ReplyFormat("apertus", thoughts, syntaxes=(NamedObjects(),), tokens=frozenset(chat_format.specials))
