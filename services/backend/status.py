"""The load of a backend, as /status reports it."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import add
from typing import Literal, TypeVar

T = TypeVar("T", bound="Amounts")
Tier = Literal["context", "ram", "disk", "none"]


class Amounts:
    """A dataclass of numbers, added field by field."""

    def __add__(self: T, other: T) -> T:
        return type(self)(*map(add, vars(self).values(), vars(other).values()))


@dataclass
class Counts(Amounts):
    """The work since the start, in tokens. Each engine's is changed by its own thread only."""

    answers: int = 0
    """Answers that came to an end."""
    prompt_tokens: int = 0
    """Tokens of prompts that were read."""
    cached_tokens: int = 0
    """Tokens of prompts whose state was computed before."""
    completion_tokens: int = 0
    draft_tokens: int = 0
    """Tokens that were read ahead since a person was writing them."""
    context_hits: int = 0
    """Prompts whose beginning was computed before, and is in the context."""
    ram_hits: int = 0
    disk_hits: int = 0
    misses: int = 0
    first_tokens: int = 0
    """Answers with a first token."""
    first_token_seconds: float = 0.0
    """The sum of the times until those first tokens."""
    drafted_tokens: int = 0
    """Tokens that were computed ahead by speculation."""
    accepted_tokens: int = 0
    """Of those, the ones that came true."""

    def note_prompt(self, tier: Tier) -> None:
        """Count a prompt by the tier of its computed beginning."""
        name = "misses" if tier == "none" else f"{tier}_hits"
        setattr(self, name, getattr(self, name) + 1)


@dataclass(frozen=True)
class Room(Amounts):
    """The bytes used of something, and their limit."""

    used: int
    limit: int


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory: its file, and about how many bytes it takes."""

    file: str
    size: int


@dataclass(frozen=True)
class Status:
    """The load of a backend. `memory` is the process's, of the machine's; `states` are computed conversations.

    In bytes: `weights` and `contexts` (KV caches) of the loaded models, how much these may take together, and how much of
    `memory` is the server's, beside its engine's.
    """

    counts: Counts
    slots: int
    running: int
    waiting: int
    memory: Room
    states_ram: Room
    states_disk: Room
    models: list[LoadedModel] = field(default_factory=list)
    weights: int = 0
    contexts: int = 0
    models_limit: int = 0
    server: int = 0
