"""From a template, the window of turns and a person's words to the prompt, fitted into the context."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.backend import Prompt
from services.errors import PromptTooLong

_PLACE = re.compile(r"\{(input|chat_history)\}")


@dataclass(frozen=True)
class Exchange:
    """What a person said, and what the model answered."""

    human: str
    ai: str


@dataclass(frozen=True)
class FittedPrompt:
    """A prompt that fits: its token ids, and how many tokens the answer may have."""

    tokens: tuple[int, ...]
    max_tokens: int


def fit_prompt(
    template: str,
    window: Sequence[Exchange],
    words: str,
    *,
    tokenize: Callable[[Prompt], list[int]],
    n_ctx: int,
    max_tokens: int,
) -> FittedPrompt:
    """Fill the template with as much of the window's end as fits beside the answer.

    The answer is promised the smaller of `max_tokens` and a quarter of the context: older exchanges make room for it. The
    prompt alone may fill all of the context but one token. All sizes are in tokens.
    Raises PromptTooLong where even the prompt alone does not fit.
    """
    promised = min(max_tokens, max(1, n_ctx // 4))

    def tokens_from(start: int) -> list[int]:
        return tokenize(fill_template(template, window[start:], words))

    tokens = tokens_from(0)
    if len(tokens) + promised > n_ctx:
        # Fewer exchanges are fewer tokens, so the first start that fits is found by halves.
        start = bisect_left(range(len(window)), True, key=lambda n: len(tokens_from(n)) + promised <= n_ctx)
        tokens = tokens_from(start)
    left = n_ctx - len(tokens)
    if left < 1:
        raise PromptTooLong(len(tokens), n_ctx)
    return FittedPrompt(tuple(tokens), min(max_tokens, left))


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
