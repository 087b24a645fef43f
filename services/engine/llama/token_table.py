"""A vocabulary's tokens by their bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

# The texts by which a JSON text ends soonest, the best first; then those that a value begins with.
_CLOSERS = (b'"', b"}", b"]", b",", b":", b"1", b"0", b'""', b"null", b"true", b"false", b"[", b"{")


class TokenTable:
    """The tokens of a vocabulary by their bytes."""

    def __init__(self, pieces: list[bytes], specials: Iterable[int], ends: Iterable[int]) -> None:
        """`pieces` are the tokens' bytes, `specials` are no text, `ends` end an answer."""
        self.pieces = pieces
        self.ends = np.array(list(ends), np.int32)
        self.specials = np.array(list(specials), np.int32)
        self.special_ids: dict[str, int] = {}
        for token in self.specials.tolist():
            self.special_ids.setdefault(pieces[token].decode("utf-8", "replace"), token)
        self.lengths = np.fromiter(map(len, pieces), np.int32, len(pieces))
        self.lengths[self.specials] = self.lengths[self.ends] = 0
        self.characters = np.array(self._tokens_of(bytes([code]) for code in range(0x20, 0x7F)), np.int32)
        """The tokens of printable ASCII characters."""
        self.closers = [np.array([token], np.int32) for token in self._tokens_of(_CLOSERS)]
        self.spell: Callable[[bytes], list[int]] = lambda text: []
        """Returns the tokens of a text that continues another; set once the tokenizer is made."""
        self._by_head: dict[bytes, list[int]] | None = None
        self.doubles: list[int] = []
        """The tokens with two quotation marks or more; found together with heads."""

    def text(self, token: int) -> bytes:
        """Return the bytes of a token, special ones included."""
        return self.pieces[token]

    def with_head(self, head: bytes) -> list[int]:
        """Return the tokens with a quotation mark behind exactly `head`."""
        if self._by_head is None:
            self._by_head = {}
            special = set(self.specials.tolist())
            for token, piece in enumerate(self.pieces):
                if b'"' in piece and token not in special:
                    self._by_head.setdefault(piece[: _end_of_string(piece)], []).append(token)
                    if piece.count(b'"') > 1:
                        self.doubles.append(token)
        return self._by_head.get(head, [])

    def _tokens_of(self, texts: Iterable[bytes]) -> list[int]:
        found: dict[bytes, int] = {}
        special = set(self.specials.tolist())
        texts = list(texts)
        wanted = set(texts)
        for token, piece in enumerate(self.pieces):
            if piece in wanted and token not in special:
                found.setdefault(piece, token)
        return [found[text] for text in texts if text in found]


def _end_of_string(text: bytes) -> int:
    """Where the string that `text` is within ends: the place of the first quotation mark that is not escaped."""
    at = 0
    while at < len(text):
        if text[at] == 0x5C:
            at += 1
        elif text[at] == 0x22:
            return at
        at += 1
    return len(text)
