"""The offsets of tokens in a text, counted in characters."""

from __future__ import annotations


class Offsets:
    """Finds where each token of a text begins, as the text comes in pieces. Owned by the thread that writes the reply.

    A token may be a part of a character, be read before its text is, or, if it is a special one, be no part of the text.
    """

    def __init__(self, start: int = 0) -> None:
        """`start` is the number of characters before the text."""
        self._characters = start
        """The number of characters that begin before the next token."""
        self._text = b""
        """The text whose tokens have not been read yet."""
        self._early = b""
        """The end of the tokens read, whose text has not come yet. Either this is empty, or `_text` is."""
        self._last = start
        """The offset of the last token: that of the next one is no smaller."""

    def add(self, text: str) -> None:
        """Add a piece of the text."""
        self._text += text.encode("utf-8", "replace")
        n = min(len(self._early), len(self._text))
        if self._early[:n] == self._text[:n]:
            self._early, self._text = self._early[n:], self._text[n:]
        else:
            # That token was no part of the text.
            self._characters -= _begun(self._early)
            self._early = b""

    def next(self, piece: bytes) -> int:
        """Return the offset of the next token, whose bytes are `piece`."""
        # Bytes that are no character come as one that is none of theirs.
        offset = self._last = max(self._characters - _is_inside(piece), self._last)
        # Some vocabularies put a space before the first word, which is no part of the text.
        for part in (piece, piece.lstrip(b" ")):
            n = min(len(part), len(self._text))
            if part[:n] == self._text[:n]:
                self._text, self._early = self._text[n:], self._early + part[n:]
                self._characters += _begun(part)
                break
        return offset


def _begun(text: bytes) -> int:
    """Return how many characters begin in a piece of UTF-8."""
    return sum(not _is_inside(text[n : n + 1]) for n in range(len(text)))


def _is_inside(text: bytes) -> bool:
    """Return whether a piece of UTF-8 begins within a character."""
    return bool(text) and text[0] & 0xC0 == 0x80
