"""The tags around thoughts that several families share."""

from __future__ import annotations

from services.backend.types import ChatFormat
from services.replies.syntax import ThoughtTags

THINK = ThoughtTags("<think>", "</think>")
_TAGS = (
    ThoughtTags("<seed:think>", "</seed:think>"),
    THINK,
    ThoughtTags("<thinking>", "</thinking>"),
    ThoughtTags("[THINK]", "[/THINK]", after=""),
    ThoughtTags("<|START_THINKING|>", "<|END_THINKING|>", after=""),
    ThoughtTags("<|inner_prefix|>", "<|inner_suffix|>", after=""),
)


def tags_of(chat_format: ChatFormat) -> ThoughtTags | None:
    """Return the tags around a model's thoughts: those in its template, else those among its special tokens."""
    text = chat_format.template + chat_format.tool_template
    in_template = (tags for tags in _TAGS if tags.begins in text or tags.ends in text)
    in_vocabulary = (tags for tags in _TAGS if tags.begins in chat_format.specials)
    return next(in_template, None) or next(in_vocabulary, None)
