"""One answer's constraint while the answer is being written: which tokens may come next, and how the text ends soonest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher
from typing_extensions import Self, override

from services.engine.llama.token_table import TokenTable

# Steps of the search for the end of a text: see `Matcher.closing_tokens`.
MOST_CLOSING = 256
MOST_ATTEMPTS = 6
# A search in vain is not repeated for so many tokens.
MOST_UNSEARCHED = 16
# As often a token may follow itself there; a number whose last digits have to be others would never end.
MOST_ALIKE = 8


class Grammar(Protocol):
    """The state of one text under a grammar, whichever library keeps to it."""

    def allowed(self, tokens: npt.NDArray[np.int32] | None = None) -> npt.NDArray[np.bool_]:
        """Return whether each of these tokens, or of the vocabulary's, may come next; none if it cannot go on."""

    def accept(self, token: int) -> None:
        """Take a token that is allowed."""

    def forced(self) -> bytes:
        """Return bytes that certainly come next; b"" if none are known."""

    def is_over(self) -> bool:
        """Return whether only the end of the text may follow."""

    def copy(self) -> Self:
        """Return a grammar in the same state."""


class GuidedGrammar(Grammar):
    """A grammar of llguidance."""

    def __init__(self, matcher: LLMatcher, size: int, ends: frozenset[int]) -> None:
        """`size` counts the tokens of the vocabulary; `ends` end an answer."""
        self._matcher = matcher
        self._size = size
        self._ends = ends

    @override
    def allowed(self, tokens: npt.NDArray[np.int32] | None = None) -> npt.NDArray[np.bool_]:
        matcher = self._matcher
        if matcher.is_error():
            return np.zeros(self._size if tokens is None else len(tokens), np.bool_)
        if tokens is not None:
            return np.array([self._allows(token) for token in tokens.tolist()], np.bool_)
        words = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        return np.unpackbits(words, count=self._size, bitorder="little").view(np.bool_)

    def _allows(self, token: int) -> bool:
        # llguidance allows nothing once the text is complete, while its mask then allows the ends.
        if token in self._ends:
            return self._matcher.is_accepting()
        return self._matcher.validate_tokens([token]) == 1

    @override
    def accept(self, token: int) -> None:
        if token not in self._ends:
            self._matcher.consume_token(token)

    @override
    def forced(self) -> bytes:
        return self._matcher.compute_ff_bytes()

    @override
    def is_over(self) -> bool:
        return self._matcher.is_stopped() and not self._matcher.is_error()

    @override
    def copy(self) -> GuidedGrammar:
        return GuidedGrammar(self._matcher.deep_copy(), self._size, self._ends)


class Watch(Protocol):
    """What forbids tokens that a grammar allows."""

    def forbid(self, allowed: npt.NDArray[np.bool_], tokens: npt.NDArray[np.int32] | None) -> None:
        """Set `allowed`, which is for `tokens` or for all tokens, to False where one must not come next."""

    def accept(self, token: int) -> None:
        """Take the next token of the text."""

    def copy(self) -> Self:
        """Return a watch of the same text so far."""


class WatchedGrammar(Grammar):
    """A grammar of JSON texts, whose names and items are compared while they are written."""

    def __init__(self, grammar: Grammar, watch: Watch) -> None:
        self._grammar = grammar
        self._watch = watch

    @override
    def allowed(self, tokens: npt.NDArray[np.int32] | None = None) -> npt.NDArray[np.bool_]:
        found = self._grammar.allowed(tokens)
        self._watch.forbid(found, tokens)
        return found

    @override
    def accept(self, token: int) -> None:
        self._grammar.accept(token)
        self._watch.accept(token)

    @override
    def forced(self) -> bytes:
        return self._grammar.forced()

    @override
    def is_over(self) -> bool:
        return self._grammar.is_over()

    @override
    def copy(self) -> WatchedGrammar:
        return WatchedGrammar(self._grammar.copy(), self._watch.copy())


