"""An answer token by token: which bytes are of a thought, which are the answer's own, and which are not known yet."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import NamedTuple

from services.backend.thoughts import Parts, ThoughtTracker
from services.backend.types import Mark
from services.engine.llama.vocabulary import TokenText


class Part(NamedTuple):
    """Bytes of a token as the answer shows them; `mark`: all of a special token, which may have no bytes."""

    data: bytes
    is_thought: bool
    """True for bytes of a thought, or of a part's header."""
    mark: Mark | None = None


Shown = tuple[Part, ...]


class Piece(NamedTuple):
    """The last bytes of a token, or all of them."""

    token: int
    data: bytes
    known: TokenText

    @property
    def is_whole(self) -> bool:
        """True if these are all bytes of the token."""
        return len(self.data) == len(self.known.written)


class Progress:
    """What an answer has come to. Owned as its steering is.

    Bytes that may begin a break are shown once it is known whether they are of the thought or of the answer.
    """

    def __init__(self, tracker: ThoughtTracker | None) -> None:
        """`tracker` None: there are no thoughts."""
        self.tracker = tracker
        self.n_decided = 0
        """The tokens that were written while a thought was open, but for those of which that is not known."""
        self.behind: tuple[Piece, ...] = ()
        """What the last token made certain of the answer's own text: none of it while a thought is open."""
        self._undecided: tuple[Piece, ...] = ()
        """The last tokens, which may be the beginning of a break; of the first perhaps its last bytes alone."""
        self._unshown: tuple[TokenText, ...] = ()
        """The tokens with bytes that are not shown yet."""
        self._n_shown = 0
        """The bytes of the first of them that are."""

    @property
    def is_thinking(self) -> bool:
        """True while a thought is open."""
        return self.tracker is not None and self.tracker.is_open

    @property
    def is_broken(self) -> bool:
        """True if the last token has ended a thought by a break."""
        return self.tracker is not None and self.tracker.is_broken

    @property
    def n_thought_tokens(self) -> int:
        """The tokens written while a thought was open, if the answer ends here."""
        return self.n_decided + _n_whole(self._undecided)

    @property
    def rest(self) -> Shown:
        """What is not shown yet: at the end of an answer it is a thought's."""
        spans = ((known, known.written[self._n_shown if n == 0 else 0 :]) for n, known in enumerate(self._unshown))
        return tuple(_part(known, data, True) for known, data in spans)

    def add(self, token: int, known: TokenText) -> Shown:
        """Add a token; return what may be shown by now."""
        whole = Piece(token, known.written, known)
        if self.tracker is None:
            self.behind = (whole,)
            return (_part(known, known.written, False),)
        was_thinking = self.tracker.is_open
        parts = self.tracker.add(known.written, known.mark is not None)
        if was_thinking:
            self._decide(whole)
        elif not self.tracker.is_open:
            self.behind = (whole._replace(data=known.written[len(known.written) - self.tracker.n_behind :]),)
        elif self.tracker.n_behind:
            self._undecided = (whole._replace(data=known.written[-self.tracker.n_behind :]),)
        if known.written:
            self._unshown += (known,)
        return self._shown(parts)

    def add_matched(self, known: TokenText) -> Shown:
        """Add a token of the answer in which no thought can begin; return it as it is shown."""
        return (_part(known, known.piece, False),)

    def end(self) -> None:
        """Take note of a token that ends the answer: no part of its text, but of a thought if one is open."""
        self.n_decided += self.is_thinking

    def close(self) -> Shown:
        """End the open thought; return what was not shown."""
        self.n_decided, self._undecided = self.n_thought_tokens, ()
        return self._shown(self.tracker.close()) if self.tracker else ()

    def ahead(self, token: int, known: TokenText) -> Progress:
        """Return the progress as it would be behind the next token."""
        other = copy(self)
        other.tracker = copy(self.tracker)
        other.add(token, known)
        return other

    def _decide(self, last: Piece) -> None:
        """Tell the tokens of a thought from those of a break, now that `last` has come."""
        assert self.tracker is not None
        tokens, n = [*self._undecided, last], self.tracker.n_behind
        behind: list[Piece] = []
        while tokens and n and n >= len(tokens[-1].data):
            behind.insert(0, tokens.pop())
            n -= len(behind[0].data)
        self.n_decided += _n_whole(tokens)
        if tokens and n:
            # The break begins within a token.
            behind.insert(0, tokens[-1]._replace(data=tokens[-1].data[-n:]))
        found = tuple(behind)
        self._undecided, self.behind = (found, ()) if self.tracker.is_open else ((), found)

    def _shown(self, parts: Parts) -> Shown:
        """The parts as the answer shows them; a special token is whole."""
        found = []
        for data, is_thought in parts:
            while data:
                known = self._unshown[0]
                n = min(len(data), len(known.written) - self._n_shown)
                found.append(_part(known, data[:n], is_thought))
                data, self._n_shown = data[n:], self._n_shown + n
                if self._n_shown == len(known.written):
                    self._unshown, self._n_shown = self._unshown[1:], 0
        return tuple(found)


def _n_whole(pieces: Sequence[Piece]) -> int:
    return sum(piece.is_whole for piece in pieces)


def _part(known: TokenText, data: bytes, is_thought: bool) -> Part:
    return Part(known.piece, is_thought, known.mark) if known.mark else Part(data, is_thought)
