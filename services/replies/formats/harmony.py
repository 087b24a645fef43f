"""gpt-oss's harmony: messages in channels, each with a header (developers.openai.com/cookbook/articles/openai-harmony).

    <|channel|>analysis<|message|>…<|end|>
    <|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Paris"}<|call|>

Analysis is thought; commentary and final are content; a message to a function is a call. The prompt ends with
`<|start|>assistant`, so that the first message has only the rest of its header.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from services.backend.types import ChatFormat, Constraint
from services.replies.events import Content, Event, Reasoning
from services.replies.format import ReplyFormat
from services.replies.grammar import Lark, any_of
from services.replies.reader import Reader, SteppedReader
from services.replies.source import Cut, Parsing, Unreadable, Waiting
from services.replies.syntax import Begin, CallSyntax, ThoughtTags
from services.replies.toolset import Toolset

_START, _CHANNEL, _CONSTRAIN, _MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
_END, _CALL, _RETURN = "<|end|>", "<|call|>", "<|return|>"
_ENDINGS = (_END, _CALL, _RETURN)
_THOUGHTS = ThoughtTags(f"{_CHANNEL}analysis{_MESSAGE}", _END, after=f"{_START}assistant{_CHANNEL}final{_MESSAGE}")
_HEADER_BEGINS = (_START, _CHANNEL, _CONSTRAIN, _MESSAGE, "to=")
_HEADER_LETTER = re.compile(r"[\w.:=/ -]")
_LONGEST_HEADER = 256


def _beginning(*words: str) -> str:
    """Return the expression for any of the words, or its beginning."""
    return "(?:" + "|".join(sorted({word[:n] for word in words for n in range(len(word) + 1)}, key=len, reverse=True)) + ")"


_TO = r"(?:\s*(?:t|to|to=[^\s<]*))?\s*"
_CUT_HEADER = re.compile(
    rf"\s*(?:{re.escape(_START)}{_beginning('assistant')})?{_TO}"
    rf"(?:{re.escape(_CHANNEL)}{_beginning('analysis', 'commentary', 'final')}{_TO})*"
    rf"(?:{re.escape(_CONSTRAIN)})?{_beginning('json', 'code')}\s*"
)
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_CHANNEL_NAME = re.compile(re.escape(_CHANNEL) + r"\s*([a-z]+)")
_NAMESPACE = "functions."


class HarmonyReader(SteppedReader):
    """Reads a reply of several messages. Owned by the thread that streams the reply."""

    def __init__(self, tools: Sequence[Mapping[str, Any]], is_thinking: bool, continues: bool) -> None:
        super().__init__((_START, _CHANNEL, _CONSTRAIN, _MESSAGE, *_ENDINGS), tools)
        self._is_thinking = is_thinking
        self._continues = continues
        self._said: set[type[Event]] = set()

    @override
    def read(self) -> Parsing[None]:
        source = self.source
        if self._is_thinking:
            yield from source.follows(_THOUGHTS.begins)
            yield from self._text(Reasoning)
        elif self._continues:
            yield from self._text(Content)
        while not source.is_over:
            source.record()
            yield from source.space()
            if source.is_over and self._said:
                return
            if (yield from source.follows(*_HEADER_BEGINS)):
                yield from self._message()
            elif not (yield from source.follows(*_ENDINGS)):
                # Without a header it is content, as a model writes that was asked for JSON and nothing else.
                yield from self._text(Content, source.recorded())

    def _message(self) -> Parsing[None]:
        """Read a message from within its header."""
        is_header = yield from self._header()
        header = self.source.recorded()
        if not is_header:
            # Where the reply was cut within a header, there is no text yet.
            if not self.source.is_over or not _CUT_HEADER.fullmatch(header):
                yield from self._text(Content, header)
            return
        # A header that was begun anew counts from there.
        recipients, channels = _RECIPIENT.findall(header), _CHANNEL_NAME.findall(header)
        if recipients and recipients[-1] != "assistant":
            self.source.record(header)
            yield from self._call(recipients[-1].removeprefix(_NAMESPACE))
        else:
            yield from self._text(Reasoning if channels and channels[-1] == "analysis" else Content)

    def _header(self) -> Waiting[bool]:
        """Read a header to its end; return False if it turns out to be none."""
        source = self.source
        for _ in range(_LONGEST_HEADER):
            marker = "" if source.recorded_ends(_MESSAGE) else (yield from source.follows(*_HEADER_BEGINS[:-1]))
            if source.recorded_ends(_MESSAGE):
                return True
            if not marker:
                if not _HEADER_LETTER.fullmatch((yield from source.peek())):
                    return False
                source.take(1)
        return False

    def _call(self, name: str) -> Parsing[None]:
        """Read a message to a function; one to anything else is content as it is written."""
        source, calls = self.source, self.calls
        try:
            yield from source.space()
            yield calls.begin(name)
            if (yield from source.follows(*_ENDINGS)):
                yield calls.arguments("{}")
                calls.end()
                return
            yield from calls.json_arguments()
        except Unreadable as error:
            is_cut = isinstance(error, Cut) and calls.is_open
            calls.is_open = False
            if not is_cut:
                yield from self._text(Content, source.recorded())
            return
        yield from source.space()
        if not (yield from source.closing(*_ENDINGS)) and not source.is_over:
            yield from self._text(Content)

    def _text(self, kind: type[Reasoning] | type[Content], before: str = "") -> Parsing[None]:
        """Read a message's text to its end; `before` is its beginning. Messages of one kind have an empty line between."""
        if before:
            yield from self._say(kind, before)
        while True:
            text, marker = yield from self.source.find((_START, _CHANNEL, *_ENDINGS))
            if not text:
                break
            if not before:
                before = text
                yield from self._say(kind, text)
            else:
                yield kind(text)
        if marker in (_START, _CHANNEL):
            self.source.put_back(marker)

    def _say(self, kind: type[Reasoning] | type[Content], text: str) -> Parsing[None]:
        """Give the beginning of a message."""
        yield kind(("\n\n" if kind in self._said else "") + text)
        self._said.add(kind)


