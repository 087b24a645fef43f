"""The interface of a prompt's form: the way in which a conversation becomes a prompt."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from services.backend.types import Prompt

# Stands for words that are not known yet; being random, it occurs in no person's text.
PROBE = f"\uf8ff{secrets.token_hex(8)}\uf8ff"


@dataclass(frozen=True)
class Exchange:
    """A person's message, and the model's answer with the thoughts before it."""

    human: str = field(repr=False)
    ai: str = field(repr=False)
    reasoning: str = field(default="", repr=False)
    messages: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    """All messages of the turn as chat templates take them, where there are others than these two."""


# Bounds for rough estimates: no text has longer tokens on average (characters), and no template adds fewer tokens to a
# message.
LONGEST_TOKEN, FEWEST_MARKS = 16, 2


Pause = Callable[[], None]


class Form(Protocol):
    """A way in which a conversation becomes a prompt."""

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end an answer in this form, beside those of the profile."""
        ...

    @property
    def slides(self) -> bool:
        """True if a full window drops many exchanges at once, so that many prompts in a row begin alike."""
        ...

    def fill(self, window: Sequence[Exchange], words: str) -> Prompt:
        """Return the prompt for the person's words of this request, after the exchanges of `window`."""
        ...

    def next(self, window: Sequence[Exchange], words: str) -> Prompt:
        """Return the likely prompt of the next request; `window` holds this request's exchange already."""
        ...

    def bare(self) -> Prompt:
        """Return a conversation's first prompt, with PROBE instead of all text from its caller."""
        ...

    def with_documents(self, text: str) -> Form:
        """Return the same form with the text of documents before the conversation, where many prompts begin alike."""
        ...

    def with_passages(self, text: str) -> Form:
        """Return the same form with passages right before the words of this request, and of no other."""
        ...

    def pausing(self, pause: Pause) -> Form:
        """Return the same form, which calls `pause` now and then while it is filled; `pause` raises to give up."""
        return self

    def least(self, longest_token: int) -> int:
        """Return a lower bound of the prompt's tokens, whatever the window; 0: unknown.

        `longest_token` is `ChatFormat.longest_token`.
        """
        return 0

    @property
    def key(self) -> Hashable:
        """A key by which to cache `bare`; None if that is not worth it."""
        ...


def least_tokens(text: str, longest_token: int) -> int:
    """A lower bound of a text's tokens, however it is tokenized. `longest_token` is `ChatFormat.longest_token`."""
    # White space may be dropped, and a run of it may be one token.
    return len("".join(text.split()).encode("utf-8", "replace")) // longest_token if longest_token else 0


def before_probe(prompt: Prompt) -> Prompt:
    """The part of a prompt before its first PROBE; empty if there is none."""
    at = max(prompt.text.find(PROBE), 0)
    typed = tuple((start, min(end, at)) for start, end in prompt.typed if start < at)
    return Prompt(prompt.text[:at], typed)
