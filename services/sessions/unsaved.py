"""Unsaved conversations: those that no session keeps, in memory only."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

from typing_extensions import override

from services.prompts.form import Exchange

# Unsaved conversations at most; the one that went on longest ago is forgotten first.
MOST_UNSAVED = 10_000


@dataclass(frozen=True)
class UnsavedConversation:
    """A conversation that no session keeps."""

    exchanges: tuple[Exchange, ...] = ()
    system: str | None = None
    """Its system prompt; None where it never had one."""
    start: int = 0
    """The number of its first exchanges that prompts leave out."""
    forgotten: int = 0
    """The number of forgotten exchanges before these."""

    def followed_by(self, exchange: Exchange, system: str | None, last: int, start: int) -> UnsavedConversation:
        """Return it with one exchange more, keeping the `last` ones; another system prompt begins it anew.

        Prompts leave out `start` of the exchanges before the new one.
        """
        goes_on = system is None or self.system in (None, system)
        exchanges = (*(self.exchanges if goes_on else ()), exchange)
        n_gone = max(len(exchanges) - last, 0)
        start, forgotten = (max(start - n_gone, 0), self.forgotten + n_gone) if goes_on else (0, 0)
        return UnsavedConversation(exchanges[n_gone:], system, start, forgotten)


class UnsavedConversations(Protocol):
    """The unsaved conversations, by their owner (a key's id) and name. Any thread may call it."""

    def get(self, owner: str, name: str) -> UnsavedConversation:
        """Return the conversation; an empty one where none has that name."""
        ...

    def add(self, owner: str, name: str, exchange: Exchange, system: str | None, last: int, start: int) -> None:
        """Add an exchange, as `UnsavedConversation.followed_by` does."""
        ...


class LocalUnsavedConversations(UnsavedConversations):
    """The unsaved conversations of one server. Any thread may call it; `_lock` protects the table."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._conversations: dict[tuple[str, str], UnsavedConversation] = {}

    @override
    def get(self, owner: str, name: str) -> UnsavedConversation:
        with self._lock:
            return self._conversations.get((owner, name), UnsavedConversation())

    @override
    def add(self, owner: str, name: str, exchange: Exchange, system: str | None, last: int, start: int) -> None:
        with self._lock:
            before = self._conversations.pop((owner, name), UnsavedConversation())
            self._conversations[owner, name] = before.followed_by(exchange, system, last, start)
            while len(self._conversations) > MOST_UNSAVED:
                del self._conversations[next(iter(self._conversations))]