@dataclass(frozen=True)
class HarmonyCalls(CallSyntax):
    """The grammar of calls; HarmonyReader reads them. They begin with the recipient, wherever in the header it stands."""

    @property
    @override
    def trigger(self) -> str:
        return f" to={_NAMESPACE}"

    @override
    def begins(self, tools: Toolset, many: bool) -> Iterator[Begin]:
        # Only in a header: an answer may speak of recipients.
        headers = (f"{_START}assistant", f"{_CHANNEL}commentary", f"{_CHANNEL}analysis")
        yield Begin(tuple(header + self.trigger for header in headers), lambda lark: self.grammar(lark, tools, many))

    @override
    def grammar(self, lark: Lark, tools: Toolset, many: bool, opener: str = "") -> str:
        channel = f'({lark.text(_CHANNEL)} ("commentary" | "analysis"))?'
        form = f'(" "? {lark.text(_CONSTRAIN)} "json" | " json")?'
        behind = f"{channel} {form} {lark.text(_MESSAGE)}"
        # The token behind it ends the answer.
        return any_of(f"{lark.text(name)} {behind} {lark.json(schema, name)}" for name, schema in tools.schemas.items())


class HarmonyFormat(ReplyFormat):
    """The format of gpt-oss."""

    @override
    def reader(self, tools: Sequence[Mapping[str, Any]], is_thinking: bool, continues: bool = False) -> Reader:
        return HarmonyReader(tools, is_thinking, continues)

    @override
    def framed(self, constraint: Constraint) -> Constraint:
        if constraint.kind not in ("json_schema", "regex") or constraint.triggers:
            return constraint
        lark = Lark(self.tokens)
        return Constraint(
            "lark", lark.source(f"{_opening(lark)} {lark.text(f'{_CHANNEL}final')} {_body(lark, constraint)}")
        )

    @override
    def constraint(self, tools: Sequence[Mapping[str, Any]], choice: str, parallel: bool) -> Constraint | None:
        wanted = Toolset.of(tools).only(choice)
        if choice == "auto" or not wanted.schemas:
            return super().constraint(tools, choice, parallel)
        lark = Lark(self.tokens)
        call = self.syntaxes[0].grammar(lark, wanted, parallel)
        # As the template writes earlier calls, the recipient may come in front of the channel.
        header = any_of(lark.text(f"{before} to={_NAMESPACE}") for before in (f"{_CHANNEL}commentary", ""))
        return Constraint("lark", lark.source(f"{_opening(lark)} {header} {call}"))


def _opening(lark: Lark) -> str:
    """Return the expression for the beginning of a message that follows another."""
    return f"({lark.text(f'{_START}assistant')})?"


def _body(lark: Lark, constraint: Constraint) -> str:
    form = f'(" "? {lark.text(_CONSTRAIN)} "json")?' if constraint.kind == "json_schema" else ""
    return f"{form} {lark.text(_MESSAGE)} {lark.content(constraint)}"


def harmony(chat_format: ChatFormat) -> ReplyFormat | None:
    """Return the format of templates with harmony's channels."""
    text = chat_format.template + chat_format.tool_template
    if f"{_CHANNEL}analysis{_MESSAGE}" not in text and f"{_CHANNEL}final{_MESSAGE}" not in text:
        return None
    return HarmonyFormat(
        "harmony",
        _THOUGHTS,
        syntaxes=(HarmonyCalls(),),
        skipped=(_START, _CHANNEL),
        breaks=(_START, _CHANNEL),
        tokens=frozenset(chat_format.specials),
    )
