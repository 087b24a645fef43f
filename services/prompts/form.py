"""The forms in which a conversation becomes a prompt."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from services.backend.types import Prompt

# Stands for words that are not known yet: no text of a person's holds it.
PROBE = f"\uf8ff{secrets.token_hex(8)}\uf8ff"


@dataclass(frozen=True)
class Exchange:
    """What a person said, and what the model answered."""

    human: str = field(repr=False)
    ai: str = field(repr=False)


# No tokenizer's tokens are longer on average (in characters), and no template writes a message with fewer of its own.
LONGEST_TOKEN, FEWEST_MARKS = 16, 2


Pause = Callable[[], None]


class Form(Protocol):
    """How a conversation becomes a prompt."""

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end an answer in this form, beside those that the profile names."""
        ...

    @property
    def slides(self) -> bool:
        """Whether a window that is full drops many exchanges at once, so that prompts begin alike for long."""
        ...

    def fill(self, window: Sequence[Exchange], words: str) -> Prompt:
        """The prompt for a person's next words, after the exchanges of `window`."""
        ...

    def next(self, window: Sequence[Exchange], words: str) -> Prompt:
        """The same for the words after those that this request brings: `window` holds them already."""
        ...

    def bare(self) -> Prompt:
        """A conversation's first prompt, with PROBE in the place of everything that its caller wrote."""
        ...

    def pausing(self, pause: Pause) -> Form:
        """The same, calling `pause` while it is filled, where that may take long; what it raises ends the filling."""
        return self

    def least(self, longest_token: int) -> int:
        """How many tokens the prompt has at least, whatever the window; 0 where that is not known.

        See `ChatFormat.longest_token`.
        """
        return 0

    @property
    def key(self) -> Hashable:
        """What `bare` depends on; None where it is not worth remembering."""
        ...


def least_tokens(text: str, longest_token: int) -> int:
    """How many tokens a text is at least, however it is tokenized; see `ChatFormat.longest_token`."""
    # White space may be left out, and runs of it are one token.
    return len("".join(text.split()).encode("utf-8", "replace")) // longest_token if longest_token else 0


def before_probe(prompt: Prompt) -> Prompt:
    """What stands before the first PROBE of a prompt; empty where it holds none."""
    at = max(prompt.text.find(PROBE), 0)
    typed = tuple((start, min(end, at)) for start, end in prompt.typed if start < at)
    return Prompt(prompt.text[:at], typed)
