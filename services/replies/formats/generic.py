"""The generic form: calls in words that services/replies/wording.py puts into prompts whose template knows no tools."""

from __future__ import annotations

from services.backend.types import ChatFormat
from services.replies.format import ReplyFormat
from services.replies.formats.function_tag import FUNCTION_TAG
from services.replies.formats.hermes import BARE, FENCED, TOOL_CALL
from services.replies.formats.thinking import tags_of


def generic(chat_format: ChatFormat) -> ReplyFormat:
    """Return the generic form, with the thoughts that the template or the vocabulary has.

    A template that writes tools in a form of its own, which no family knows, counts as one that knows them.
    """
    text = chat_format.template + chat_format.tool_template
    return ReplyFormat(
        "generic",
        thoughts=tags_of(chat_format),
        knows_tools="tool_calls" in text and "tools" in text,
        syntaxes=(TOOL_CALL, FUNCTION_TAG, BARE, FENCED),
        tokens=frozenset(chat_format.specials),
    )
