"""Calls that are JSON without tags, at the beginning of the answer: Llama 3, and small models that forget their tags.

{"name": "get_weather", "parameters": {"city": "Paris"}}
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from typing_extensions import override

from services.replies.calls import Calls
from services.replies.formats.tagged_json import FENCES, TaggedJson
from services.replies.grammar import Lark, json_text
from services.replies.source import Parsing, Source
from services.replies.syntax import Begin
from services.replies.toolset import Toolset


@dataclass(frozen=True)
class BareJson(TaggedJson):
    """The braces are the openers. Other JSON is content, as soon as a name shows that it is no call."""

    openers: tuple[str, ...] = ("{", "[")
    inner: str = ""
    only_first: bool = True
    between: str = "; "

    @override
    def read(self, source: Source, calls: Calls, opener: str) -> Parsing[None]:
        source.put_back(opener)
        yield from super().read(source, calls, opener)

    @property
    @override
    def trigger(self) -> str:
        # The brace is part of the JSON.
        return ""

    @override
    def begins(self, tools: Toolset, many: bool) -> Iterator[Begin]:
        return iter(())

    @override
    def bare_pattern(self, tools: Toolset) -> str:
        names = "|".join(re.escape(json_text(name)) for name in tools.schemas).replace("/", "\\/")
        return rf'\s*(\[\s*)?\{{\s*"name"\s*:\s*({names})'


@dataclass(frozen=True)
class FencedJson(BareJson):
    """The same in a code fence."""

    openers: tuple[str, ...] = FENCES
    inner: str = '"\\n"'
    closer: str = "```"
    # One literal up to the name, as the grammar of free text beside it needs it.
    before_name: str = '```json\n{"name": '

    @override
    def grammar(self, lark: Lark, tools: Toolset, many: bool, opener: str = "") -> str:
        return self.rest_grammar(lark, tools, many, "", in_list=False)

    @override
    def bare_pattern(self, tools: Toolset) -> str:
        return rf"\s*```(json|tool_call)?{super().bare_pattern(tools)}"
