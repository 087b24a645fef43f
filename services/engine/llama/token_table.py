"""A vocabulary's tokens by their bytes."""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Iterable
from functools import cached_property

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]

_NONE: Tokens = np.empty(0, np.int32)
# What may follow an item.
_BEYOND = re.compile(rb'"[^"]*[,}\]]')
_STUTTER = re.compile(rb"([^,\s]+)\s*,\s*\1")
_OPENING = re.compile(rb'[ \t\n:]*"[^"]*')
_HEXES = re.compile(rb'u?[0-9a-fA-F]{1,4}(?:[^"\\]|\\.)*"')
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
        self.end_set = frozenset(self.ends.tolist())

    def text(self, token: int) -> bytes:
        """Return the bytes of a token, special ones included."""
        return self.pieces[token]

    @cached_property
    def quoting(self) -> Tokens:
        """The tokens with a quotation mark."""
        return self._tokens_with(lambda piece: b'"' in piece)

    @cached_property
    def compounds(self) -> Tokens:
        """The tokens that may hold two names, or two items of an array that they begin."""
        return self._tokens_with(lambda piece: piece.count(b'"') > 1 or (b"[" in piece and b"," in piece))

    @cached_property
    def beyond(self) -> Tokens:
        """The tokens that end a string, and may end the item of an array that it is part of."""
        return self._tokens_with(lambda piece: bool(_BEYOND.search(piece)))

    @cached_property
    def escaped(self) -> Tokens:
        r"""The tokens that end a string in which \u stands."""
        return self._tokens_with(lambda piece: b'"' in piece and b"\\u" in piece)

    @cached_property
    def escapes(self) -> Tokens:
        r"""The tokens in which \u stands."""
        return self._tokens_with(lambda piece: b"\\u" in piece)

    @cached_property
    def escape_ends(self) -> Tokens:
        r"""The tokens in which \u stands, if a backslash stands in front of them."""
        return self._tokens_with(lambda piece: b"\\u" in b"\\" + piece)

    @cached_property
    def hexes(self) -> Tokens:
        r"""The tokens that go on with an escape by \u, and end the string."""
        return self._tokens_with(lambda piece: bool(_HEXES.match(piece)))

    @cached_property
    def stutters(self) -> Tokens:
        """The tokens in which something stands twice, with a comma between."""
        return self._tokens_with(lambda piece: bool(_STUTTER.search(piece)))

    @cached_property
    def everything(self) -> Tokens:
        """All tokens."""
        return np.arange(len(self.pieces), dtype=np.int32)

    @cached_property
    def _sorted(self) -> list[tuple[bytes, int]]:
        return sorted((piece, token) for token, piece in enumerate(self.pieces))

    def beginning_with(self, text: bytes) -> Tokens:
        """Return the tokens that begin with a text."""
        first = bisect.bisect_left(self._sorted, (text, -1))
        last = bisect.bisect_left(self._sorted, (text + b"\xff" * 8, -1))
        return np.array([token for _, token in self._sorted[first:last]], np.int32)

    @cached_property
    def not_opening(self) -> npt.NDArray[np.bool_]:
        """For each token, whether it does more than to begin a string, if it is none's part."""
        found = np.ones(len(self.pieces), np.bool_)
        found[self._tokens_with(lambda piece: bool(_OPENING.fullmatch(piece)))] = False
        return found

    @cached_property
    def _by_head(self) -> dict[bytes, Tokens]:
        found: dict[bytes, list[int]] = {}
        for token in self.quoting.tolist():
            piece = self.pieces[token]
            found.setdefault(piece[: _end_of_string(piece)], []).append(token)
        return {head: np.array(tokens, np.int32) for head, tokens in found.items()}

    def prepare(self) -> None:
        """Find now what a watch asks for, rather than within a step of the engine."""
        cached = (self.compounds, self.beyond, self.escaped, self.escapes, self.escape_ends, self.hexes)
        for _ in (*cached, self.not_opening, self._by_head):
            pass

    def with_head(self, head: bytes) -> Tokens:
        """Return the tokens with a quotation mark behind exactly `head`."""
        return self._by_head.get(head, _NONE)

    def _tokens_with(self, test: Callable[[bytes], bool]) -> Tokens:
        special = set(self.specials.tolist())
        found = (token for token, piece in enumerate(self.pieces) if test(piece) and token not in special)
        return np.fromiter(found, np.int32)

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
