"""Llama 3.1 to 3.3: bare JSON with "parameters", the same behind `<|python_tag|>`, and calls of built-in tools there.

{"name": "get_weather", "parameters": {"city": "Paris"}}
<|python_tag|>brave_search.call(query="weather in Paris")
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from typing_extensions import override

from services.backend.types import ChatFormat
from services.replies.calls import Calls
from services.replies.format import ReplyFormat
from services.replies.formats.bare_json import BareJson
from services.replies.formats.tagged_json import TaggedJson
from services.replies.formats.thinking import tags_of
from services.replies.source import Parsing, Source, Unreadable

_PYTHON_TAG = "<|python_tag|>"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class PythonTag(TaggedJson):
    """JSON behind the tag, or NAME.call(ARGUMENT="…", …)."""

    @override
    def read(self, source: Source, calls: Calls, opener: str) -> Parsing[None]:
        yield from source.space()
        if (yield from source.peek()) in ("{", "["):
            yield from super().read(source, calls, opener)
            return
        name = yield from calls.known_name()
        yield from source.expect(".call(")
        arguments = yield from self._arguments(source)
        yield calls.begin(name)
        yield calls.arguments("{" + ", ".join(arguments) + "}")
        calls.end()

    def _arguments(self, source: Source) -> Parsing[list[str]]:
        found: list[str] = []
        while True:
            yield from source.space()
            if (yield from source.follows(")")):
                return found
            if found:
                yield from source.expect(",")
                yield from source.space()
            name, _ = yield from source.text_before("=", ")", "\n")
            if not _NAME.fullmatch(name):
                raise Unreadable
            found.append(f'"{name}": ' + (yield from source.whole_json()))


def llama(chat_format: ChatFormat) -> ReplyFormat | None:
    """Return the format of templates with Llama's turns that ask for "parameters" in JSON."""
    text = chat_format.template + chat_format.tool_template
    is_llama = "<|start_header_id|>" in text and "ipython" in text and '"parameters": ' in text
    if not is_llama and _PYTHON_TAG not in text:
        return None
    return ReplyFormat(
        "llama",
        thoughts=tags_of(chat_format),
        syntaxes=(
            BareJson(before_arguments=', "parameters": '),
            PythonTag(openers=(_PYTHON_TAG,), before_arguments=', "parameters": '),
        ),
        tokens=frozenset(chat_format.specials),
    )
