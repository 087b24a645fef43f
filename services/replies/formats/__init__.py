"""The formats of replies, a module a family, and the choice among them by a model's chat template."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from services.backend.types import ChatFormat
from services.replies.format import ReplyFormat
from services.replies.formats import (
    apertus,
    command_r,
    deepseek,
    functionary,
    gemma4,
    generic,
    glm,
    harmony,
    hermes,
    invoke,
    json_calls,
    kimi,
    listed_json,
    llama,
    minicpm,
    minimax,
    mistral,
    muse,
    pythonic,
    solar,
    xml_calls,
)
from services.replies.formats.hermes import TOOL_CALL

_TOOLS = re.compile(r"\btools\b")
# The first that knows the template counts, so the more particular ones come first.
FAMILIES: tuple[Callable[[ChatFormat], ReplyFormat | None], ...] = (
    harmony.harmony,
    xml_calls.xml_calls,
    glm.glm,
    kimi.kimi,
    minimax.minimax,
    invoke.invoke,
    minicpm.minicpm,
    functionary.functionary,
    gemma4.gemma4,
    json_calls.json_calls,
    muse.muse,
    pythonic.pythonic,
    solar.solar,
    mistral.mistral,
    deepseek.deepseek,
    command_r.command_r,
    apertus.apertus,
    listed_json.granite,
    listed_json.phi,
    listed_json.nemotron,
    listed_json.apriel,
    # Many other templates have this tag too.
    hermes.hermes,
    llama.llama,
)


@lru_cache(maxsize=32)
def format_of(chat_format: ChatFormat) -> ReplyFormat:
    """Return the format of what a model writes, by its chat template; the generic one for templates that know no tools."""
    found = next((found for family in FAMILIES if (found := family(chat_format))), None) or generic.generic(chat_format)
    if _TOOLS.search(chat_format.template + chat_format.tool_template) or found.syntaxes[:1] == (TOOL_CALL,):
        return found
    # The prompt tells the model in words how to call the tools, whatever it was trained on.
    return replace(found, knows_tools=False, syntaxes=(TOOL_CALL, *found.syntaxes))
