"""The description of tools in the system prompt, for models whose chat template knows no tools."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from services.prompts.chat_template import Message


def with_tools(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The messages with a description of the tools appended to the system prompt, or as a system prompt of its own."""
    listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    words = (
        f"You may call these functions:\n{listed}\n"
        'To call one, answer with <tool_call>{"name": NAME, "arguments": {…}}</tool_call> alone.'
    )
    if messages and messages[0]["role"] == "system":
        return [{**messages[0], "content": f"{messages[0]['content']}\n\n{words}"}, *messages[1:]]
    return [{"role": "system", "content": words}, *messages]
