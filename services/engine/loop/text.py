"""From the bytes of tokens to text: UTF-8 that tokens cut in two, and stop strings that arrive in pieces."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextAssembler:
    """The text of one answer. Owned by the engine's thread."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""
        self.stopped = False
        """True if a stop string has come; the text ends before it."""

    def add(self, piece: bytes) -> str:
        """Add one token's bytes; return the text that is certain by now, which may be empty."""
        return self._emit(self._decoder.decode(piece))

    def flush(self) -> str:
        """Return the rest of the text, once no more tokens come."""
        text = self._emit(self._decoder.decode(b"", final=True)) + self._pending
        self._pending = ""
        return text

    def _emit(self, new: str) -> str:
        if self.stopped:
            return ""
        text = self._pending + new
        found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._pending = True, ""
            return text[: min(found)]
        certain = len(text) - max((_overlap(text, stop) for stop in self._stop), default=0)
        self._pending = text[certain:]
        return text[:certain]


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of `text` may be the beginning of `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
