"""DeepSeek R1 and V3 to V3.1.

R1's form:

    <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather
    ```json
    {"city": "Paris"}
    ```<｜tool▁call▁end｜><｜tool▁calls▁end｜>

V3.1 writes `<｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Paris"}<｜tool▁call▁end｜>` within the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from typing_extensions import override

from services.backend.types import ChatFormat
from services.replies.calls import Calls
from services.replies.format import ReplyFormat
from services.replies.formats.thinking import THINK
from services.replies.grammar import Lark, any_of
from services.replies.source import Parsing, Source, Unreadable
from services.replies.syntax import Begin, CallSyntax
from services.replies.toolset import Toolset

_BEGIN, _END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _CALL_END, _SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
# Distilled models, whose vocabulary lacks the tokens, spell them in several ways.
_SPELLINGS = ("<｜tool_calls_begin｜>", "<｜tool calls begin｜>", "<｜tool\\_calls\\_begin｜>", "<｜tool▁calls｜>")
_TYPE = "function"


@dataclass(frozen=True)
class DeepSeekCalls(CallSyntax):
    """`fences`: the model was taught R1's form."""

    openers: tuple[str, ...] = (_BEGIN, *_SPELLINGS, _CALL)
    markers: tuple[str, ...] = (_END, _CALL_END, _SEPARATOR)
    is_list: bool = True
    fences: bool = False

    @override
    def read(self, source: Source, calls: Calls, opener: str) -> Parsing[None]:
        is_begun = opener == _CALL
        while True:
            yield from source.space()
            if not is_begun and (yield from source.closing(_END)):
                return
            if not is_begun:
                yield from source.expect(_CALL)
            yield from self._read_call(source, calls)
            calls.end()
            is_begun = False
            yield from source.space()
            if (yield from source.peek()) != "<":
                return

    def _read_call(self, source: Source, calls: Calls) -> Parsing[None]:
        yield from source.space()
        has_type = yield from source.follows(_TYPE + _SEPARATOR)
        name = yield from source.follows(*calls.tools.schemas)
        if not name and not (has_type and _TYPE in calls.tools.schemas):
            raise Unreadable
        yield from source.space()
        yield from source.follows(_SEPARATOR)
        yield from source.space()
        yield from source.follows("```json", "```")
        yield from source.space()
        yield calls.begin(name or _TYPE)
        yield from calls.json_arguments()
        yield from source.space()
        yield from source.closing("```")
        yield from source.space()
        yield from source.closing(_CALL_END)

    @override
    def grammar(self, lark: Lark, tools: Toolset, many: bool, opener: str = "") -> str:
        before, behind, after = (f"{_TYPE}{_SEPARATOR}", "\n```json\n", "\n```") if self.fences else ("", _SEPARATOR, "")
        each = any_of(
            f"{lark.text(f'{before}{name}{behind}')} {lark.json(schema, name)} {lark.text(after + _CALL_END)}"
            for name, schema in tools.schemas.items()
        )
        rest = lark.rule("rest", each)
        first = rest if opener == _CALL else f"{lark.text(_CALL)} {rest}"
        between = lark.text("\n") if self.fences else ""
        more = f"({between} {lark.text(_CALL)} {rest})*" if many else ""
        return f"{first} {more} {lark.text(_END)}{'?' if opener == _CALL else ''}"

    @override
    def begins(self, tools: Toolset, many: bool) -> Iterator[Begin]:
        yield Begin(self.openers[:-1], partial(self.grammar, tools=tools, many=many))
        yield Begin((_CALL,), partial(self.grammar, tools=tools, many=many, opener=_CALL))


def deepseek(chat_format: ChatFormat) -> ReplyFormat | None:
    """Return the format of templates that write DeepSeek's tokens for calls."""
    text = chat_format.template + chat_format.tool_template
    if _BEGIN not in text and _CALL not in text:
        return None
    return ReplyFormat(
        "deepseek",
        thoughts=THINK,
        syntaxes=(DeepSeekCalls(fences="```json" in text),),
        tokens=frozenset(chat_format.specials),
    )
