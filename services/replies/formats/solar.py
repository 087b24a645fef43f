"""Solar Open: `<|tool_call:begin|>ID<|tool_call:name|>NAME<|tool_call:args|>{…}<|tool_call:end|>`, in parts of a turn.

A turn's parts are `<|think|>`, `<|content|>` and `<|tool_calls|>`, each from `<|begin|>assistant` to its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from typing_extensions import override

from services.backend.types import ChatFormat, Constraint
from services.replies.calls import Calls
from services.replies.format import ReplyFormat
from services.replies.grammar import Lark, any_of
from services.replies.source import Parsing, Source, Unreadable
from services.replies.syntax import Begin, CallSyntax, ThoughtTags
from services.replies.toolset import Toolset

_TURN, _THINK, _CONTENT, _PART_END = "<|begin|>assistant", "<|think|>", "<|content|>", "<|end|>"
_BEGIN, _NAME, _ARGS, _END = "<|tool_call:begin|>", "<|tool_call:name|>", "<|tool_call:args|>", "<|tool_call:end|>"


@dataclass(frozen=True)
class SolarCalls(CallSyntax):
    """A part of a turn with several calls."""

    openers: tuple[str, ...] = (f"{_TURN}<|tool_calls|>", "<|tool_calls|>", _BEGIN)
    markers: tuple[str, ...] = (_NAME, _ARGS, _END, "<|calls|>")
    is_list: bool = True

    @property
    @override
    def trigger(self) -> str:
        return "<|tool_calls|>"

    @override
    def read(self, source: Source, calls: Calls, opener: str) -> Parsing[None]:
        yield from source.space()
        if opener != _BEGIN:
            yield from source.expect(_BEGIN)
        while True:
            call_id, found = yield from source.text_before(_NAME, "\n")
            if found != _NAME:
                raise Unreadable
            name = yield from calls.known_name()
            yield from source.expect(_ARGS)
            yield from source.space()
            yield calls.begin(name, call_id.strip())
            yield from calls.json_arguments()
            yield from source.space()
            yield from source.closing(_END)
            yield from source.space()
            if (yield from source.closing("<|calls|>")) or not (yield from source.follows(_BEGIN)):
                return

    @override
    def grammar(self, lark: Lark, tools: Toolset, many: bool, opener: str = "") -> str:
        each = (f"{lark.text(name + _ARGS)} {lark.json(schema, name)}" for name, schema in tools.schemas.items())
        rest = lark.rule("rest", f"/[a-z0-9]{{10}}/ {lark.text(_NAME)} {any_of(each)} {lark.text(_END)}")
        first = rest if opener == _BEGIN else f"{lark.text(_BEGIN)} {rest}"
        return f"{first} ({lark.text(_BEGIN)} {rest})*" if many else first

    @override
    def begins(self, tools: Toolset, many: bool) -> Iterator[Begin]:
        # The longer form of the opener ends like it.
        yield Begin((self.trigger,), partial(self.grammar, tools=tools, many=many))
        yield Begin((_BEGIN,), partial(self.grammar, tools=tools, many=many, opener=_BEGIN))


def solar(chat_format: ChatFormat) -> ReplyFormat | None:
    """Return the format of templates with Solar's tokens."""
    template = chat_format.template + chat_format.tool_template
    if _BEGIN not in template or _ARGS not in template:
        return None
    content, calls = f"{_TURN}{_CONTENT}", SolarCalls()
    return SolarFormat(
        "solar-open",
        ThoughtTags(_THINK, _PART_END, after=content),
        syntaxes=(calls,),
        wraps=((_CONTENT, ""),),
        skipped=(content, _CONTENT, _TURN, _PART_END),
        breaks=(content, _CONTENT, *calls.openers),
        tokens=frozenset(chat_format.specials),
    )


@dataclass(frozen=True)
class SolarFormat(ReplyFormat):
    """The format of parts of turns: behind a thought, the next part begins with `<|begin|>assistant`."""

    @override
    def framed(self, constraint: Constraint) -> Constraint:
        return self._in_turn(super().framed(constraint))

    @override
    def constraint(self, tools: Sequence[Mapping[str, Any]], choice: str, parallel: bool) -> Constraint | None:
        found = super().constraint(tools, choice, parallel)
        return self._in_turn(found) if found and not found.triggers else found

    def _in_turn(self, constraint: Constraint) -> Constraint:
        if constraint.kind != "lark" or not constraint.source.startswith("start: "):
            return constraint
        turn = Lark(self.tokens).text(_TURN)
        return replace(constraint, source=constraint.source.replace("start: ", f"start: ({turn})? ", 1))
