"""Tools, calls and results in words, for templates that know none of them: the form that the generic reader reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from services.replies.events import ToolCall
from services.replies.json_scan import is_json

_INTRODUCTION = (
    "You may call one or more of the functions within <tools></tools>, whose signatures are JSON schemas:\n<tools>\n"
)
_FORM = (
    "\n</tools>\n\nTo call a function, write a JSON object with its name and arguments within <tool_call></tool_call>:\n"
    '<tool_call>\n{"name": NAME, "arguments": OBJECT}\n</tool_call>\n'
    "Its result comes within <tool_response></tool_response>."
)


def tools_in_words(tools: Sequence[Mapping[str, Any]]) -> str:
    """Return what a system prompt says about tools, in OpenAI's form, and how to call them."""
    return _INTRODUCTION + "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools) + _FORM


def call_in_words(call: ToolCall) -> str:
    """Return a call as the model is asked to write it. Arguments that are no JSON are put in as a text."""
    arguments = call.arguments.strip() or "{}"
    written = arguments if is_json(arguments) else json.dumps(call.arguments, ensure_ascii=False)
    return f'<tool_call>\n{{"name": {json.dumps(call.name, ensure_ascii=False)}, "arguments": {written}}}\n</tool_call>'


def result_in_words(name: str, content: str) -> str:
    """Return the result of the call of the tool `name`, "" if it is not known, told apart from what a person writes."""
    attribute = f" name={json.dumps(name, ensure_ascii=False)}" if name else ""
    return f"<tool_response{attribute}>\n{content}\n</tool_response>"
