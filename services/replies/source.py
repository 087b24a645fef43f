"""A model's reply as far as it has come, and the steps with which a family's reader goes through it.

The steps are generators: they yield None where they need more of the reply, and end with what they found, so that a reader
is straight code over a text that is not there yet (`text, marker = yield from source.find(markers)`). A reader yields
events between them.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from functools import lru_cache
from typing import TypeVar

from services.backend.types import Mark
from services.replies.events import Event
from services.replies.json_scan import JsonScan, LenientScan

T = TypeVar("T")
# Yields None where more text is needed; its value is what it read.
Waiting = Generator[None, None, T]
# Yields events too.
Parsing = Generator[Event | None, None, T]

_SPACE = re.compile(r"\s+")
# Consumed text is thrown away when there is so much of it.
_KEPT = 4096


class Unreadable(Exception):
    """What was written is no call: the text since `Source.record` is content."""


class Cut(Unreadable):
    """The reply ended within a call."""


class Source:
    """The text of a reply that no reader has consumed yet. Owned by the thread that reads the reply.

    Of the marks, those in `known` are kept as their text, where readers look for them; others are no part of a reply.
    """

    def __init__(self, known: Iterable[str]) -> None:
        self._known = "\n".join(known)
        self._text = ""
        self._at = 0
        self._dropped = 0
        self._marks: set[int] = set()
        self._record: list[str] | None = None
        self.is_closed = False
        self.is_cut = False
        """True if the model does not end the reply itself, as at `max_tokens`."""

    def add(self, piece: str | Mark, keeps_marks: bool = False) -> None:
        """Add the next piece of the reply. `keeps_marks`: special tokens without a meaning here are text, not left out."""
        if self._at > _KEPT:
            self._text, self._dropped, self._at = self._text[self._at :], self._dropped + self._at, 0
            self._marks = {mark for mark in self._marks if mark >= self._dropped}
        if isinstance(piece, Mark):
            if piece not in self._known and not keeps_marks:
                return
            self._marks.add(self._dropped + len(self._text))
        self._text += piece

    def close(self) -> None:
        """Say that the reply is over."""
        self.is_closed = True

    @property
    def is_over(self) -> bool:
        """True if everything is consumed, and nothing more comes."""
        return self.is_closed and self._at == len(self._text)

    def record(self, before: str = "") -> None:
        """Keep what is consumed from here on, and `before` in front of it, for `recorded`."""
        self._record = [before]

    def recorded(self) -> str:
        """Return what was consumed since `record`, and stop keeping it."""
        text, self._record = "".join(self._record or ()), None
        return text

    def recorded_ends(self, text: str) -> bool:
        """Return whether what was consumed last, in one step, is this text."""
        return self._record is not None and self._record[-1:] == [text]

    def take(self, length: int) -> str:
        """Consume so many characters, which must be there, and return them."""
        text = self._text[self._at : self._at + length]
        self._at += length
        if self._record is not None:
            self._record.append(text)
        return text

    @property
    def left(self) -> str:
        """The text that has come and is not consumed."""
        return self._text[self._at :]

    def put_back(self, text: str) -> None:
        """Take back what was consumed last, and what `record` was told to keep before it."""
        self._at -= len(text)
        self._record = [] if self._record is not None else None

    def find(self, markers: Iterable[str]) -> Waiting[tuple[str, str]]:
        """Consume text that is surely before any marker, or the marker itself; return (text, "") or ("", marker).

        ("", "") is the end of the reply. Of markers that begin alike the longest counts.
        """
        text, marker, _ = yield from self.find_mark(markers)
        return text, marker

    def find_mark(self, markers: Iterable[str]) -> Waiting[tuple[str, str, bool]]:
        """Do as `find`, and also return whether the marker came as a Mark."""
        finder = _finder(tuple(markers))
        while True:
            start, length = finder.find(self._text, self._at, self.is_closed)
            if start > self._at:
                return self.take(start - self._at), "", False
            if length:
                is_mark = self._dropped + self._at in self._marks
                return "", self.take(length), is_mark
            if self.is_closed:
                return "", "", False
            yield None

    def text_before(self, *markers: str) -> Waiting[tuple[str, str]]:
        """Consume all text up to a marker and the marker; return both. Raises Cut if no marker comes.

        Nothing is given before all of it is there: for values that have to be whole.
        """
        pieces: list[str] = []
        while True:
            text, marker = yield from self.find(markers)
            if marker:
                return "".join(pieces), marker
            if not text:
                raise Cut
            pieces.append(text)

    def peek(self) -> Waiting[str]:
        """Return the next character without consuming it; "" at the end of the reply."""
        while self._at == len(self._text):
            if self.is_closed:
                return ""
            yield None
        return self._text[self._at]

    def space(self) -> Waiting[str]:
        """Consume white space, and return it."""
        pieces = []
        while True:
            if found := _SPACE.match(self._text, self._at):
                pieces.append(self.take(found.end() - self._at))
            if not (yield from self.peek()).isspace():
                return "".join(pieces)

    def follows(self, *texts: str) -> Waiting[str]:
        """Consume the longest of `texts` that comes next, and return it; "" if none of them does."""
        for text in sorted(texts, key=len, reverse=True):
            while self._may_begin(text) and not self.is_closed:
                yield None
            if self._text.startswith(text, self._at):
                return self.take(len(text))
        return ""

    def closing(self, *texts: str) -> Waiting[str]:
        """Consume one of `texts` if it comes next, or its beginning if the reply ends within it; return it, or ""."""
        found = yield from self.follows(*texts)
        if not found and not self.is_over and any(map(self._may_begin, texts)):
            return self.take(len(self._text) - self._at)
        return found

    def expect(self, *texts: str) -> Waiting[str]:
        """Consume one of `texts`, and return it. Raises Unreadable if something else comes, and Cut at the reply's end."""
        found = yield from self.follows(*texts)
        if found:
            return found
        raise Cut if any(map(self._may_begin, texts)) else Unreadable

    def _may_begin(self, text: str) -> bool:
        """Return whether all of what is left is the beginning of a text, which is longer."""
        left = len(self._text) - self._at
        return left < len(text) and text.startswith(self._text[self._at :])

    def json(self, scan: JsonScan) -> Waiting[str]:
        """Consume the next piece of a JSON value, and return it.

        Raises Unreadable where it is no JSON, and Cut if the reply ends within it.
        """
        while True:
            text, end = scan.read(self._text, self._at, self.is_closed)
            self.take(end - self._at)
            if text or scan.is_done:
                return text
            if scan.is_wrong:
                raise Unreadable
            if self.is_closed:
                raise Cut
            yield None

    def whole_json(self) -> Waiting[str]:
        """Consume a JSON value, and return all of it."""
        scan, pieces = LenientScan(), []
        while not scan.is_done:
            pieces.append((yield from self.json(scan)))
        return "".join(pieces)


class _Finder:
    """Finds markers in a text that grows."""

    def __init__(self, markers: tuple[str, ...]) -> None:
        self._markers = sorted({marker for marker in markers if marker}, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, self._markers)) or r"(?!)")
        self._prefixes = frozenset(marker[:n] for marker in self._markers for n in range(1, len(marker)))
        self._longest = max(map(len, self._markers), default=0)

    def find(self, text: str, at: int, is_last: bool) -> tuple[int, int]:
        """Return where a marker begins or may begin, from `at` on, and its length; 0 if it is not whole."""
        found = self._pattern.search(text, at)
        if is_last:
            return (found.start(), found.end() - found.start()) if found else (len(text), 0)
        # A marker that is whole counts only if no longer one may still come in its place, or before it.
        first = max(at, len(text) - self._longest + 1)
        stop = found.start() + 1 if found else len(text)
        begun = next((n for n in range(first, stop) if text[n:] in self._prefixes), None)
        if begun is not None:
            return begun, 0
        return (found.start(), found.end() - found.start()) if found else (len(text), 0)


@lru_cache(maxsize=256)
def _finder(markers: tuple[str, ...]) -> _Finder:
    return _Finder(markers)
