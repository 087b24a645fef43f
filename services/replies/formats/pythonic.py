"""Calls in Python's form: LFM2 (`<|tool_call_start|>[f(x=1)]<|tool_call_end|>`), Llama 4, and Llama 3's bare `[f(x=1)]`.

Values are Python's literals or JSON's; the arguments are given as JSON. What has no name belongs to the next parameter.
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
from services.replies.formats.literals import PYTHON, in_json, read_value
from services.replies.formats.thinking import tags_of
from services.replies.formats.values import types_of
from services.replies.formats.values_grammar import parameter_document
from services.replies.grammar import Lark, any_of
from services.replies.source import Cut, Parsing, Source, Unreadable, Waiting
from services.replies.syntax import CallSyntax
from services.replies.toolset import Toolset

# The name of an argument of a tool whose schema names none; and Python's words for what JSON writes otherwise.
_NAME = "/[a-z_][a-zA-Z0-9_]{0,63}=/"
_WORDS = '("True" | "False")'


@dataclass(frozen=True)
class Pythonic(CallSyntax):
    """A list of calls behind the opener, which may be its bracket."""

    closer: str = ""
    is_list: bool = True

    @override
    def read(self, source: Source, calls: Calls, opener: str) -> Parsing[None]:
        yield from source.space()
        in_list = opener == "[" or bool((yield from source.follows("[")))
        while True:
            yield from source.space()
            name = yield from calls.known_name()
            yield from source.space()
            yield from source.expect("(")
            yield calls.begin(name)
            yield from self._read_arguments(source, calls, name)
            yield from source.space()
            if not (yield from source.follows(",")):
                break
        if in_list:
            yield from source.closing("]")
        yield from source.space()
        if self.closer:
            yield from source.closing(self.closer)

    def _read_arguments(self, source: Source, calls: Calls, call: str) -> Parsing[None]:
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
    def grammar(self, lark: Lark, tools: Toolset, many: bool) -> str:
        call = lark.rule("python_call", any_of(self._call_grammar(lark, *tool) for tool in tools.schemas.items()))
        several = f'{call} (", " {call})*' if many else call
        begins = "" if self.trigger == "[" else '"[" '
        return f'{begins}{several} "]" {lark.text(self.closer) if self.closer else ""}'

    def _call_grammar(self, lark: Lark, name: str, schema: Any) -> str:
        schema = schema if isinstance(schema, Mapping) else {}
        properties = schema.get("properties")
        arguments = ""
        if isinstance(properties, Mapping) and properties:
            arguments = self._arguments_grammar(lark, schema, list(properties))
        elif properties is None and schema.get("additionalProperties") is not False:
            one = f"{_NAME} {lark.json({})}"
            arguments = f'({one} (", " {one})*)?'
        return f'{lark.text(name + "(")} {arguments} ")"'

    def _arguments_grammar(self, lark: Lark, schema: Mapping[str, Any], names: list[str]) -> str:
        """Return the expression for the arguments in the schema's order, those that are required among them."""
        required = [name for name in names if name in (schema.get("required") or ())]
        each = {name: f"{lark.text(name + '=')} {self._value_grammar(lark, schema, name)}" for name in names}
        if not required:
            # The first of those that are there has no comma before it.
            return lark.rule("arguments", self._chain(lark, [each[name] for name in names]))
        first = names.index(required[0])
        before = [f'({each[name]} ", ")?' for name in names[:first]]
        behind = [f'", " {each[name]}' if name in required else f'(", " {each[name]})?' for name in names[first + 1 :]]
        return " ".join([*before, each[names[first]], *behind])

    def _chain(self, lark: Lark, parts: list[str]) -> str:
        """Return the expression for any of the parts, in their order, with commas between them."""
        rest = '""'
        for n in range(len(parts) - 1, -1, -1):
            more = " ".join(f'(", " {part})?' for part in parts[n + 1 :])
            rest = f"({parts[n]} {more} | {rest})" if rest != '""' else f"({parts[n]})?"
        return rest

    def _value_grammar(self, lark: Lark, schema: Mapping[str, Any], name: str) -> str:
        part = schema["properties"][name]
        choices = part.get("enum") if isinstance(part, Mapping) else None
        if isinstance(choices, list) and choices:
            return any_of(lark.text(_python(each)) for each in choices)
        types = types_of(schema, name)
        if types == {"boolean"}:
            return _WORDS
        if types == {"null"}:
            return '"None"'
        if types == {"string"} and isinstance(part, Mapping) and not set(part) - _ANNOTATIONS:
            # LFM2's own template writes single quotes.
            return any_of([lark.json(parameter_document(schema, name)), _QUOTED])
        return lark.json(parameter_document(schema, name))


_ANNOTATIONS = {"type", "title", "description", "default", "examples"}
_QUOTED = r"""/'([^'\\\n]|\\['"\\nrt])*'/"""


def _python(value: Any) -> str:
    words = {True: "True", False: "False", None: "None"}
    return words[value] if value is None or isinstance(value, bool) else json.dumps(value, ensure_ascii=False)


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
