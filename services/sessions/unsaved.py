"""Conversations that are kept in memory only."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

from services.prompts.form import Exchange

# Conversations that are kept in memory only; the one that went on longest ago is forgotten first.
MOST_UNSAVED = 10_000


@dataclass(frozen=True)
class UnsavedConversation:
    """A conversation that is kept in memory only."""

    exchanges: tuple[Exchange, ...] = ()
    system: str | None = None
    """Its system prompt; None where it never had one."""
    start: int = 0
    """How many of its exchanges prompts leave out."""
    forgotten: int = 0
    """How many exchanges came before these."""

    def and_(self, exchange: Exchange, system: str | None, last: int, start: int) -> UnsavedConversation:
        """It with one exchange more, of which the `last` are kept; another system prompt begins it anew.

        Prompts leave out `start` of the exchanges that it has had so far.
        """
        goes_on = system is None or self.system in (None, system)
        exchanges = (*(self.exchanges if goes_on else ()), exchange)
        n_gone = max(len(exchanges) - last, 0)
        start, forgotten = (max(start - n_gone, 0), self.forgotten + n_gone) if goes_on else (0, 0)
        return UnsavedConversation(exchanges[n_gone:], system, start, forgotten)


class UnsavedConversations(Protocol):
    """The conversations that are no sessions, by their owner (a key's id) and name. Any thread may call it."""

    def get(self, owner: str, name: str) -> UnsavedConversation:
        """The conversation; an empty one where none has that name."""
        ...

    def add(self, owner: str, name: str, exchange: Exchange, system: str | None, last: int, start: int) -> None:
        """Add an exchange; see `UnsavedConversation.and_`."""
        ...


class LocalUnsavedConversations:
    """The unsaved conversations of one server. Any thread may call it; `_lock` protects the table."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._conversations: dict[tuple[str, str], UnsavedConversation] = {}

    def get(self, owner: str, name: str) -> UnsavedConversation:
        """See `UnsavedConversations.get`."""
        with self._lock:
            return self._conversations.get((owner, name), UnsavedConversation())

    def add(self, owner: str, name: str, exchange: Exchange, system: str | None, last: int, start: int) -> None:
        """See `UnsavedConversations.add`."""
        with self._lock:
            before = self._conversations.pop((owner, name), UnsavedConversation())
            self._conversations[owner, name] = before.and_(exchange, system, last, start)
            while len(self._conversations) > MOST_UNSAVED:
                del self._conversations[next(iter(self._conversations))]
