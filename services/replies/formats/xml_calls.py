"""Qwen3-Coder, Qwen3.5, Nemotron 3, Step 3.5 and Seed-OSS: `<function=NAME>` and `<parameter=NAME>` within a tag.

Qwen's values stand on lines of their own; Seed's do not. Models leave out the outer tag at times.
"""

from __future__ import annotations

from services.backend.types import ChatFormat
from services.replies.format import ReplyFormat
from services.replies.formats.tagged import Tagged
from services.replies.formats.thinking import tags_of


def _function_tags(opener: str, closer: str, on_lines: bool) -> Tagged:
    return Tagged(
        openers=(opener, "<function="),
        markers=(closer, "</function>", "<parameter=", "</parameter>"),
        call="<function=",
        named=">",
        parameter="<parameter=",
        parameter_named=">",
        value_ends="</parameter>",
        ends="</function>",
        closer=closer,
        on_lines=on_lines,
    )


QWEN = _function_tags("<tool_call>", "</tool_call>", on_lines=True)
SEED = _function_tags("<seed:tool_call>", "</seed:tool_call>", on_lines=False)


def xml_calls(chat_format: ChatFormat) -> ReplyFormat | None:
    """Return the format of templates that teach `<function=…><parameter=…>`."""
    template = chat_format.template + chat_format.tool_template
    if "<parameter=" not in template or "<function=" not in template:
        return None
    name, syntax = ("seed-oss", SEED) if "<seed:tool_call>" in template else ("qwen3-coder", QWEN)
    return ReplyFormat(
        name,
        thoughts=tags_of(chat_format),
        syntaxes=(syntax,),
        breaks=(syntax.trigger,),
        tokens=frozenset(chat_format.specials),
    )
