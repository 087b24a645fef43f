"""Calls that are JSON without tags, at the beginning of the answer: Llama 3, and small models that forget their tags.

{"name": "get_weather", "parameters": {"city": "Paris"}}
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from typing_extensions import override

from services.replies.calls import Calls
from services.replies.formats.tagged_json import TaggedJson
from services.replies.grammar import json_text
from services.replies.source import Parsing, Source
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
    def free_text(self, tools: Toolset) -> str | None:
        names = "|".join(re.escape(json_text(name)) for name in tools.schemas).replace("/", "\\/")
        return rf'/(?s:.*)/ & ~/\s*\{{\s*"name"\s*:\s*({names})(?s:.*)/'
