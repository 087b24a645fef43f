"""What a reader finds in a model's reply: events in their order, and the reply that they add up to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from services.replies.json_scan import JsonScan


@dataclass(frozen=True)
class Reasoning:
    """A piece of the model's thoughts."""

    text: str


@dataclass(frozen=True)
class Content:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True)
class CallBegun:
    """The beginning of a tool call. `index` counts the reply's calls from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class CallArguments:
    """A piece of a call's arguments, which are JSON when all pieces are joined."""

    index: int
    text: str


Event = Reasoning | Content | CallBegun | CallArguments


@dataclass(frozen=True)
class ToolCall:
    """A tool that the model wants called. `arguments` are JSON, as the model wrote them."""

    name: str
    arguments: str
    id: str = ""

    def described(self) -> dict[str, Any]:
        """Return the call as OpenAI's API writes it."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True)
class Reply:
    """What a model wrote, taken apart. `calls` are whole; `cut_call` is the one within which the reply ended.

    `is_broken`: the reader gave up on a call whose beginning it had given already; its text is content.
    """

    reasoning: str = ""
    content: str = ""
    calls: tuple[ToolCall, ...] = ()
    cut_call: ToolCall | None = None
    is_broken: bool = False

    @property
    def is_cut(self) -> bool:
        """True if a call was begun that is not among the whole ones: the finish reason is "length", whatever ended it."""
        return self.cut_call is not None or self.is_broken


@dataclass
class _Call:
    """A call as far as it has come. Its JSON is followed, so that its end is known without reading it again."""

    begun: CallBegun
    pieces: list[str] = field(default_factory=list)
    scan: JsonScan = field(default_factory=JsonScan)
    _unread: str = ""

    def add(self, text: str) -> None:
        self.pieces.append(text)
        unread = self._unread + text
        _, end = self.scan.read(unread, 0)
        self._unread = unread[end:]

    @property
    def is_whole(self) -> bool:
        return self.scan.is_done and not self.scan.is_wrong and not self._unread.strip()


@dataclass
class ReplyBuilder:
    """Adds up events to a reply. Owned by one thread."""

    _reasoning: list[str] = field(default_factory=list)
    _content: list[str] = field(default_factory=list)
    _calls: dict[int, _Call] = field(default_factory=dict)
    _last: Event | None = None

    def add(self, event: Event) -> None:
        """Add the next event."""
        if isinstance(event, Reasoning):
            self._reasoning.append(event.text)
        elif isinstance(event, Content):
            self._content.append(event.text)
        elif isinstance(event, CallBegun):
            self._calls[event.index] = _Call(event)
        else:
            self._calls[event.index].add(event.text)
        self._last = event

    def reply(self, was_closed: bool = False) -> Reply:
        """Return the reply so far. `was_closed`: the end was forced, and a call with which it ends counts as cut.

        A call whose arguments are no JSON is none: the reply ended within it, or the reader gave up on it and its text
        follows as content.
        """
        calls, cut, is_broken = [], None, False
        for index, each in self._calls.items():
            call = ToolCall(each.begun.name, "".join(each.pieces), each.begun.id)
            is_last = isinstance(self._last, CallBegun | CallArguments) and self._last.index == index
            if each.is_whole and not (was_closed and is_last):
                calls.append(call)
            elif is_last:
                cut = call
            else:
                is_broken = True
        return Reply("".join(self._reasoning), "".join(self._content), tuple(calls), cut, is_broken)


def joined(events: Iterable[Event]) -> list[Event]:
    """Return events with neighbours of one kind joined: the same for a text however it was split."""
    found: list[Event] = []
    for event in events:
        last = found[-1] if found else None
        if isinstance(event, Reasoning) and isinstance(last, Reasoning):
            found[-1] = Reasoning(last.text + event.text)
        elif isinstance(event, Content) and isinstance(last, Content):
            found[-1] = Content(last.text + event.text)
        elif isinstance(event, CallArguments) and isinstance(last, CallArguments) and last.index == event.index:
            found[-1] = CallArguments(last.index, last.text + event.text)
        else:
            found.append(event)
    return found
