"""The messages that callers put into an engine's inbox."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from services.backend.types import PrefetchRequest
from services.engine.loop.generation import EngineGeneration


@dataclass(frozen=True, eq=False)
class Submit:
    """Queue generations, which begin together."""

    generations: tuple[EngineGeneration, ...]


@dataclass(frozen=True, eq=False)
class Prefetch:
    """Read the beginning of a prompt once nothing else is to be done."""

    request: PrefetchRequest


@dataclass(frozen=True, eq=False)
class Forget:
    """Drop the computed state of a conversation, then set `done`."""

    owner: str
    session: str
    done: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Wake:
    """Take the next step: a sequence was cancelled or stopped."""


@dataclass(frozen=True)
class Quit:
    """End the engine's thread."""


InboxMessage = Submit | Prefetch | Forget | Wake | Quit