class Matcher:
    """One answer's constraint. Made on any thread, then used by one at a time."""

    def __init__(self, grammar: Grammar, table: TokenTable) -> None:
        self._grammar = grammar
        self._table = table
        self._closing: list[int] | None = None
        """Tokens that complete the text, as found last; None: they have to be looked for."""
        self._n_unsearched = 0
        """For so many tokens more they are not looked for, since none were found."""
        self._ahead: tuple[int, list[int] | None] = -1, None
        """The token that `closing_behind` was last called with, and its result."""

    def allows(self, token: int) -> bool:
        """Return whether `token` may come next."""
        return bool(self._grammar.allowed(np.array([token], np.int32))[0])

    def mask(self, logits: npt.NDArray[np.float32]) -> None:
        """Set the logits (one for each token) of tokens that may not come next to minus infinity, in place.

        That is all of them, if the constraint is too complex to go on.
        """
        np.putmask(logits, ~self._grammar.allowed(), -np.inf)

    def accept(self, token: int) -> None:
        """Take the next token. Raises ValueError if it is not allowed."""
        if not self.allows(token):
            raise ValueError(f"the constraint does not allow token {token} here")
        self._grammar.accept(token)
        known = self._ahead[1] if self._ahead[0] == token else None
        self._closing = self._closing[1:] if self._closing and self._closing[0] == token else known
        self._ahead = -1, None
        self._n_unsearched = max(0, self._n_unsearched - 1)

    @property
    def is_complete(self) -> bool:
        """True if the text may end here."""
        return bool(self._grammar.allowed(self._table.ends).any())

    @property
    def is_over(self) -> bool:
        """True if only the end of the answer may follow."""
        return self._grammar.is_over()

    def closing_token(self) -> int | None:
        """Return the token by which the text ends soonest: the end itself if it is complete; None if none was found."""
        tokens = self.closing_tokens()
        if tokens is None:
            return None
        return tokens[0] if tokens else int(self._table.ends[self._grammar.allowed(self._table.ends).argmax()])

    def closing_tokens(self) -> list[int] | None:
        """Return tokens that complete the text soon; [] if it is complete, None if none were found."""
        if self._closing is None and self._n_unsearched == 0:
            self._closing = self._search()
            self._n_unsearched = 0 if self._closing is not None else MOST_UNSEARCHED
        return self._closing

    def closing_behind(self, token: int, most: int) -> list[int] | None:
        """Return tokens that complete the text behind `token`, which is allowed: at most so many, or those found first."""
        if self._closing and self._closing[0] == token:
            return self._closing[1:]
        if self._ahead[0] != token:
            ahead = Matcher(self._grammar.copy(), self._table)
            ahead._grammar.accept(token)
            # Within a string the same tokens still complete the text, and behind a number all but the first one.
            known = [self._closing[1:], self._closing] if self._closing else []
            found = next((way for way in known if len(way) <= most and ahead._is_way(way)), None)
            self._ahead = token, ahead.closing_tokens() if found is None else found
        return self._ahead[1]

    def _is_way(self, tokens: Sequence[int]) -> bool:
        """Return whether these tokens complete the text."""
        grammar = self._grammar.copy()
        for token in tokens:
            if not grammar.allowed(np.array([token], np.int32))[0]:
                return False
            grammar.accept(token)
        return bool(grammar.allowed(self._table.ends).any())

    def _search(self) -> list[int] | None:
        # The first way may lead round and round, as through a property that holds the object itself; then by chance.
        for attempt in range(MOST_ATTEMPTS):
            if (found := self._way(np.random.default_rng(attempt) if attempt else None)) is not None:
                return found
        return None

    def _way(self, rng: np.random.Generator | None) -> list[int] | None:
        """The tokens of one way to the end; None if it does not come to it."""
        grammar = self._grammar.copy()
        found: list[int] = []
        while len(found) < MOST_CLOSING:
            if grammar.allowed(self._table.ends).any():
                return found
            repeated = found[-1] if len(found) >= MOST_ALIKE and len(set(found[-MOST_ALIKE:])) == 1 else None
            tokens = self._towards_end(grammar, repeated, rng)
            if not tokens:
                return None
            for token in tokens:
                grammar.accept(token)
            found += tokens
        return None

    def _towards_end(self, grammar: Grammar, repeated: int | None, rng: np.random.Generator | None) -> list[int]:
        """The next tokens on a short way to the end, which `repeated` does not lead to; [] if there is none."""
        if forced := grammar.forced():
            tokens = []
            ahead = grammar.copy()
            for token in self._table.spell(forced):
                if not ahead.allowed(np.array([token], np.int32))[0]:
                    break
                ahead.accept(token)
                tokens.append(token)
            if tokens:
                return tokens
        for closer in self._table.closers:
            if int(closer[0]) != repeated and grammar.allowed(closer)[0]:
                return [int(closer[0])]
        allowed = grammar.allowed()
        if rng is not None and allowed.any():
            return [int(rng.choice(np.flatnonzero(allowed)))]
        best = int(np.where(allowed, self._table.lengths, -1).argmax())
        return [best] if allowed[best] else []
