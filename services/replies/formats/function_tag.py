"""Calls with the name in the tag, and arguments in JSON: `<function=get_weather>{"city": "Paris"}</function>`."""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import override

from services.replies.calls import Calls
from services.replies.grammar import Lark, any_of
from services.replies.source import Parsing, Source
from services.replies.syntax import CallSyntax
from services.replies.toolset import Toolset


@dataclass(frozen=True)
class FunctionTag(CallSyntax):
    """The name comes behind the opener, then `behind_name`, the arguments, and `closer`."""

    behind_name: str = ">"
    closer: str = "</function>"

    @override
    def read(self, source: Source, calls: Calls, opener: str) -> Parsing[None]:
        name = yield from calls.known_name()
        yield from source.expect(self.behind_name)
        yield from source.space()
        yield calls.begin(name)
        yield from calls.json_arguments()
        yield from source.space()
        if self.closer:
            yield from source.closing(self.closer)

    @override
    def grammar(self, lark: Lark, tools: Toolset, many: bool) -> str:
        calls = (
            f"{lark.text(name + self.behind_name)} {lark.json(schema)} {lark.text(self.closer)}"
            for name, schema in tools.schemas.items()
        )
        return any_of(calls)
