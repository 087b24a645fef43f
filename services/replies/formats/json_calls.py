"""Families whose calls are JSON objects with a name and arguments within marks of their own.

FireFunction ` functools[{…}]`, GigaChat 3.1 `<|function_call|>{…}`, GigaChat 3 `<|message_sep|>` and a turn of the role
`function call`.
"""

from __future__ import annotations

from collections.abc import Callable

from services.backend.types import ChatFormat
from services.replies.format import ReplyFormat
from services.replies.formats.tagged_json import TaggedJson
from services.replies.formats.thinking import tags_of

FIREFUNCTION = TaggedJson(openers=(" functools", "functools"), is_list=True, inner="")
GIGACHAT31 = TaggedJson(openers=("<|function_call|>",), inner="")
GIGACHAT3 = TaggedJson(openers=("<|message_sep|>\n\nfunction call<|role_sep|>\n", "function call<|role_sep|>\n"), inner="")


def json_calls(chat_format: ChatFormat) -> ReplyFormat | None:
    """Return the format of the template, if it is one of these families'."""
    template = chat_format.template + chat_format.tool_template
    return next((make(chat_format) for is_so, make in _FAMILIES if is_so(template)), None)


def _simple(name: str, syntax: TaggedJson) -> Callable[[ChatFormat], ReplyFormat]:
    def make(chat_format: ChatFormat) -> ReplyFormat:
        tokens = frozenset(chat_format.specials)
        return ReplyFormat(name, tags_of(chat_format), syntaxes=(syntax,), tokens=tokens)

    return make


_FAMILIES: tuple[tuple[Callable[[str], bool], Callable[[ChatFormat], ReplyFormat]], ...] = (
    (lambda text: "functools[" in text, _simple("firefunction-v2", FIREFUNCTION)),
    (lambda text: '"<|function_call|>"' in text, _simple("gigachat3.1", GIGACHAT31)),
    (lambda text: "'function call'" in text and "<|role_sep|>" in text, _simple("gigachat3", GIGACHAT3)),
)
