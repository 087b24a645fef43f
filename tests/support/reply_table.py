"""The table of formats in docs/replies.md, made from what the code does.

`python -m tests.support.reply_table` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache

from llguidance import LLMatcher, LLTokenizer

from services.engine.llama.lark import LarkSource
from services.replies.events import CallArguments, Event, joined
from services.replies.format import ReplyFormat
from services.replies.formats import format_of
from tests.support.llama_replies import SPECIAL, chat_format, pieces_in
from tests.support.real_models import chat_templates
from tests.support.replies import reply_of
from tests.support.serving import ROOT
from tests.support.written_calls import CALLS, TOOLS, written

PAGE = ROOT / "docs" / "replies.md"
BEGIN, END = "<!-- formats -->\n", "<!-- end of formats -->\n"
_HEAD = (
    "| Format | Templates of llama.cpp's 70 | Thoughts | A call begins with | Rendered | Read | Streamed | Held |\n"
    "|---|---|---|---|---|---|---|---|\n"
)


def table() -> str:
    """Return the table, a row a format, in the alphabet's order."""
    return _HEAD + "".join(_row(name, templates) for name, templates in sorted(_templates().items()))


@lru_cache(maxsize=1)
def _templates() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for template in chat_templates():
        found.setdefault(format_of(chat_format(template)).name, []).append(template)
    return found


def _row(name: str, templates: list[str]) -> str:
    reply_format = format_of(chat_format(templates[0]))
    thoughts = sorted({each.thoughts.begins for each in map(_format, templates) if each.thoughts})
    writer = next((template for template in templates if _writes(template)), None)
    cells = [
        name,
        ", ".join(template.split("/")[-1] for template in templates),
        ", ".join(map(_code, thoughts)) or "none",
        _code(reply_format.syntaxes[0].trigger),
        "yes" if writer else "tools only" if reply_format.knows_tools else "in words",
        "yes" if _reads(reply_format, writer) else "no",
        _streams(reply_format, writer),
        "yes" if _holds(reply_format) else "no",
    ]
    return f"| {' | '.join(cells)} |\n"


def _format(template: str) -> ReplyFormat:
    return format_of(chat_format(template))


def _code(text: str) -> str:
    shown = text.replace("\n", "\\n").strip().replace("|", "\\|")
    return f"`{shown}`" if shown else "its JSON"


def _writes(template: str) -> bool:
    try:
        return bool(written(template, [CALLS["lines"]]))
    except (AssertionError, TypeError, ValueError):
        return False


def _output(reply_format: ReplyFormat, template: str | None) -> str:
    """Return a call as the model writes it: by the template, else by the format's own words."""
    if template:
        return written(template, [CALLS["lines"]])
    call = json.dumps({"name": CALLS["lines"][0], "arguments": CALLS["lines"][1]})
    return {"generic": f"<tool_call>{call}</tool_call>", "granite": f"<|tool_call|>[{call}]"}[reply_format.name]


def _events(reply_format: ReplyFormat, pieces: Iterable[str]) -> list[Event]:
    reader = reply_format.reader(TOOLS, False)
    return [*(event for piece in pieces for event in reader.add(piece)), *reader.end()]


def _reads(reply_format: ReplyFormat, template: str | None) -> bool:
    reply = reply_of(_events(reply_format, pieces_in(_output(reply_format, template))))
    return [call.name for call in reply.calls] == ["run"] and not reply.content.strip()


def _streams(reply_format: ReplyFormat, template: str | None) -> str:
    """Say whether a text among the arguments comes in pieces while the model writes it."""
    letters = [each for piece in pieces_in(_output(reply_format, template)) for each in _letters(piece)]
    events = _events(reply_format, letters)
    assert joined(events)
    return "as written" if sum(isinstance(event, CallArguments) for event in events) > 10 else "whole calls"


def _letters(piece: str) -> list[str]:
    return [piece] if SPECIAL.fullmatch(piece) else list(piece)


def _holds(reply_format: ReplyFormat) -> bool:
    own = chat_format(_templates()[reply_format.name][0])
    as_text = format_of(type(own)(own.template, own.bos, own.eos, ()))
    constraints = [as_text.constraint(TOOLS, choice, True) for choice in ("auto", "required", "run")]
    byte_tokens = LLTokenizer("byte")
    return all(each and not LLMatcher(byte_tokens, LarkSource(each.source).text({})).is_error() for each in constraints)


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    before, behind = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}{table()}{END}{behind}", encoding="utf-8")
