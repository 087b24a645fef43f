"""Kimi K2 and K3.

K2: `<|tool_calls_section_begin|><|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{…}<|tool_call_end|>` and so
on to `<|tool_calls_section_end|>`; the id, with the name in it, is the model's. Calls may come in thoughts, which they end.
K3: tags of `<|open|>NAME attributes<|sep|>` and `<|close|>NAME<|sep|>` around thoughts, the answer, calls and arguments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from typing_extensions import override

from services.backend.types import ChatFormat
from services.replies.calls import Calls
from services.replies.format import ReplyFormat
from services.replies.formats.tagged import Tagged
from services.replies.formats.thinking import THINK
from services.replies.grammar import Lark, any_of
from services.replies.source import Parsing, Source, Unreadable
from services.replies.syntax import Begin, CallSyntax, ThoughtTags
from services.replies.toolset import Toolset

_SECTION, _SECTION_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_CALL, _ARGUMENTS, _CALL_END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
_ID = re.compile(r"\s*((?:functions\.)?(.+?)(?::\d+)?)\s*")


@dataclass(frozen=True)
class KimiCalls(CallSyntax):
    """A section of calls. Models leave out the section's tags, and the ends of calls, at times."""

    openers: tuple[str, ...] = (_SECTION, _CALL)
    markers: tuple[str, ...] = (_SECTION_END, _ARGUMENTS, _CALL_END)
    is_list: bool = True

    @override
    def read(self, source: Source, calls: Calls, opener: str) -> Parsing[None]:
        yield from source.space()
        if opener != _CALL:
            yield from source.expect(_CALL)
        while True:
            written, found = yield from source.text_before(_ARGUMENTS, "\n")
            parts = _ID.fullmatch(written) if found == _ARGUMENTS else None
            if not parts:
                raise Unreadable
            yield from source.space()
            yield calls.begin(parts[2] if parts[2] in calls.tools.schemas else parts[1], parts[1])
            yield from calls.json_arguments()
            yield from source.space()
            yield from source.closing(_CALL_END)
            yield from source.space()
            if (yield from source.closing(_SECTION_END)) or not (yield from source.follows(_CALL)):
                return

    @override
    def grammar(self, lark: Lark, tools: Toolset, many: bool, opener: str = "") -> str:
        each = (
            f"{lark.text(name)} /:[0-9]{{1,3}}/ {lark.text(_ARGUMENTS)} {lark.json(schema, name)}"
            for name, schema in tools.schemas.items()
        )
        rest = lark.rule("rest", f'"functions." {any_of(each)} {lark.text(_CALL_END)}')
        first = rest if opener == _CALL else f"{lark.text(_CALL)} {rest}"
        more = f"({lark.text(_CALL)} {rest})*" if many else ""
        return f"{first} {more} {lark.text(_SECTION_END)}{'?' if opener == _CALL else ''}"

    @override
    def begins(self, tools: Toolset, many: bool) -> Iterator[Begin]:
        for opener in self.openers:
            yield Begin((opener,), partial(self.grammar, tools=tools, many=many, opener=opener))


def kimi(chat_format: ChatFormat) -> ReplyFormat | None:
    """Return the format of K2's templates, and of K3's."""
    template = chat_format.template + chat_format.tool_template
    tokens = frozenset(chat_format.specials)
    if _CALL in template and _ARGUMENTS in template:
        syntax = KimiCalls()
        return ReplyFormat("kimi-k2", THINK, syntaxes=(syntax,), breaks=syntax.openers, tokens=tokens)
    if "'<|open|>'" in template and "<|sep|>" in template and "'argument'" in template:
        answer = _open("response")
        return ReplyFormat(
            "kimi-k3",
            ThoughtTags(_open("think"), _close("think"), after=answer),
            syntaxes=(K3,),
            wraps=((answer, _close("response")),),
            skipped=(answer, _close("response"), _close("message")),
            breaks=(answer, *K3.openers),
            tokens=tokens,
        )
    return None


def _open(name: str) -> str:
    return f"<|open|>{name}<|sep|>"


def _close(name: str) -> str:
    return f"<|close|>{name}<|sep|>"


# Quotes and ampersands in names are written as in HTML; all arguments may be one JSON object.
K3 = Tagged(
    openers=(_open("tools"), '<|open|>call tool="'),
    markers=("<|close|>", "<|sep|>", "<|open|>"),
    is_list=True,
    call='<|open|>call tool="',
    named="<|sep|>",
    parameter='<|open|>argument key="',
    parameter_named="<|sep|>",
    value_ends=_close("argument"),
    ends=_close("call"),
    closer=_close("tools"),
    string_attribute='type="string"',
    is_escaped=True,
    json_tags=('<|open|>json type="object"<|sep|>', _close("json")),
)
