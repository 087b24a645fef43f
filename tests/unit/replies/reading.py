"""Reading texts as a model would write them: whole, split, as text and with marks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from services.backend.types import ChatFormat, Mark
from services.replies.events import CallBegun, Event, Reply, joined
from services.replies.format import ReplyFormat
from tests.support.replies import reply_of

Pieces = Iterable[str]


def tool(name: str, **properties: Any) -> dict[str, Any]:
    """Return a tool in OpenAI's form."""
    parameters = {"type": "object", "properties": {key: {"type": kind} for key, kind in properties.items()}}
    return {"type": "function", "function": {"name": name, "description": name, "parameters": parameters}}


TOOLS = [
    tool("get_weather", city="string", days="integer"),
    tool("get", a="string"),
    tool("add", a="integer", b="integer"),
]


def chat_format(template: str, specials: Sequence[str] = ()) -> ChatFormat:
    return ChatFormat(template, "<s>", "</s>", tuple(sorted(specials, key=len, reverse=True)))


def events_of(
    reply_format: ReplyFormat,
    pieces: Pieces,
    tools: Sequence[dict[str, Any]] = TOOLS,
    is_thinking: bool = False,
    continues: bool = False,
) -> list[Event]:
    """Return the events of a reply in pieces, with the ids that readers make up left out."""
    reader = reply_format.reader(tools, is_thinking, continues)
    found: list[Event] = []
    for piece in pieces:
        found += reader.add(piece)
    found += reader.end()
    return joined(without_ids(event) for event in found)


def without_ids(event: Event) -> Event:
    is_made_up = isinstance(event, CallBegun) and re.fullmatch(r"call_[0-9a-f]{24}", event.id)
    return CallBegun(event.index, "", event.name) if is_made_up and isinstance(event, CallBegun) else event


def reply(reply_format: ReplyFormat, text: str, **options: Any) -> Reply:
    return reply_of(events_of(reply_format, [text], **options))


def with_marks(text: str, markers: Iterable[str]) -> list[str]:
    """Return a text in pieces, of which those that are special tokens are marks."""
    known = sorted({marker for marker in markers if marker}, key=len, reverse=True)
    if not known:
        return [text]
    parts = re.split(f"({'|'.join(map(re.escape, known))})", text)
    return [Mark(part) if part in known else part for part in parts if part]


def tokens_of(reply_format: ReplyFormat) -> list[str]:
    """Return the texts of what are special tokens in the format's models."""
    if reply_format.name == "harmony":
        return ["<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|call|>", "<|return|>", "<|constrain|>"]
    return [text for text in markers_of(reply_format) if not text.isalpha() and "response" not in text and len(text) > 1]


def markers_of(reply_format: ReplyFormat) -> list[str]:
    """Return every text that the format's readers look for."""
    thoughts = reply_format.thoughts
    found = [thoughts.begins, thoughts.ends] if thoughts else []
    found += [tag for pair in reply_format.wraps for tag in pair]
    found += [*reply_format.skipped, *reply_format.breaks]
    return found + [text for syntax in reply_format.syntaxes for text in (*syntax.openers, *syntax.markers)]
