"""What a chat template can do, and messages in the forms that templates want."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Message = Mapping[str, Any]

Ids = Literal["any", "short", "named"]
ToolForm = Literal["", "wrapped", "bare", "text"]
CallContent = Literal["empty", "none", "absent"]


@dataclass(frozen=True)
class CallForm:
    """The form in which a template takes tool calls.

    `arguments`: as a JSON object, or as its text. `content`: that of a message that has calls alone. `is_bare`: name and
    arguments stand in the call itself and not in its `function`. `ids`: any, of 9 letters and digits (Mistral), or
    functions.NAME:NUMBER (Kimi K2, whose template may write no other name).
    """

    arguments: Literal["object", "text"] = "object"
    content: CallContent = "empty"
    is_bare: bool = False
    ids: Ids = "any"


@dataclass(frozen=True)
class Abilities:
    """What a template writes as it should."""

    works: bool
    """It writes a conversation of one user message."""
    none_tools: bool
    """Without tools, `tools` is None, as in transformers; else it is undefined, as in llama.cpp."""
    typed_content: bool
    """Content is a list of parts, not a text."""
    system: bool
    """A first system message."""
    systems: bool
    """Several first system messages."""
    late_system: bool
    """System messages further on, and at the end."""
    system_alone: bool
    """A system message without one of a user, and the tools there."""
    system_kept: bool
    """A first system message where the last message is not the user's."""
    developer: bool
    """Messages of the role developer."""
    runs: bool
    """Messages of one role that follow each other."""
    assistant_first: bool
    """A conversation that an assistant's message begins."""
    assistant_empty: bool
    """An assistant's message with neither a text nor calls."""
    assistant_last: bool
    """One that an assistant's message ends, followed by the beginning of another."""
    tools: ToolForm
    """The tools that are offered: as OpenAI's API has them, the functions alone, or as JSON in `functions`; "": not."""
    tool_definitions: bool
    """Definitions that a tool's parameters refer to; templates that write each parameter in words leave them out."""
    calls: CallForm | None
    """The form of tool calls; None: it does not write them."""
    parallel: bool
    """Several calls in one message."""
    call_beside_text: bool
    """Calls in a message that has a text too; the text may be left out."""
    results: bool
    """The results of calls, as messages of the role tool."""
    lone_results: bool
    """Results without the call."""
    thoughts: str
    """The field of a message's thoughts; CHUNKS: a part of its content; "": it writes none."""
    thought_and_text: bool
    """Thoughts and a text beside calls."""


# Thoughts are a part of the content, as in Mistral's templates: {"type": "thinking", "thinking": TEXT}.
CHUNKS = "content"
# Those of a template with which no attempt succeeds: it is given what OpenAI's API has.
UNKNOWN = Abilities(
    works=False,
    none_tools=True,
    typed_content=False,
    system=True,
    systems=True,
    late_system=True,
    system_alone=True,
    system_kept=True,
    developer=False,
    runs=True,
    assistant_first=True,
    assistant_empty=True,
    assistant_last=True,
    tools="wrapped",
    tool_definitions=True,
    calls=CallForm(),
    parallel=True,
    call_beside_text=True,
    results=True,
    lone_results=True,
    thoughts="reasoning_content",
    thought_and_text=True,
)


def with_thought(message: Message, thought: str, field: str) -> dict[str, Any]:
    """Return a message with a thought in the field that a template wants it in, one of those of `Abilities.thoughts`."""
    if field != CHUNKS:
        return {**message, field: thought}
    text = message.get("content")
    parts = text if isinstance(text, list) else [{"type": "text", "text": text}] if text else []
    return {**message, "content": [{"type": "thinking", "thinking": thought}, *parts]}


def typed(message: Message) -> Message:
    """Return a message whose content is a list of parts."""
    text = message.get("content")
    return {**message, "content": [{"type": "text", "text": text}]} if isinstance(text, str) and text else message


def calling(message: Message, calls: Sequence[Message], form: CallForm) -> dict[str, Any]:
    """Return a message with tool calls, and with content as the template wants it if it has none of its own."""
    rest = {name: value for name, value in message.items() if name != "content"}
    if text := message.get("content"):
        return {**rest, "content": text, "tool_calls": list(calls)}
    if form.content != "absent":
        rest["content"] = "" if form.content == "empty" else None
    return {**rest, "tool_calls": list(calls)}


def call_of(form: CallForm, name: str, arguments: Any, call_id: str) -> dict[str, Any]:
    """Return a call as a template takes it."""
    function = {"name": name, "arguments": arguments}
    inner = function if form.is_bare else {"function": function}
    return {"id": call_id, "type": "function", **inner}
