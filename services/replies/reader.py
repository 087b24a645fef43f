"""Reads a model's reply while it comes, and gives its events as early as is safe."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from typing_extensions import override

from services.backend.types import Mark
from services.replies.calls import Calls
from services.replies.events import CallBegun, Content, Event, Reasoning, joined
from services.replies.source import Cut, Parsing, Source, Unreadable
from services.replies.syntax import CallSyntax, ThoughtTags
from services.replies.toolset import Toolset


class Reader(Protocol):
    """Reads one reply. Its events, joined, are the same however the reply is split into pieces."""

    def add(self, piece: str | Mark) -> list[Event]:
        """Add the next piece; return the events that are sure by now."""

    def cut(self) -> None:
        """Take note, before the end, that the model does not end the reply itself, as at `max_tokens`."""
        return

    def end(self) -> list[Event]:
        """Return the last events, at the end of the reply."""


@dataclass(frozen=True)
class Plan:
    """What a reader looks for: ReplyFormat says what each is."""

    thoughts: ThoughtTags | None
    syntaxes: tuple[CallSyntax, ...]
    wraps: tuple[tuple[str, str], ...] = ()
    skipped: tuple[str, ...] = ()
    breaks: tuple[str, ...] = ()

    def breaks_among(self, openers: Container[str]) -> tuple[str, ...]:
        """Return the texts that end a thought where calls with these openers are read."""
        return tuple(text for text in self.breaks if text in openers or text in self.skipped)

    def known(self) -> list[str]:
        """Return the texts of the marks that the reader needs."""
        tags = [self.thoughts.begins, self.thoughts.ends] if self.thoughts else []
        tags += [*(tag for pair in self.wraps for tag in pair), *self.skipped]
        return tags + [text for syntax in self.syntaxes for text in (*syntax.openers, *syntax.markers)]


class SteppedReader(Reader):
    """A reader whose `read` is a generator over the source, run as far as the pieces go."""

    def __init__(self, marks: Iterable[str], tools: Sequence[Mapping[str, Any]]) -> None:
        """`marks` are the texts of the marks that `read` needs; `tools` are those that may be called."""
        self.source = Source(marks)
        self.calls = Calls(Toolset.of(tools), self.source)
        self._steps = self.read()

    def read(self) -> Parsing[None]:
        """Read the whole reply; yield its events."""
        raise NotImplementedError

    @override
    def add(self, piece: str | Mark) -> list[Event]:
        self.source.add(piece, keeps_marks=self.calls.is_open or self.calls.holds)
        return self._run()

    @override
    def cut(self) -> None:
        self.source.is_cut = True

    @override
    def end(self) -> list[Event]:
        self.source.close()
        return self._run()

    def _run(self) -> list[Event]:
        events = []
        while (event := next(self._steps, None)) is not None:
            events.append(event)
        return joined(events)


class FormatReader(SteppedReader):
    """Reads replies of thoughts, text and calls in their families' syntaxes. Owned by the thread that streams the reply.

    White space around thoughts and calls is no part of the content, and the content is as written otherwise.
    """

    def __init__(self, plan: Plan, tools: Sequence[Mapping[str, Any]], is_thinking: bool, continues: bool = False) -> None:
        super().__init__(plan.known(), tools)
        self._plan = plan
        self.syntaxes = {opener: each for each in plan.syntaxes for opener in each.openers} if tools else {}
        self._wraps = dict(plan.wraps)
        # The tag that ends the content, once its beginning has come.
        self._wrap_end = ""
        self.is_thinking = is_thinking
        self.continues = continues
        # Nothing but white space since the beginning, a thought or a call.
        self._is_fresh = not continues
        # White space at the end of the content, kept until it is known what follows, and whether it is left out there.
        self.space: list[str] = []
        self.trims = False
        self._has_thought = False

    @override
    def read(self) -> Parsing[None]:
        source = self.source
        if self.is_thinking and self._plan.thoughts:
            if not self.continues:
                yield from source.space()
                yield from source.follows(self._plan.thoughts.begins)
            yield from self._thought(self._plan.thoughts, self.continues)
        while not source.is_over:
            text, marker, is_mark = yield from source.find_mark(self._markers())
            if text or not marker:
                yield from self.say(text)
            else:
                yield from self._marker(marker, is_mark)
        if self.space and not self.trims:
            yield Content("".join(self.space))

    def _markers(self) -> tuple[str, ...]:
        """Return what is looked for at this point of the reply."""
        thoughts = self._plan.thoughts
        tags = (thoughts.begins, thoughts.ends) if thoughts else ()
        openers = (opener for opener, syntax in self.syntaxes.items() if self._is_fresh or not syntax.only_first)
        return (*tags, *self._wraps, *self._wraps.values(), *self._plan.skipped, *openers)

    def _marker(self, marker: str, is_mark: bool) -> Parsing[None]:
        """Read what begins with a marker. One in a wrong place is content, if the model spelled it as text."""
        thoughts = self._plan.thoughts
        if thoughts and marker == thoughts.begins and (is_mark or self._is_fresh):
            yield from self._thought(thoughts)
        elif marker in self.syntaxes:
            unread, _ = yield from self._read_call(self.syntaxes[marker], marker, is_mark)
            yield from self.say(unread)
        elif marker in self._wraps and (is_mark or self._is_fresh):
            self._wrap_end = self._wraps[marker]
        elif marker == self._wrap_end:
            self._wrap_end = ""
        elif not is_mark and marker not in self._plan.skipped:
            yield from self.say(marker)

    def _thought(self, thoughts: ThoughtTags, is_begun: bool = False) -> Parsing[None]:
        """Read a thought from behind its beginning; `is_begun`: some of it was written before."""
        space: list[str] = []
        breaks = self._plan.breaks_among(self.syntaxes)
        while True:
            text, marker = yield from self.source.find((thoughts.ends, *breaks))
            if marker in self.syntaxes:
                text, is_call = yield from self._read_call(self.syntaxes[marker], marker)
                if is_call:
                    yield from self.say(text)
                    return
            if not text:
                break
            if kept := text.rstrip():
                before = "".join(space) if is_begun else "\n\n" if self._has_thought else ""
                yield Reasoning(before + (kept if is_begun else kept.lstrip()))
                space, is_begun, self._has_thought = [], True, True
            space.append(text[len(kept) :])
        self.leave_out_space()

    def call(self, syntax: CallSyntax, opener: str) -> Parsing[None]:
        """Read a call, or several, from behind the opener; what cannot be read is content."""
        unread, _ = yield from self._read_call(syntax, opener)
        yield from self.say(unread)

    def _read_call(self, syntax: CallSyntax, opener: str, is_mark: bool = False) -> Parsing[tuple[str, bool]]:
        """Read a call, or several, from behind the opener; return what cannot be read, and whether a call was.

        `is_mark`: the opener is a special token.
        """
        source, calls = self.source, self.calls
        source.record(opener)
        is_begun = False
        try:
            for event in syntax.read(source, calls, opener):
                if isinstance(event, Content):
                    yield from self.say(event.text)
                    continue
                if isinstance(event, CallBegun):
                    is_begun = True
                    self.leave_out_space()
                yield event
        except Unreadable as error:
            unread = source.recorded()
            # What may be a call that `max_tokens` cut is no text of the answer, unlike a tag that people write about.
            is_more = is_mark or (unread + source.left).strip() != opener
            is_call = source.is_cut and not syntax.only_first and is_more
            if (source.is_closed and is_call) or (isinstance(error, Cut) and calls.is_open):
                unread = ""
                source.take(len(source.left))
        else:
            unread = "" if is_begun else source.recorded()
        calls.is_open = calls.holds = False
        return unread, is_begun

    def leave_out_space(self) -> None:
        """Drop white space that is kept, and what follows of it."""
        self.space, self.trims, self._is_fresh = [], True, True

    def say(self, text: str) -> Parsing[None]:
        """Give text as content; white space at its end is kept until it is known what follows."""
        kept = text.rstrip()
        if kept:
            said = kept.lstrip() if self.trims else "".join(self.space) + kept
            self.space, self.trims, self._is_fresh = [], False, False
            yield Content(said)
        if len(kept) < len(text):
            self.space.append(text[len(kept) :])
