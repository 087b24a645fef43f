"""Following a model's thoughts through the bytes that it writes."""

from __future__ import annotations

from services.backend.types import Thoughts

Parts = tuple[tuple[bytes, bool], ...]
"""The bytes of one token, cut where a thought begins or ends; True: these are of a thought, or of a part's header."""


class ThoughtTracker:
    """Tells thoughts from the answer: a tag may be one token, several, or a part of one, and special tokens or plain text.

    A tag that begins a thought in plain text counts only at the beginning of an answer or behind a thought: elsewhere the
    model writes about tags. The tag that begins a thought belongs to the answer around it, and the one that ends it to the
    thought.

    A tag of text between two special tokens, as gpt-oss's `<|channel|>analysis<|message|>`, is a header, and so is all text
    of such a model that is not behind the second one.
    """

    def __init__(self, thoughts: Thoughts, header_end: str = "", is_header: bool = True) -> None:
        """`header_end` is the special token at the end of a header; "" if the tag that begins a thought is none.

        `is_header` False: the prompt ends behind a header.
        """
        self.is_open = thoughts.is_open
        self._header_end = header_end.encode()
        self._is_header = bool(header_end) and is_header and not thoughts.is_open
        self._begins, self._ends = thoughts.begins.encode(), thoughts.ends.encode()
        self._window = b""
        """The last bytes, which may be the beginning of a tag."""
        self._since_mark = -1
        """The number of bytes from the last special token's beginning on; -1: none is within the window."""
        self._is_blank = True
        """True if nothing but white space came before the window, since the beginning or the last thought."""

    def add(self, data: bytes, is_mark: bool) -> Parts:
        """Add a token's bytes; return them cut where a thought begins or ends. A special token (`is_mark`) is never cut."""
        if is_mark and self._header_end:
            self._is_header = data != self._header_end
        parts = []
        while data:
            n = self.border(data, is_mark)
            part = data if n is None else data[:n]
            parts.append((part, self.is_open or self._is_header))
            if n is None:
                self._keep(part, is_mark)
            else:
                self._turn()
            data = data[len(part) :]
        return tuple(parts)

    def border(self, data: bytes, is_mark: bool) -> int | None:
        """Return after how many bytes of the next token a thought would begin or end; None: nowhere in it."""
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

    def close(self) -> None:
        """End the open thought, whatever the model has written."""
        if self.is_open:
            self._turn()

    def interrupt(self) -> None:
        """Take note of a part of the answer in which no thought can begin."""
        self._window, self._since_mark, self._is_blank = b"", -1, False

    def _is_tag(self, text: bytes, at: int, is_mark: bool) -> bool:
        has_mark = is_mark or (self._since_mark >= 0 and len(self._window) - self._since_mark >= at)
        return self.is_open or has_mark or (self._is_blank and not text[:at].strip())

    def _turn(self) -> None:
        self.is_open = not self.is_open
        self._window, self._since_mark, self._is_blank = b"", -1, True

    def _keep(self, data: bytes, is_mark: bool) -> None:
        text = self._window + data
        n_kept = max(len(self._ends if self.is_open else self._begins) - 1, 0)
        cut = max(len(text) - n_kept, 0)
        self._window = text[cut:]
        self._is_blank = self._is_blank and not text[:cut].strip()
        if is_mark:
            self._since_mark = len(data)
        elif self._since_mark >= 0:
            self._since_mark += len(data)
        if self._since_mark > len(self._window):
            self._since_mark = -1


def is_whole(data: bytes) -> bool:
    """Return whether a text does not end within a character of UTF-8. Its last four bytes are enough."""
    for n in range(1, min(len(data), 4) + 1):
        byte = data[-n]
        if byte >= 0xC0:
            return n >= (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4)
        if byte < 0x80:
            return True
    return True
