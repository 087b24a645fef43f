"""Llama 3.1 to 3.3: bare JSON with "parameters", the same behind `<|python_tag|>`, and calls of built-in tools there.

{"name": "get_weather", "parameters": {"city": "Paris"}}
<|python_tag|>brave_search.call(query="weather in Paris")
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from services.backend.types import ChatFormat
from services.replies.calls import Calls
from services.replies.format import ReplyFormat
from services.replies.formats.bare_json import BareJson
from services.replies.formats.function_tag import FUNCTION_TAG
from services.replies.formats.parameters import place_of
from services.replies.formats.pythonic import BARE, arguments_grammar
from services.replies.formats.tagged_json import TaggedJson
from services.replies.formats.thinking import tags_of
from services.replies.formats.values_grammar import parameter_document
from services.replies.grammar import Lark, any_of
from services.replies.source import Parsing, Source
from services.replies.toolset import Toolset

_PYTHON_TAG = "<|python_tag|>"


@dataclass(frozen=True)
class PythonTag(TaggedJson):
    """JSON behind the tag, or NAME.call(ARGUMENT="…", …), as Python writes it."""

    @override
    def read(self, source: Source, calls: Calls, opener: str) -> Parsing[None]:
        yield from source.space()
        if (yield from source.peek()) in ("{", "["):
            yield from super().read(source, calls, opener)
            return
        name = yield from calls.known_name()
        yield from source.expect(".call(", "(")
        yield calls.begin(name)
        yield from BARE.read_arguments(source, calls, name)

    @override
    def grammar(self, lark: Lark, tools: Toolset, many: bool, opener: str = "") -> str:
        calls = any_of(self._call_grammar(lark, name, schema) for name, schema in tools.schemas.items())
        return f"({super().grammar(lark, tools, many)} | {calls})"

    def _call_grammar(self, lark: Lark, name: str, schema: Any) -> str:
        def value(parameter: str) -> str:
            return lark.json(parameter_document(schema, parameter), *place_of(name, parameter))

        arguments = arguments_grammar(lark, name, schema, value)
        return f'{lark.text(f"{name}.call(")} {arguments} ")"'


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
            BareJson(openers=("{",), before_arguments=', "parameters": '),
            PythonTag(openers=(_PYTHON_TAG,), before_arguments=', "parameters": '),
            # Llama 3.2's other form; lists of JSON objects are read by it too.
            BARE,
            FUNCTION_TAG,
        ),
        tokens=frozenset(chat_format.specials),
    )
