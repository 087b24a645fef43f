"""Hermes' form, which Qwen 2.5 and 3, QwQ, SmolLM3, Granite 4, MiMo and Reka use too: JSON within `<tool_call>`."""

from __future__ import annotations

from services.backend.types import ChatFormat
from services.replies.format import ReplyFormat
from services.replies.formats.bare_json import BareJson, FencedJson
from services.replies.formats.tagged_json import TaggedJson
from services.replies.formats.thinking import tags_of

TOOL_CALL = TaggedJson(openers=("<tool_call>",), markers=("</tool_call>",), closer="</tool_call>")

BARE = BareJson(stray=("</tool_call>",))
FENCED = FencedJson()


def hermes(chat_format: ChatFormat) -> ReplyFormat | None:
    """Return the format of templates that write `<tool_call>`."""
    if "<tool_call>" not in chat_format.template + chat_format.tool_template:
        return None
    return ReplyFormat(
        "hermes",
        thoughts=tags_of(chat_format),
        # Small models often forget the tags.
        syntaxes=(TOOL_CALL, BARE, FENCED),
        tokens=frozenset(chat_format.specials),
    )
