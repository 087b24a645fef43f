"""What an answer's next token may be, with a vocabulary of a few words and constraints that are lists of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from services.backend.types import Constraint, GenerationRequest, Mark, Sampling
from services.engine.llama.steering import Steering
from services.engine.llama.vocabulary import TokenText

MARKS = ("<|end|>", "<think>", "</think>", "<call>")
WORDS = (
    *MARKS,
    *"abcdefghijklmnopqrstuvwxyz0123456789<>/: \n",
    "<th",
    "ink>",
    "</th",
    "nk>ye",
    ">\n",
    "yes",
    "no",
    "maybe",
)
WORDS += ("ll:y", "call:", "ll:", "call:x", "end", "\u00e9")
END = 0


class Words:
    """A vocabulary of `WORDS`."""

    def known(self, token: int) -> TokenText:
        word = WORDS[token]
        mark = Mark(word) if word in MARKS else None
        return TokenText(b"" if mark else word.encode(), word.encode(), mark, token == END)

    def tag(self, text: str) -> list[int]:
        return self._tokens(text, WORDS)

    def continuation(self, text: str) -> list[int]:
        return self._tokens(text, [word for word in WORDS if len(word) == 1])

    def _tokens(self, text: str, words: Sequence[str]) -> list[int]:
        tokens = []
        while text:
            word = max((word for word in words if text.startswith(word)), key=len)
            tokens.append(WORDS.index(word))
            text = text[len(word) :]
        return tokens


class OneOf:
    """A matcher of a few texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = tuple(texts)
        self._said = ""

    @property
    def is_complete(self) -> bool:
        return self._said in self._texts

    @property
    def is_over(self) -> bool:
        return self.is_complete and not any(text != self._said and text.startswith(self._said) for text in self._texts)

    def allows(self, token: int) -> bool:
        return any(text.startswith(self._said + WORDS[token]) for text in self._texts)

    def mask(self, logits: npt.NDArray[np.float32]) -> None:
        for token in range(len(logits)):
            if not self.allows(token) and not (token == END and self.is_complete):
                logits[token] = -np.inf

    def accept(self, token: int) -> None:
        assert self.allows(token)
        self._said += WORDS[token]

    def closing_token(self) -> int | None:
        return next(iter(self.closing_tokens()), END)

    def closing_tokens(self) -> list[int]:
        rest = min((text for text in self._texts if text.startswith(self._said)), key=len)[len(self._said) :]
        return [WORDS.index(letter) for letter in rest]

    def closing_behind(self, token: int, most: int) -> list[int]:
        ahead = OneOf(self._texts)
        ahead._said = self._said + WORDS[token]
        return ahead.closing_tokens()


def matcher(constraint: Constraint) -> Any:
    """The matcher of a constraint that `one_of` has made."""
    return OneOf(constraint.source.split("|"))


def one_of(*texts: str, triggers: tuple[str, ...] = (), **fields: Any) -> Constraint:
    """A constraint to one of a few texts."""
    return Constraint("regex", "|".join(texts), triggers, **fields)


def steering(*texts: str, triggers: tuple[str, ...] = (), max_tokens: int = 100, **fields: Any) -> Steering:
    """The steering of an answer that is one of `texts`, or has one behind each trigger; `fields` are the request's."""
    constraint = one_of(*texts, triggers=triggers) if texts else None
    return steered_by(constraint, max_tokens, **fields)


def steered_by(constraint: Constraint | None, max_tokens: int = 100, **fields: Any) -> Steering:
    """The steering of an answer under a constraint."""
    request = GenerationRequest((1,), max_tokens, Sampling(constraint=constraint), **fields)
    return Steering(request, Words(), matcher)


def write(steered: Steering, wanted: Sequence[str], most: int = 100) -> str:
    """Write what a model wants to write, as far as that may be; return what was written."""
    written = ""
    left = most
    coming = list(wanted)
    while left and not steered.is_over:
        token = steered.due(left)
        if token is None:
            if not coming:
                break
            token = WORDS.index(coming.pop(0))
            if not steered.allows(token):
                logits = np.zeros(len(WORDS), np.float32)
                steered.mask(logits)
                token = int(logits.argmax())
            settled = steered.settle(token, left)
            if settled is None:
                break
            token = settled
        steered.accept(token)
        if token == END:
            break
        written += WORDS[token]
        left -= 1
    return written
