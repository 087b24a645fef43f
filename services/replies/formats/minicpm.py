"""MiniCPM5: `<function name="NAME"><param name="NAME">value</param></function>`; values with markup stand in CDATA."""

from __future__ import annotations

from services.backend.types import ChatFormat
from services.replies.format import ReplyFormat
from services.replies.formats.tagged import Tagged
from services.replies.formats.thinking import tags_of

MINICPM = Tagged(
    openers=('<function name="',),
    markers=("</function>", '<param name="', "</param>"),
    call='<function name="',
    named=">",
    parameter='<param name="',
    parameter_named=">",
    value_ends="</param>",
    ends="</function>",
    has_data=True,
)


def minicpm(chat_format: ChatFormat) -> ReplyFormat | None:
    """Return the format of templates that teach `<function name="…">`."""
    template = chat_format.template + chat_format.tool_template
    if '<function name="' not in template or '<param name="' not in template:
        return None
    return ReplyFormat("minicpm5", tags_of(chat_format), syntaxes=(MINICPM,), tokens=frozenset(chat_format.specials))
