"""Families that write calls as a JSON list behind a tag of their own: Granite 3, Phi-4-mini, Nemotron and Apriel.

<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris"}}]
"""

from __future__ import annotations

from services.backend.types import ChatFormat
from services.replies.format import ReplyFormat
from services.replies.formats.tagged_json import TaggedJson
from services.replies.formats.thinking import THINK, tags_of
from services.replies.syntax import ThoughtTags

_GRANITE = TaggedJson(openers=("<|tool_call|>", "<tool_call>"), is_list=True, inner="")
_PHI = TaggedJson(
    openers=("<|tool_call|>", "functools"), markers=("<|/tool_call|>",), is_list=True, closer="<|/tool_call|>", inner=""
)
_NEMOTRON = TaggedJson(openers=("<TOOLCALL>",), markers=("</TOOLCALL>",), is_list=True, closer="</TOOLCALL>", inner="")
_APRIEL = TaggedJson(openers=("<tool_calls>",), markers=("</tool_calls>",), is_list=True, closer="</tool_calls>", inner="")
# Apriel 1.6's template begins the thought with a sentence.
_APRIEL_THOUGHTS = ThoughtTags("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]", after="\n")


def granite(chat_format: ChatFormat) -> ReplyFormat | None:
    """Return the format of Granite 3, whose templates have `<|start_of_role|>` and `<|tool_call|>`."""
    text = chat_format.template + chat_format.tool_template
    if "<|start_of_role|>" not in text or "<|tool_call|>" not in text:
        return None
    return ReplyFormat(
        "granite",
        THINK,
        syntaxes=(_GRANITE,),
        wraps=(("<response>", "</response>"),) if "<response>" in text else (),
        tokens=frozenset(chat_format.specials),
    )


def phi(chat_format: ChatFormat) -> ReplyFormat | None:
    """Return the format of Phi-4-mini, whose template puts tools between `<|tool|>` and `<|/tool|>`."""
    if "<|/tool|>" not in chat_format.template + chat_format.tool_template:
        return None
    return ReplyFormat("phi-4-mini", tags_of(chat_format), syntaxes=(_PHI,), tokens=frozenset(chat_format.specials))


def nemotron(chat_format: ChatFormat) -> ReplyFormat | None:
    """Return the format of templates that write `<TOOLCALL>`."""
    if "<TOOLCALL>" not in chat_format.template + chat_format.tool_template:
        return None
    thoughts = tags_of(chat_format) or THINK
    return ReplyFormat("nemotron", thoughts, syntaxes=(_NEMOTRON,), tokens=frozenset(chat_format.specials))


def apriel(chat_format: ChatFormat) -> ReplyFormat | None:
    """Return the format of Apriel, whose templates write a list within `<tool_calls>`."""
    text = chat_format.template + chat_format.tool_template
    if "<tool_calls>[" not in text:
        return None
    thoughts = _APRIEL_THOUGHTS if _APRIEL_THOUGHTS.ends in text else tags_of(chat_format)
    return ReplyFormat("apriel", thoughts, syntaxes=(_APRIEL,), tokens=frozenset(chat_format.specials))
