"""Calls with the name in the tag, and arguments in JSON: `<function=get_weather>{"city": "Paris"}</function>`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from typing_extensions import override

from services.replies.calls import Calls
from services.replies.grammar import Lark, any_of
from services.replies.source import Parsing, Source
from services.replies.syntax import Begin, CallSyntax
from services.replies.toolset import Toolset, grouped


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
    def grammar(self, lark: Lark, tools: Toolset, many: bool, opener: str = "") -> str:
        return self._rest(lark, tools, list(tools.schemas), "")

    @override
    def begins(self, tools: Toolset, many: bool) -> Iterator[Begin]:
        for begun, names in grouped(tools.schemas).items():
            texts = tuple(opener + begun for opener in self.openers)
            yield Begin(texts, partial(self._rest, tools=tools, names=names, begun=begun))

    def _rest(self, lark: Lark, tools: Toolset, names: Sequence[str], begun: str) -> str:
        closer = lark.text(self.closer)
        heads = {name: lark.text(name.removeprefix(begun) + self.behind_name) for name in names}
        return any_of(f"{heads[name]} {lark.json(tools.schemas[name], name)} {closer}" for name in names)


FUNCTION_TAG = FunctionTag(openers=("<function=",), markers=("</function>",))
