"""MiniMax M2, DeepSeek V3.2 and V4, and others: `<invoke name="…">` and `<parameter name="…">` within a tag of their own.

    <minimax:tool_call>
    <invoke name="get_weather">
    <parameter name="city">Paris</parameter>
    </invoke>
    </minimax:tool_call>

DeepSeek's tags begin with a token of their own (`DSML`), and its parameters say whether they are texts (`string="true"`).
"""

from __future__ import annotations

import re

from services.backend.types import ChatFormat
from services.replies.format import ReplyFormat
from services.replies.formats.tagged import Tagged
from services.replies.formats.thinking import tags_of

DSML = "\uff5cDSML\uff5c"
# The tag around the calls, as templates have it: in a text of its own, or before the example's `invoke`.
_SECTION = re.compile(r"</((?:[\w-]+:)?(?:tool_calls?|function_calls))>")
_DSML_SECTION = re.compile(r"</' \+ dsml_token \+ '(\w*calls)>")


def invoke_tags(section: str, prefix: str = "", attribute: str = "") -> Tagged:
    """Return the tags whose names begin with `prefix`, within those of `section`."""
    return Tagged(
        openers=(f"<{section}>", f'<{prefix}invoke name="'),
        markers=(f"</{section}>", f"</{prefix}invoke>", f'<{prefix}parameter name="', f"</{prefix}parameter>"),
        is_list=True,
        call=f'<{prefix}invoke name="',
        named=">",
        parameter=f'<{prefix}parameter name="',
        parameter_named=">",
        value_ends=f"</{prefix}parameter>",
        ends=f"</{prefix}invoke>",
        closer=f"</{section}>",
        string_attribute=attribute,
    )


def invoke(chat_format: ChatFormat) -> ReplyFormat | None:
    """Return the format of templates that teach `<invoke name="…">`."""
    template = chat_format.template + chat_format.tool_template
    if DSML in template and "invoke name=" in template and (found := _DSML_SECTION.search(template)):
        name, syntax = "deepseek-dsml", invoke_tags(DSML + found[1], DSML, 'string="true"')
    elif "<invoke name=" in template and "<parameter name=" in template and (found := _SECTION.search(template)):
        name, syntax = ("minimax-m2" if found[1].startswith("minimax") else "invoke"), invoke_tags(found[1])
    else:
        return None
    return ReplyFormat(
        name,
        thoughts=tags_of(chat_format),
        syntaxes=(syntax,),
        breaks=syntax.openers[:1],
        tokens=frozenset(chat_format.specials),
    )
