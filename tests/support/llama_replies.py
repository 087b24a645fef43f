"""Reads the outputs of llama.cpp's chat cases with this project's readers, as their models would write them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

from jinja2.ext import loopcontrols
from jinja2.sandbox import SandboxedEnvironment

from services.backend.types import ChatFormat, Mark
from services.replies.events import CallBegun, Event, joined
from services.replies.format import ReplyFormat
from tests.support.llama_chat_cases import ChatCase
from tests.support.real_models import chat_templates

# The texts that are special tokens in the vocabularies of the templates' models, as far as their form tells.
SPECIAL = re.compile(
    r"<\|[^<>|\s]{1,40}\|?>|<[^<>|\s/=]{1,40}\|>|<\uff5c[^<>\uff5c\s]{1,40}\uff5c>|\uff5cDSML\uff5c"
    r"|\[/?[A-Z_]{3,}\]|\]<\]minimax\[>\["
    r"|<SPECIAL_\d+>|</?(?:think|tool_call|seed:think|seed:tool_call|mm:think|minimax:tool_call|arg_key|arg_value)(?::opensource)?>"
)
Piece = str | Mark


@lru_cache(maxsize=128)
def chat_format(template: str) -> ChatFormat:
    """Return the chat format of a template by its file's stem, with the special tokens that stand in it."""
    text = chat_templates()[template]
    specials = sorted(set(SPECIAL.findall(text)), key=len, reverse=True)
    return ChatFormat(text, "<s>", "</s>", tuple(specials))


def pieces_of(case: ChatCase, marked: bool) -> list[Piece]:
    """Return the output in the pieces in which it comes: special tokens as marks, if `marked`, and the text between."""
    return pieces_in(case.output) if marked else [case.output]


def pieces_in(text: str) -> list[Piece]:
    """Return a text in pieces: the special tokens as marks, and what stands between them."""
    parts = re.split(f"({SPECIAL.pattern})", text)
    return [Mark(part) if n % 2 else part for n, part in enumerate(parts) if part]


def events_of(reply_format: ReplyFormat, case: ChatCase, pieces: Iterable[Piece], thinks: bool) -> list[Event]:
    """Return the events of the output, joined; ids that the server makes up are left out. `thinks`: see `is_thinking`."""
    reader = reply_format.reader(case.tools, thinks, bool(case.continues))
    events = [event for piece in pieces for event in reader.add(piece)]
    return [_without_made_id(event, case) for event in joined([*events, *reader.end()])]


def is_thinking(reply_format: ReplyFormat, case: ChatCase) -> bool:
    """Return whether the case's prompt ends within a thought."""
    if case.continues:
        return case.continues == "reasoning" and reply_format.thoughts is not None
    return reply_format.is_thinking(prompt_tail(case))


def prompt_tail(case: ChatCase) -> str:
    """Return the last 200 characters of the case's prompt."""
    messages = [_with_objects(message) for message in case.messages]
    return rendered(case.template, messages, case.tools, True, case.enable_thinking)[-200:]


def rendered(template: str, messages: Sequence[Any], tools: Sequence[Any], prompts: bool, thinks: bool = True) -> str:
    """Return a conversation as the template writes it; `prompts`: with the beginning of the reply."""
    fixed = {"functions": "", "datetime": "", "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": prompts}
    thinking = {"enable_thinking": thinks, "thinking": thinks, "reasoning": thinks}
    for none in (None, ()):
        try:
            return str(_compiled(template).render(messages=messages, tools=tools or none, **fixed, **thinking))
        except TypeError:
            # Some templates want a list where there are no tools.
            if tools:
                raise
    raise AssertionError(f"{template}: the template cannot be rendered")


def splits(pieces: Sequence[Piece], limit: int) -> list[list[Piece]]:
    """Return the pieces letter by letter, and cut in two at every place in their text, or at `limit` places of them."""
    letters: list[Piece] = []
    places = []
    for n, piece in enumerate(pieces):
        letters += [piece] if isinstance(piece, Mark) else list(piece)
        places += [] if isinstance(piece, Mark) else [(n, at) for at in range(1, len(piece))]
    step = max(1, len(places) // limit)
    cut = [[*pieces[:n], pieces[n][:at], pieces[n][at:], *pieces[n + 1 :]] for n, at in places[::step]]
    return [letters, *cut]


def _without_made_id(event: Event, case: ChatCase) -> Event:
    return replace(event, id="") if isinstance(event, CallBegun) and event.id not in case.output else event


def _with_objects(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message whose calls' arguments are objects, as most templates want them."""
    calls = [
        {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
        for call in message.get("tool_calls", ())
    ]
    return {**message, **({"tool_calls": calls} if calls else {})}


@lru_cache(maxsize=128)
def _compiled(template: str) -> Any:
    environment = SandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False, default=list)
    environment.filters["from_json"] = json.loads
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime(2026, 1, 1, tzinfo=timezone.utc).strftime(form)
    text = re.sub(r"\{%-?\s*(?:end)?generation\s*-?%\}", "", chat_templates()[template])
    return environment.from_string(text)


def _refuse(message: str) -> None:
    raise ValueError(message)
