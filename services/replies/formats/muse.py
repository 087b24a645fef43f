"""Muse Glimmer: messages to recipients, of which tools get calls in tags.

    <|start|>assistant to=self<|message|>a thought<|eom|>
    <|start|>assistant to=get_weather<|message|><atem:function_calls>
    <atem:invoke name="get_weather">
    <atem:parameter name="city">Paris</atem:parameter>
    </atem:invoke>
    </atem:function_calls><|eom|>
    <|start|>assistant to=user<|message|>the answer<|eot|>

The prompt ends with `<|start|>assistant`. Only a message to a tool holds a call: tags in an answer are part of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from services.backend.types import ChatFormat, Constraint
from services.replies.events import Content, Reasoning
from services.replies.format import ReplyFormat
from services.replies.formats.invoke import invoke_tags
from services.replies.grammar import Lark, any_of
from services.replies.reader import FormatReader, Plan, Reader
from services.replies.source import Parsing
from services.replies.syntax import ThoughtTags
from services.replies.toolset import Toolset

_START, _MESSAGE, _EOM, _EOT = "<|start|>assistant", "<|message|>", "<|eom|>", "<|eot|>"
_ENDS = (_EOM, _EOT, _START)
_TAGS = invoke_tags("atem:function_calls", "atem:")
_HEADER = re.compile(r"\s*to=(\S+)\s*")
_SELF = f" to=self{_MESSAGE}"


def muse(chat_format: ChatFormat) -> ReplyFormat | None:
    """Return the format of templates with Muse's tags."""
    template = chat_format.template + chat_format.tool_template
    if "<atem:function_calls>" not in template:
        return None
    thoughts = ThoughtTags(_SELF, _EOM, after=f"{_START} to=user{_MESSAGE}")
    wraps = ((f" to=user{_MESSAGE}", ""),)
    return MuseFormat("muse", thoughts, syntaxes=(_TAGS,), wraps=wraps, tokens=frozenset(chat_format.specials))


@dataclass(frozen=True)
class MuseFormat(ReplyFormat):
    """The format of messages with recipients."""

    @override
    def reader(self, tools: Sequence[Mapping[str, Any]], is_thinking: bool, continues: bool = False) -> Reader:
        skipped = (_START, _MESSAGE, _EOM, _EOT)
        return MuseReader(
            Plan(self.thoughts, self.syntaxes if tools else (), skipped=skipped), tools, is_thinking, continues
        )

    @override
    def constraint(self, tools: Sequence[Mapping[str, Any]], choice: str, parallel: bool) -> Constraint | None:
        wanted = Toolset.of(tools).only(choice)
        if not wanted.schemas:
            return None
        lark = Lark(self.tokens)
        each = []
        for name, schema in wanted.schemas.items():
            call = _TAGS.grammar(lark, Toolset({name: schema}), many=False)
            each.append(f"{lark.text(f' to={name}{_MESSAGE}{_TAGS.trigger}')} {call}")
        calls = lark.rule("call", any_of(each))
        if choice == "auto":
            # In an answer tags are its own: the recipient says what it is.
            headers = tuple(f" to={name}{_MESSAGE}{_TAGS.trigger}" for name in wanted.schemas)
            return Constraint("lark", lark.source(_TAGS.grammar(lark, wanted, parallel)), headers, once=not parallel)
        more = f" ({lark.text(_EOM + _START)} {calls})*" if parallel else ""
        return Constraint("lark", lark.source(calls + more))


class MuseReader(FormatReader):
    """Reads messages one by one: thoughts, answers, calls."""

    @override
    def read(self) -> Parsing[None]:
        source = self.source
        if self.is_thinking:
            yield from self._message(is_thought=True)
        elif self.continues:
            yield from self._message(is_thought=False)
        while not source.is_over:
            if (yield from source.follows(*_ENDS)):
                continue
            header, found = yield from self._header()
            recipient = _HEADER.fullmatch(header) if found else None
            if not recipient:
                yield from self.say(header + found)
                yield from self._message(is_thought=False)
            elif recipient[1] in self.calls.tools.schemas and self.syntaxes:
                yield from self._tool_message()
            else:
                yield from self._message(is_thought=recipient[1] == "self")
        if self.space and not self.trims:
            yield Content("".join(self.space))

    def _header(self) -> Parsing[tuple[str, str]]:
        """Read up to a message's beginning; return the header and what was found behind it."""
        header = ""
        while True:
            text, found = yield from self.source.find((_MESSAGE, "\n", *_ENDS))
            header += text
            if found == _MESSAGE or not text or len(header) > 200:
                return header, found if found == _MESSAGE else ""

    def _message(self, is_thought: bool) -> Parsing[None]:
        """Read a message's text, and its end."""
        is_first = self._has_thought
        space = ""
        while True:
            text, _ = yield from self.source.find(_ENDS)
            if not text:
                break
            if not is_thought:
                yield from self.say(text)
                continue
            kept = text.rstrip()
            if kept:
                yield Reasoning(f"\n\n{kept.lstrip()}" if is_first else space + kept)
                is_first, space, self._has_thought = False, "", True
            space += text[len(kept) :]
        if is_thought:
            self.leave_out_space()

    def _tool_message(self) -> Parsing[None]:
        yield from self.source.space()
        opener = yield from self.source.follows(*_TAGS.openers)
        if opener:
            yield from self.call(self.syntaxes[opener], opener)
        yield from self._message(is_thought=False)
