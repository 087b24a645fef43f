"""Following a model's thoughts through the bytes that it writes."""

from __future__ import annotations

from copy import copy

from services.backend.types import Thoughts

Parts = tuple[tuple[bytes, bool], ...]
"""Bytes of tokens, cut where a thought begins or ends; True: these are of a thought, or of a part's header."""
Spans = tuple[tuple[int, int], ...]


class ThoughtTracker:
    """Tells thoughts from the answer: a tag may be one token, several, or a part of one, and special tokens or plain text.

    A tag that begins a thought in plain text counts only at the beginning of an answer or behind a thought: elsewhere the
    model writes about tags. The tag that begins a thought belongs to the answer around it, and the one that ends it to the
    thought. A text of `Thoughts.breaks` ends the thought too, and belongs to the answer; it neither begins nor ends within
    a special token. The bytes with which it may begin are held back until that is known.

    A tag of text between two special tokens, as gpt-oss's `<|channel|>analysis<|message|>`, is a header, and so is all text
    of such a model that is not behind the second one.
    """

    def __init__(self, thoughts: Thoughts, header_end: str = "", is_header: bool = True) -> None:
        """`header_end` is the special token at the end of a header; "" if the tag that begins a thought is none.

        `is_header` False: the prompt ends behind a header.
        """
        self.is_open = thoughts.is_open
        self.is_broken = False
        """True if the last token has ended a thought by a break."""
        self.n_behind = 0
        """The number of the last bytes that are behind the last thought, or may be, if a thought is open: those of a break,
        and otherwise of the last token alone."""
        self.n_rest = 0
        """Of a break, the number of bytes of its last token that are behind it."""
        self._header_end = header_end.encode()
        self._is_header = bool(header_end) and is_header and not thoughts.is_open
        self._begins, self._ends = thoughts.begins.encode(), thoughts.ends.encode()
        self._breaks = tuple(text.encode() for text in thoughts.breaks if text)
        self._prefixes = frozenset(text[:n] for text in self._breaks for n in range(1, len(text)))
        self._window = b""
        """The last bytes, which may be the beginning of a tag or a break."""
        self._marks: Spans = ()
        """The special tokens within the window, from where to where; the first may begin before it."""
        self._n_held = 0
        """The number of bytes at the window's end that `add` has not returned yet."""
        self._is_blank = True
        """True if nothing but white space came before the window, since the beginning or the last thought."""

    def add(self, data: bytes, is_mark: bool) -> Parts:
        """Add a token's bytes; return those that are certain by now, cut where a thought begins or ends.

        A special token (`is_mark`) is never cut.
        """
        if is_mark and self._header_end:
            self._is_header = data != self._header_end
        self.is_broken, self.n_behind = False, self._n_held if self.is_open else len(data)
        parts: list[tuple[bytes, bool]] = []
        while data:
            tag, found = self.border(data, is_mark), self._break(data, is_mark)
            if found and (tag is None or found[1] < tag):
                data = self._end_by_break(data, is_mark, found[0], found[1], parts)
            elif tag is not None:
                parts.append((self._held() + data[:tag], self.is_open or self._is_header))
                self._turn()
                data = data[tag:]
                self.n_behind = 0 if self.is_open else len(data)
            else:
                self._go_on(data, is_mark, parts)
                break
        return tuple(part for part in parts if part[0])

    def border(self, data: bytes, is_mark: bool) -> int | None:
        """Return after how many bytes of the next token a tag would begin or end a thought; None: nowhere in it."""
        tag = self._ends if self.is_open else self._begins
        if not tag:
            return None
        text = self._window + data
        at = text.find(tag)
        while at >= 0 and not self._is_tag(text, at, is_mark):
            at = text.find(tag, at + 1)
        if at < 0:
            return None
        return len(data) if is_mark else at + len(tag) - len(self._window)

    def ahead(self, data: bytes, is_mark: bool) -> ThoughtTracker:
        """Return the tracker as it would be behind the next token."""
        other = copy(self)
        other.add(data, is_mark)
        return other

    def close(self) -> Parts:
        """End the open thought, whatever the model has written; return the bytes that were held back."""
        held = self._held()
        if self.is_open:
            self._turn()
        return ((held, True),) if held else ()

    def interrupt(self) -> None:
        """Take note of a part of the answer in which no thought can begin."""
        self._window, self._marks, self._is_blank = b"", (), False

    def _held(self) -> bytes:
        """Return the bytes held back, and hold them no longer."""
        held = self._window[len(self._window) - self._n_held :]
        self._n_held = 0
        return held

    def _is_tag(self, text: bytes, at: int, is_mark: bool) -> bool:
        has_mark = is_mark or any(start >= at for start, _ in self._marks)
        return self.is_open or has_mark or (self._is_blank and not text[:at].strip())

    def _break(self, data: bytes, is_mark: bool) -> tuple[int, int] | None:
        """Return where the first break ends in the next token: its beginning and its end, from the token's beginning on."""
        if not self.is_open or not self._breaks:
            return None
        n, text, marks = len(self._window), self._window + data, self._spans(data, is_mark)
        found = []
        for each in self._breaks:
            at = text.find(each, max(n - len(each) + 1, 0))
            while at >= 0 and (_is_within(at, marks) or _is_within(at + len(each), marks)):
                at = text.find(each, at + 1)
            if at >= 0:
                found.append((at + len(each) - n, at - n))
        end, start = min(found, default=(0, 0))
        return (start, end) if found else None

    def _end_by_break(self, data: bytes, is_mark: bool, start: int, end: int, parts: list[tuple[bytes, bool]]) -> bytes:
        """End the thought in front of a break, from `start` to `end` of the next token; return the token's rest."""
        n, text, marks = len(self._window), self._window + data, self._spans(data, is_mark)
        parts.append((text[n - self._n_held : n + start], True))
        self._turn()
        broken = text[n + start : n + end]
        parts.append((broken, self._is_header))
        self._keep(broken, tuple((left - n - start, right - n - start) for left, right in marks if left >= n + start))
        self.is_broken, self.n_behind, self.n_rest = True, len(data) - start, len(data) - end
        return data[end:]

    def _go_on(self, data: bytes, is_mark: bool, parts: list[tuple[bytes, bool]]) -> None:
        """Add bytes in which no thought begins or ends."""
        text, marks = self._window + data, self._spans(data, is_mark)
        before = self._held()
        n_held = self._n_maybe(text, marks) if self.is_open and self._breaks else 0
        new = before + data
        parts.append((new[: len(new) - n_held], self.is_open or self._is_header))
        self._keep(text, marks)
        self._n_held = n_held
        if self.is_open:
            self.n_behind = n_held

    def _n_maybe(self, text: bytes, marks: Spans) -> int:
        """Return how many bytes at the end of a text may be the beginning of a break."""
        longest = max(map(len, self._breaks)) - 1
        lengths = range(min(longest, len(text)), 0, -1)
        return next((n for n in lengths if text[-n:] in self._prefixes and not _is_within(len(text) - n, marks)), 0)

    def _turn(self) -> None:
        self.is_open = not self.is_open
        self._window, self._marks, self._n_held, self._is_blank = b"", (), 0, True

    def _keep(self, text: bytes, marks: Spans) -> None:
        """Keep of the window and what follows it as much as may be the beginning of a tag or a break."""
        texts = (self._ends, *self._breaks) if self.is_open else (self._begins,)
        cut = max(len(text) - max(max(map(len, texts)) - 1, 0), 0)
        self._window = text[cut:]
        self._is_blank = self._is_blank and not text[:cut].strip()
        self._marks = tuple((start - cut, end - cut) for start, end in marks if end > cut)

    def _spans(self, data: bytes, is_mark: bool) -> Spans:
        n = len(self._window)
        return (*self._marks, (n, n + len(data))) if is_mark else self._marks


def _is_within(at: int, marks: Spans) -> bool:
    return any(start < at < end for start, end in marks)


def is_whole(data: bytes) -> bool:
    """Return whether a text does not end within a character of UTF-8. Its last four bytes are enough."""
    for n in range(1, min(len(data), 4) + 1):
        byte = data[-n]
        if byte >= 0xC0:
            return n >= (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4)
        if byte < 0x80:
            return True
    return True
