"""GLM 4.5 to 4.7, Ling 3, Spark 2.5, Laguna and Hy3: a name, then keys and values in tags.

    <tool_call>get_weather
    <arg_key>city</arg_key>
    <arg_value>Paris</arg_value>
    </tool_call>

Hy3 adds a tag behind the name and one around all calls, and a suffix to every tag's name, which its template sets.
"""

from __future__ import annotations

import re
from dataclasses import replace

from services.backend.types import ChatFormat
from services.replies.format import ReplyFormat
from services.replies.formats.tagged import Tagged
from services.replies.formats.thinking import tags_of
from services.replies.syntax import ThoughtTags

GLM = Tagged(
    openers=("<tool_call>",),
    markers=("</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    call="<tool_call>",
    parameter="<arg_key>",
    parameter_named="</arg_key>",
    value_begins="<arg_value>",
    value_ends="</arg_value>",
    ends="</tool_call>",
)
_HY_SUFFIX = re.compile(r"set\s+HYTK\s*=\s*'([^']*)'")


def glm(chat_format: ChatFormat) -> ReplyFormat | None:
    """Return the format of templates that write arguments as keys and values."""
    template = chat_format.template + chat_format.tool_template
    tokens = frozenset(chat_format.specials)
    if "<arg_key{}>" in template and (found := _HY_SUFFIX.search(template)):
        thoughts = ThoughtTags(f"<think{found[1]}>", f"</think{found[1]}>", after="")
        syntax = _hy(found[1])
        return ReplyFormat("hy3", thoughts, syntaxes=(syntax,), breaks=(syntax.trigger,), tokens=tokens)
    if "<arg_key>" not in template:
        return None
    # Ling writes the end of its turn as text at times.
    skipped = ("<|role_end|>",) if "<|role_end|>" in template else ()
    return ReplyFormat("glm", tags_of(chat_format), syntaxes=(GLM,), skipped=skipped, breaks=GLM.openers, tokens=tokens)


def _hy(suffix: str) -> Tagged:
    """Return Hy3's tags: GLM's with the suffix, and with those that it adds."""

    def tag(text: str) -> str:
        return text.replace(">", f"{suffix}>")

    return replace(
        GLM,
        openers=(tag("<tool_calls>"), tag("<tool_call>")),
        markers=tuple(map(tag, (*GLM.markers, "</tool_calls>", "<tool_sep>"))),
        call=tag("<tool_call>"),
        named=tag("<tool_sep>"),
        parameter=tag("<arg_key>"),
        parameter_named=tag("</arg_key>"),
        value_begins=tag("<arg_value>"),
        value_ends=tag("</arg_value>"),
        ends=tag("</tool_call>"),
        closer=tag("</tool_calls>"),
        is_list=True,
    )
