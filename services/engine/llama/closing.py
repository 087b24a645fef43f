"""Ending an open thought early, with a sentence in the model's own form."""

from __future__ import annotations

from collections.abc import Sequence

from services.backend.thoughts import is_whole
from services.backend.types import Thoughts


class Closing:
    """The tokens that end an open thought, and when they have to come. Owned as its steering is."""

    def __init__(self, thoughts: Thoughts | None, tokens: Sequence[int]) -> None:
        """`tokens` are those of the text that ends a thought."""
        self.budget = thoughts.budget if thoughts else None
        """The most tokens of thoughts."""
        self.is_under_way = False
        self._tokens = list(tokens)
        self._last: list[int] = []
        """The last tokens of the open thought, as many as `_tokens` has."""
        self._tail = b""

    def add(self, token: int, written: bytes, is_thinking: bool) -> None:
        """Add the answer's next token; `is_thinking`: a thought is open."""
        self._tail = (self._tail + written)[-4:]
        if is_thinking:
            self._last = [*self._last, token][-max(len(self._tokens), 1) :]

    def forget(self) -> None:
        """Take note that no thought is open."""
        self._last = []

    def is_needed(self, n_thought_tokens: int, left: int | None) -> bool:
        """Return whether the open thought ends here: it has come to its budget, or the tokens that are left are needed.

        `left` counts the tokens that may be written but for those needed behind the thought; None: none are.
        """
        if not self._tokens or not is_whole(self._tail):
            return False
        if self.budget is not None and n_thought_tokens >= self.budget:
            return True
        return left is not None and left <= len(self._tokens)

    def begin(self) -> list[int]:
        """Begin to end the open thought; return the tokens."""
        self.is_under_way = True
        return self.rest() or self._tokens

    def rest(self) -> list[int]:
        """Return the closing tokens behind those that the thought ends with already; [] if it ends with none."""
        tokens = self._tokens
        n = next((n for n in range(min(len(tokens), len(self._last)), 0, -1) if self._last[-n:] == tokens[:n]), 0)
        return tokens[n:] if n else []
