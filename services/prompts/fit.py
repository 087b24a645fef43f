"""From a template, the window of turns and a person's words to the prompt, fitted into the context."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Protocol

from services.backend import Prompt
from services.errors import PromptTooLong

_PLACE = re.compile(r"\{(input|chat_history)\}")
# Words that begin with different tokens: what prompts for all of them have in common comes before any words.
_PROBES = ("A", "0", "\n")


@dataclass(frozen=True)
class Exchange:
    """What a person said, and what the model answered."""

    human: str = field(repr=False)
    ai: str = field(repr=False)


@dataclass(frozen=True)
class FittedPrompt:
    """A prompt that fits: its token ids, how many tokens the answer may have, and how many of the template's come first."""

    tokens: tuple[int, ...]
    max_tokens: int
    n_head: int


class Form(Protocol):
    """How a conversation becomes a prompt."""

    def fill(self, window: Sequence[Exchange], words: str) -> Prompt:
        """The prompt for a person's next words, after the exchanges of `window`."""
        ...

    def bare(self, probe: str) -> Prompt:
        """A conversation's first prompt, with `probe` in the place of everything that its caller wrote."""
        ...


@dataclass(frozen=True)
class TemplateForm:
    """A profile's template."""

    template: str

    def fill(self, window: Sequence[Exchange], words: str) -> Prompt:
        """See `Form.fill`."""
        return fill_template(self.template, window, words)

    def bare(self, probe: str) -> Prompt:
        """See `Form.bare`."""
        return fill_template(self.template, (), probe)


@dataclass(frozen=True)
class PromptFitter:
    """Fits prompts of one form into a model's context. `n_ctx` and `max_tokens` (of the answer) count tokens."""

    form: Form
    tokenize_all: Callable[[Sequence[Prompt]], list[list[int]]]
    n_ctx: int
    max_tokens: int = 1

    def fit(self, window: Sequence[Exchange], words: str) -> FittedPrompt:
        """The form filled with as much of the window's end as fits beside the answer.

        The answer is promised the smaller of `max_tokens` and a quarter of the context: older exchanges make room for it.
        The prompt alone may fill all of the context but one token.
        Raises PromptTooLong where even the prompt alone does not fit.
        """
        tokens, _, head = self._fit(window, words, [self.form.bare(probe) for probe in _PROBES])
        left = self.n_ctx - len(tokens)
        if left < 1:
            raise PromptTooLong(len(tokens), self.n_ctx)
        return FittedPrompt(tuple(tokens), min(self.max_tokens, left), len(_common([tokens, _common(head)])))

    def head(self) -> tuple[int, ...]:
        """The tokens before anything that a person wrote."""
        return tuple(_common(self.tokenize_all([self.form.bare(probe) for probe in _PROBES])))

    def beginning(self, window: Sequence[Exchange], words: str) -> tuple[int, ...]:
        """The tokens that the prompt after `window` begins with, whatever its words: about as many, say, as `words`.

        The last tokens before the words may depend on them, and are left out.
        """
        _, fitting, rows = self._fit(window, words, [self.form.fill(window, probe) for probe in _PROBES])
        if len(fitting) < len(window):
            rows = self.tokenize_all([self.form.fill(fitting, probe) for probe in _PROBES])
        return tuple(_common(rows))

    def _fit(
        self, window: Sequence[Exchange], words: str, others: Sequence[Prompt]
    ) -> tuple[list[int], Sequence[Exchange], list[list[int]]]:
        """The tokens of the prompt with as much of the window's end as fits, that much of it, and those of `others`."""
        promised = min(self.max_tokens, max(1, self.n_ctx // 4))

        def tokens_from(start: int) -> list[int]:
            return self.tokenize_all([self.form.fill(window[start:], words)])[0]

        # All at once: the model may be in another process.
        tokens, *rest = self.tokenize_all([self.form.fill(window, words), *others])
        if len(tokens) + promised <= self.n_ctx:
            return tokens, window, rest
        # Fewer exchanges are fewer tokens, so the first start that fits is found by halves.
        start = bisect_left(range(len(window)), True, key=lambda n: len(tokens_from(n)) + promised <= self.n_ctx)
        return tokens_from(start), window[start:], rest


def _common(rows: Sequence[Sequence[int]]) -> list[int]:
    """What all rows begin with."""
    return [ids[0] for ids in takewhile(lambda ids: len(set(ids)) == 1, zip(*rows, strict=False))]


def fill_template(template: str, window: Sequence[Exchange], words: str) -> Prompt:
    """Put the words at {input} and the window at {chat_history}, in one pass: what is put in is never read again."""
    history = "\n".join(f"Human: {exchange.human}\nAI: {exchange.ai}" for exchange in window)
    pieces: list[str] = []
    typed: list[tuple[int, int]] = []
    at = length = 0
    for place in _PLACE.finditer(template):
        literal = template[at : place.start()]
        value = words if place[1] == "input" else history
        pieces += [literal, value]
        length += len(literal)
        typed.append((length, length + len(value)))
        length += len(value)
        at = place.end()
    pieces.append(template[at:])
    return Prompt("".join(pieces), tuple(span for span in typed if span[0] < span[1]))
