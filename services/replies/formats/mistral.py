"""Mistral's forms: a list with ids (Nemo and older), and a name with arguments (Small 3.1, Magistral, Devstral, Ministral).

[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "0aZ9bY8cX"}]
[TOOL_CALLS]get_weather[CALL_ID]0aZ9bY8cX[ARGS]{"city": "Paris"}
"""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass

from typing_extensions import override

from services.backend.types import ChatFormat
from services.replies.calls import Calls
from services.replies.format import ReplyFormat
from services.replies.formats.bare_json import BareJson
from services.replies.formats.tagged_json import TaggedJson
from services.replies.formats.thinking import tags_of
from services.replies.grammar import SPACE, Lark, any_of
from services.replies.source import Parsing, Source
from services.replies.syntax import CallSyntax
from services.replies.toolset import Toolset

_TOOL_CALLS, _CALL_ID, _ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_MARKERS = (_CALL_ID, _ARGS)
_LIST = TaggedJson(openers=(_TOOL_CALLS,), markers=_MARKERS, is_list=True, id_name="id", inner="")


def new_id() -> str:
    """Return a call's id as Mistral's templates want it: nine letters and digits."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


@dataclass(frozen=True)
class MistralCalls(CallSyntax):
    """Reads both forms. `writes_list`, `writes_id`: what the model was taught."""

    openers: tuple[str, ...] = (_TOOL_CALLS,)
    markers: tuple[str, ...] = _MARKERS
    between: str = ""
    writes_id: bool = False

    @override
    def read(self, source: Source, calls: Calls, opener: str) -> Parsing[None]:
        yield from source.space()
        # A bracket begins a marker, or the list.
        if (yield from source.peek()) in ("[", "{") and not (yield from source.follows(*_MARKERS)):
            yield from _LIST.read(source, calls, opener)
            return
        name = yield from calls.known_name()
        call_id = ""
        if (yield from source.follows(_CALL_ID)):
            call_id, _ = yield from source.text_before(_ARGS)
        else:
            yield from source.follows(_ARGS)
        yield from source.space()
        yield calls.begin(name, call_id.strip() or new_id())
        yield from calls.json_arguments()

    @override
    def grammar(self, lark: Lark, tools: Toolset, many: bool, opener: str = "") -> str:
        call_id = f"{lark.text(_CALL_ID)} /[a-zA-Z0-9]{{9}}/ " if self.writes_id else ""
        return any_of(
            f"{lark.text(name)} {call_id}{lark.text(_ARGS)} {SPACE} {lark.json(schema, name)}"
            for name, schema in tools.schemas.items()
        )


@dataclass(frozen=True)
class MistralList(MistralCalls):
    """Reads both forms; the model was taught the list."""

    is_list: bool = True

    @override
    def grammar(self, lark: Lark, tools: Toolset, many: bool, opener: str = "") -> str:
        return _LIST.grammar(lark, tools, many)


def mistral(chat_format: ChatFormat) -> ReplyFormat | None:
    """Return the format of templates that write `[TOOL_CALLS]`."""
    text = chat_format.template + chat_format.tool_template
    if _TOOL_CALLS not in text:
        return None
    syntax = MistralCalls(writes_id=_CALL_ID in text) if _ARGS in text else MistralList()
    return ReplyFormat(
        "mistral",
        thoughts=tags_of(chat_format),
        syntaxes=(syntax, BareJson()),
        tokens=frozenset(chat_format.specials),
    )
