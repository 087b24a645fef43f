"""From the bytes of tokens to text: UTF-8 that tokens cut in two, special tokens, and stop strings in pieces."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence

from services.backend.types import Mark

# Half surrogates never come out of UTF-8: each stands for a special token within a text.
_SIGNS = re.compile("([\ud800-\udfff])")
_FIRST_SIGN, _LAST_SIGN = 0xD800, 0xDFFF


class TextAssembler:
    """The text of one answer. Owned by the engine's thread.

    A stop string is found in plain text, and so is one that names special tokens where the model has written these: no
    match begins or ends within a special token, unless that is written as plain text.
    """

    def __init__(self, stop: Sequence[str], marks: bool = False, keeps_stop: bool = False) -> None:
        """`marks`: special tokens are given as `Mark`; else they are left out, but for those whose bytes are text.

        `keeps_stop`: the stop string that has come is part of the text.
        """
        self._keeps_stop = keeps_stop
        self._stop = tuple(stop)
        self._forms = {each: each for each in stop}
        """What is searched for, and the stop string that each stands for."""
        self._gives_marks = marks
        self._signs: dict[Mark, str] = {}
        """Of each special token that has come, the character that stands for it."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""
        self.stopped = False
        """True if a stop string has come; the text ends before it, or with it."""
        self.stop_string = ""
        """The stop string that has come; "": none."""

    def add(self, piece: bytes, mark: Mark | None = None, searches: bool = True) -> list[str]:
        """Add one token's bytes; return the text that is certain by now, and special tokens as `Mark` in their places.

        `mark` is a special token's text. `searches` False: this text is not searched for stop strings, but if it is a
        special token.
        """
        if mark is None or not (self._gives_marks or self._is_in_stop(mark)):
            return self._emit(self._decoder.decode(piece), searches)
        if not self._gives_marks and piece:
            # A special token that is text too is found as text, or in a thought as the token.
            return self._emit(self._decoder.decode(piece), searches or mark in self._stop)
        # Half a character before a special token stays one.
        before = self._decoder.decode(b"", final=self._gives_marks)
        return self._emit(before + self._sign(mark), searches or mark in self._stop)

    def flush(self) -> list[str]:
        """Return the rest of the text, once no more tokens come."""
        pieces = self._emit(self._decoder.decode(b"", final=True), True) + self._pieces(self._pending)
        self._pending = ""
        return pieces

    def _emit(self, new: str, searches: bool) -> list[str]:
        if self.stopped:
            return []
        text = self._pending + new
        if not text:
            return []
        if not self._forms or not searches:
            self._pending = ""
            return self._pieces(text)
        found = [(at, at + len(form), stop) for form, stop in self._forms.items() if (at := text.find(form)) >= 0]
        if found:
            self.stopped, self._pending = True, ""
            start, end, self.stop_string = min(found)
            return self._pieces(text[: end if self._keeps_stop else start])
        certain = len(text) - max(_overlap(text, stop) for stop in self._forms)
        self._pending = text[certain:]
        return self._pieces(text[:certain])

    def _pieces(self, text: str) -> list[str]:
        """A text with signs as plain text and marks."""
        if not text:
            return []
        if not self._signs:
            return [text]
        marks = {sign: mark for mark, sign in self._signs.items()}
        pieces = [marks.get(part, part) for part in _SIGNS.split(text) if part]
        return pieces if self._gives_marks else [piece for piece in pieces if not isinstance(piece, Mark)]

    def _is_in_stop(self, mark: Mark) -> bool:
        return any(mark in stop for stop in self._stop)

    def _sign(self, mark: Mark) -> str:
        """The character that stands for a special token; stop strings that name it are searched for with it too."""
        if mark not in self._signs:
            taken = {*self._signs.values(), *"".join(self._stop)}
            numbers = range(_FIRST_SIGN, _LAST_SIGN + 1)
            self._signs[mark] = next(sign for sign in map(chr, numbers) if sign not in taken)
            self._forms = {each: stop for stop in self._stop for each in (stop, self._form(stop))}
        return self._signs[mark]

    def _form(self, stop: str) -> str:
        for mark in sorted(self._signs, key=len, reverse=True):
            stop = stop.replace(mark, self._signs[mark])
        return stop


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of `text` may be the beginning of `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
