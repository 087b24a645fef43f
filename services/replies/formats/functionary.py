"""Functionary v3.1, `<function=NAME>{…}</function>`, and v3.2, whose parts begin with a recipient:

    >>>all
    I look it up.>>>get_weather
    {"city": "Paris"}

The prompt ends with the first `>>>`. The recipient `all` is the reader.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from typing_extensions import override

from services.backend.types import ChatFormat, Constraint
from services.replies.calls import Calls
from services.replies.format import ReplyFormat
from services.replies.formats.function_tag import FUNCTION_TAG
from services.replies.formats.literals import in_json
from services.replies.free_text import FreeText
from services.replies.grammar import Lark, any_of, quoted
from services.replies.reader import FormatReader, Plan, Reader
from services.replies.source import Cut, Parsing, Source
from services.replies.syntax import Begin, CallSyntax
from services.replies.toolset import Toolset

_MARK = ">>>"
_ALL = "all"
_PYTHON_TAG = "<|python_tag|>"
_PYTHON = "python"


@dataclass(frozen=True)
class PythonCode(CallSyntax):
    """Code behind a tag, up to the reply's end, for the tool `python`; or its arguments as JSON."""

    openers: tuple[str, ...] = (_PYTHON_TAG,)

    @override
    def read(self, source: Source, calls: Calls, opener: str) -> Parsing[None]:
        yield from source.space()
        if (yield from source.peek()) == "{":
            yield calls.begin(_PYTHON)
            yield from calls.json_arguments()
            return
        yield calls.begin(_PYTHON)
        yield from code_arguments(source, calls, ())

    @override
    def begins(self, tools: Toolset, many: bool) -> Iterator[Begin]:
        if _PYTHON in tools.schemas:
            yield Begin(self.openers, lambda lark: self.grammar(lark, tools, many))

    @override
    def grammar(self, lark: Lark, tools: Toolset, many: bool, opener: str = "") -> str:
        code = lark.rule("CODE", r"/(?s:.*)/ & ~/\s*\{(?s:.*)/")
        return f"({lark.json(tools.schemas[_PYTHON], _PYTHON)} | {code})"


def functionary(chat_format: ChatFormat) -> ReplyFormat | None:
    """Return the format of templates that teach one of the two forms."""
    template = chat_format.template + chat_format.tool_template
    tokens = frozenset(chat_format.specials)
    if f"{_MARK}all" in template or "recipient==all" in template:
        return RecipientFormat("functionary-v3.2", syntaxes=(Recipient(),), tokens=tokens)
    if "</function>" in template and ("<function=" in template or "start_tag => `<function`" in template):
        return ReplyFormat("functionary-v3.1", syntaxes=(FUNCTION_TAG, PythonCode()), tokens=tokens)
    return None


def code_arguments(source: Source, calls: Calls, ends: tuple[str, ...]) -> Parsing[str]:
    """Read a text up to one of `ends`, or the reply's end, as the only argument of a call of `python`; return that end."""
    schema = calls.tools.schemas.get(_PYTHON)
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    name = next(iter(properties), "code") if isinstance(properties, Mapping) else "code"
    yield calls.arguments(f'{{"{in_json(name)}": "')
    while True:
        text, found = yield from source.find(ends)
        if not text and not found and source.is_cut:
            # More of the code may be missing.
            raise Cut
        if not text:
            yield calls.arguments('"}')
            calls.end()
            return found
        yield calls.arguments(in_json(text))


@dataclass(frozen=True)
class Recipient(CallSyntax):
    """A part of v3.2's replies that is a call."""

    openers: tuple[str, ...] = (_MARK,)
    between: str = ""

    @override
    def read(self, source: Source, calls: Calls, opener: str) -> Parsing[None]:
        name = yield from calls.known_name()
        yield from source.expect("\n")
        yield calls.begin(name)
        yield from source.space()
        if name == _PYTHON and (yield from source.peek()) != "{":
            yield from code_arguments(source, calls, ())
            return
        yield from calls.json_arguments()

    @override
    def begins(self, tools: Toolset, many: bool) -> Iterator[Begin]:
        for name, schema in tools.schemas.items():
            yield Begin((f"{_MARK}{name}\n",), partial(Lark.json, schema=schema, tool=name))

    @override
    def grammar(self, lark: Lark, tools: Toolset, many: bool, opener: str = "") -> str:
        each = (f"{quoted(name)} {quoted(chr(10))} {lark.json(schema, name)}" for name, schema in tools.schemas.items())
        return any_of(each)


@dataclass(frozen=True)
class RecipientFormat(ReplyFormat):
    """v3.2's format, whose first recipient comes behind the prompt's own `>>>`."""

    @override
    def reader(self, tools: Sequence[Mapping[str, Any]], is_thinking: bool, continues: bool = False) -> Reader:
        return RecipientReader(Plan(None, self.syntaxes, skipped=(f"{_MARK}{_ALL}\n",)), tools, is_thinking, continues)

    @override
    def constraint(self, tools: Sequence[Mapping[str, Any]], choice: str, parallel: bool) -> Constraint | None:
        wanted = Toolset.of(tools).only(choice)
        if not wanted.schemas:
            return None
        lark, syntax = Lark(self.tokens), Recipient()
        call = lark.rule("call", syntax.grammar(lark, wanted, parallel))
        calls = f"{call} ({quoted(_MARK)} {call})*" if parallel else call
        if choice != "auto":
            return Constraint("lark", lark.source(calls))
        text = FreeText(lark, list(syntax.begins(wanted, parallel)), ()).text(parallel)
        return Constraint("lark", lark.source(f"{calls} | {quoted(f'{_ALL}{chr(10)}')} ({text})"))


class RecipientReader(FormatReader):
    """Reads v3.2's replies: a recipient first, then as always."""

    @override
    def read(self) -> Parsing[None]:
        if not self.continues:
            yield from self._first()
        yield from super().read()

    def _first(self) -> Parsing[None]:
        source = self.source
        mark = yield from source.follows(_MARK)
        if (yield from source.follows(f"{_ALL}\n")):
            return
        if self.syntaxes:
            yield from self.call(self.syntaxes[_MARK], mark)
        else:
            yield from self.say(mark)
