"""Continuing a model's message: the prompt ends within it, with its text, and the model goes on from there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from services.backend.types import Prompt
from services.errors import InvalidRequest
from services.prompts.abilities import CHUNKS, Abilities, Message
from services.prompts.marks import THOUGHT
from services.prompts.shaping import THOUGHT_FIELDS, thought_of

_OPEN_THOUGHT = re.compile(r"\s*<(?:\w+:)?think(?:ing)?>\n?")


def marked_end(messages: Sequence[Message], end: str, abilities: Abilities) -> list[Message]:
    """Return the messages with `end`, a character that occurs nowhere else, behind the text of the last one.

    A message with thoughts alone ends within its thought. Raises InvalidRequest if the last message is no assistant's, has
    tool calls, or ends within a thought that the template does not write.
    """
    last = messages[-1] if messages else {"role": ""}
    if last["role"] != "assistant":
        raise _refusal("the last message is not the assistant's")
    if last.get("tool_calls"):
        raise _refusal("it has tool calls")
    content, thought = last.get("content") or "", thought_of(last)
    if isinstance(content, list):
        content = _joined_text(content)
    rest = {name: value for name, value in last.items() if name not in (*THOUGHT_FIELDS, "content")}
    if not thought and abilities.thoughts and (begun := _begun_thought(content)) is not None:
        content, thought = "", begun
    if content or not thought:
        own = {"reasoning_content": thought} if thought else {}
        return [*messages[:-1], {**rest, **own, "content": content + end}]
    if not abilities.thoughts:
        raise _refusal("it has thoughts alone, and the model's chat template does not write them")
    return [*messages[:-1], {**rest, "reasoning_content": thought + end, "content": ""}]


def cut_at(prompt: Prompt, end: str, messages: Sequence[Message]) -> Prompt:
    """Return a prompt up to `end`, which stands behind the last message's text. Raises InvalidRequest if it does not."""
    at = prompt.text.rfind(end)
    text = prompt.text[:at].replace(end, "")
    if at < 0 or not text.endswith(_text_before(end, messages)):
        raise _refusal("the model's chat template does not write it as it is")
    if len(text) < at:
        # The template has written the message twice; where the first was, everything moves.
        raise _refusal("the model's chat template writes it more than once")
    return Prompt(text, tuple((start, min(stop, at)) for start, stop in prompt.typed if start < at))


def _begun_thought(content: str) -> str | None:
    """The thought that a content has begun and not ended; None if there is none."""
    found = _OPEN_THOUGHT.match(content)
    rest = content[found.end() :] if found else ""
    return None if found is None or THOUGHT.search(rest) else rest


def _text_before(end: str, messages: Sequence[Message]) -> str:
    """The text of the shaped messages before `end`; of a content with thoughts in it, the part behind them."""
    texts = [text for message in messages for text in _texts(message) if end in text]
    return THOUGHT.split(texts[-1].partition(end)[0])[-1].lstrip() if texts else ""


def _texts(message: Message) -> list[str]:
    values = [message.get(name) for name in (*THOUGHT_FIELDS, "thought", CHUNKS)]
    return [
        text
        for value in values
        for text in (_strings(value) if isinstance(value, list) else [value])
        if isinstance(text, str)
    ]


def _strings(parts: Sequence[Any]) -> list[Any]:
    return [value for part in parts if isinstance(part, dict) for value in part.values()]


def _joined_text(parts: Sequence[Any]) -> str:
    """The text of a content of text parts. Raises InvalidRequest if there are others."""
    if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
        raise _refusal("it has parts that are no text")
    return "".join(part["text"] for part in parts)


def _refusal(reason: str) -> InvalidRequest:
    what = f"messages: the last message cannot be continued: {reason}"
    return InvalidRequest(what, param="messages", code="cannot_continue")
