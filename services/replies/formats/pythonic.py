"""Calls in Python's form: LFM2 (`<|tool_call_start|>[f(x=1)]<|tool_call_end|>`), Llama 4, and Llama 3's bare `[f(x=1)]`.

Values are Python's literals or JSON's; the arguments are given as JSON. What has no name belongs to the next parameter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from typing_extensions import override

from services.backend.types import ChatFormat
from services.replies.calls import Calls
from services.replies.format import ReplyFormat
from services.replies.formats.literals import PYTHON, in_json, read_value
from services.replies.formats.parameters import Members, members_grammar, place_of, refused
from services.replies.formats.python_values import Literals
from services.replies.formats.tagged_json import TaggedJson
from services.replies.formats.text_schema import UnkeptSchema
from services.replies.formats.thinking import tags_of
from services.replies.formats.values import parameter_of
from services.replies.formats.values_grammar import Place, document_of, parameter_document
from services.replies.grammar import Lark, any_of, unlike
from services.replies.source import Cut, Parsing, Source, Unreadable, Waiting
from services.replies.syntax import Begin, CallSyntax
from services.replies.toolset import Toolset

# The name of an argument of a tool whose schema names none.
_NAME = f'{unlike("/[a-z_][a-zA-Z0-9_]{0,63}/")} "="'


@dataclass(frozen=True)
class Pythonic(CallSyntax):
    """A list of calls behind the opener, which may be its bracket."""

    closer: str = ""
    is_list: bool = True

    @override
    def read(self, source: Source, calls: Calls, opener: str) -> Parsing[None]:
        yield from source.space()
        in_list = opener == "[" or bool((yield from source.follows("[")))
        yield from source.space()
        if (yield from source.peek()) == "{":
            # As JSON, which these models are asked for at times.
            yield from TaggedJson(closer=self.closer).read(source, calls, opener)
            return
        is_first = True
        while True:
            yield from source.space()
            if not is_first and (yield from source.peek()) == "]":
                break
            is_first = False
            name = yield from calls.known_name()
            yield from source.space()
            yield from source.expect("(")
            yield calls.begin(name)
            yield from self.read_arguments(source, calls, name)
            yield from source.space()
            if not (yield from source.follows(",")):
                break
        if in_list:
            yield from source.closing("]")
        yield from source.space()
        if self.closer:
            yield from source.closing(self.closer)

    def read_arguments(self, source: Source, calls: Calls, call: str) -> Parsing[None]:
        """Read arguments and the bracket that ends them, from behind the opening one."""
        position = 0
        while True:
            yield from source.space()
            if (yield from source.follows(")")):
                break
            name = yield from self._name(source, calls, call, position)
            yield calls.arguments(f'{", " if position else "{"}"{in_json(name)}": ')
            for piece in read_value(source, PYTHON):
                yield None if piece is None else calls.arguments(piece)
            position += 1
            yield from source.space()
            if (yield from source.peek()) != ")":
                yield from source.expect(",")
        yield calls.arguments("}" if position else "{}")
        calls.end()

    def _name(self, source: Source, calls: Calls, call: str, position: int) -> Waiting[str]:
        """Return the name of the argument that comes next; of one without a name, the tool's parameter at that position."""
        schema = calls.tools.schemas[call]
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        names = list(properties) if isinstance(properties, Mapping) else []
        letters = ""
        while (letter := (yield from source.peek())).isidentifier() or (letters and letter.isdigit()):
            letters += source.take(1)
        if letters:
            yield from source.space()
            yield from source.expect("=")
            return letters
        if position < len(names):
            return str(names[position])
        raise Unreadable if letter else Cut

    @override
    def grammar(self, lark: Lark, tools: Toolset, many: bool, opener: str = "") -> str:
        first = any_of(self._call_grammar(lark, *tool, begins="[") for tool in tools.schemas.items())
        call = lark.rule("python_call", any_of(self._call_grammar(lark, *tool) for tool in tools.schemas.items()))
        more = f'(", " {call})*' if many else ""
        return f'{first} {more} "]" {lark.text(self.closer) if self.closer else ""}'

    @property
    @override
    def trigger(self) -> str:
        # A bare list's bracket is part of the grammar's first literal.
        return "" if self.only_first else super().trigger

    @override
    def begins(self, tools: Toolset, many: bool) -> Iterator[Begin]:
        if not self.only_first:
            yield from super().begins(tools, many)

    @override
    def bare_pattern(self, tools: Toolset) -> str:
        return rf"\s*\[\s*({'|'.join(re.escape(name) for name in tools.schemas)})\s*\(" if self.only_first else ""

    def _call_grammar(self, lark: Lark, name: str, schema: Any, begins: str = "") -> str:
        arguments = arguments_grammar(lark, name, schema, partial(self._value_grammar, lark, name, schema))
        return f'{lark.text(f"{begins}{name}(")} {arguments} ")"'

    def _value_grammar(self, lark: Lark, tool: str, schema: Mapping[str, Any], name: str) -> str:
        place = place_of(tool, name)
        try:
            return Literals(lark, schema, place).grammar(parameter_of(schema, name))
        except UnkeptSchema:
            return lark.json(parameter_document(schema, name), *place)


def arguments_grammar(lark: Lark, tool: str, schema: Any, value: Callable[[str], str]) -> str:
    """Return the expression for a call's named arguments; `value` makes the one of a value.

    Raises InvalidRequest for a schema that cannot be kept to.
    """
    schema = schema if isinstance(schema, Mapping) else {}
    try:
        members = Members.of(schema, schema)
        if not members.takes_any(schema):
            return members_grammar(lark, members, lambda name: f"{lark.text(name + '=')} {value(name)}", '", "')
        extra = schema.get("additionalProperties")
        document = document_of(extra if isinstance(extra, Mapping) else {}, schema)
        return members.any_grammar(f"{_NAME} {lark.json(document, *place_of(tool, ''))}", '", "')
    except UnkeptSchema as error:
        raise refused(Place(tool), error) from None


LFM2 = Pythonic(openers=("<|tool_call_start|>",), markers=("<|tool_call_end|>",), closer="<|tool_call_end|>")
LLAMA4 = Pythonic(openers=("<|python_start|>",), markers=("<|python_end|>",), closer="<|python_end|>")
BARE = Pythonic(openers=("[",), only_first=True)


def pythonic(chat_format: ChatFormat) -> ReplyFormat | None:
    """Return the format of LFM2 and Llama 4, by the tokens in their templates or vocabularies."""
    known = (chat_format.template + chat_format.tool_template, *chat_format.specials)
    tokens = frozenset(chat_format.specials)
    if any("<|tool_call_start|>" in text for text in known) or _is_lfm2(chat_format.template):
        return ReplyFormat("lfm2", tags_of(chat_format), syntaxes=(LFM2,), tokens=tokens)
    if any("<|python_start|>" in text for text in known):
        return ReplyFormat("llama4-pythonic", tags_of(chat_format), syntaxes=(LLAMA4, BARE), tokens=tokens)
    return None


def _is_lfm2(template: str) -> bool:
    """Return whether a template is LFM2's, which does not name the tokens of calls, since it renders none."""
    return "List of tools: [" in template or "<|tool_list_start|>" in template
