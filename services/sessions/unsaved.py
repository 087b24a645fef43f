"""What goes on with conversations at the moment: which session is being answered, and what is not saved."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from services.prompts.form import Exchange

# Conversations that are kept in memory only; the one that went on longest ago is forgotten first.
MOST_UNSAVED = 10_000


@dataclass(frozen=True)
class Unsaved:
    """A conversation that is kept in memory only."""

    exchanges: tuple[Exchange, ...] = ()
    system: str | None = None
    """Its system prompt; None where it never had one."""
    start: int = 0
    """How many of its exchanges prompts leave out."""
    forgotten: int = 0
    """How many exchanges came before these."""

    def and_(self, exchange: Exchange, system: str | None, last: int, start: int) -> Unsaved:
        """It with one exchange more, of which the `last` are kept; another system prompt begins it anew.

        Prompts leave out `start` of the exchanges that it has had so far.
        """
        goes_on = system is None or self.system in (None, system)
        exchanges = (*(self.exchanges if goes_on else ()), exchange)
        n_gone = max(len(exchanges) - last, 0)
        start, forgotten = (max(start - n_gone, 0), self.forgotten + n_gone) if goes_on else (0, 0)
        return Unsaved(exchanges[n_gone:], system, start, forgotten)


class Desk(Protocol):
    """See `Sessions`, whose methods these are."""

    def turn(self, entry: str, poll: Callable[[], None]) -> AbstractContextManager[None]:
        """See `Sessions.turn`; `entry` is the session's name in the table."""
        ...

    def unsaved(self, owner: str, name: str) -> Unsaved:
        """See `Sessions.unsaved`."""
        ...

    def add_unsaved(self, owner: str, name: str, exchange: Exchange, system: str | None, last: int, start: int) -> None:
        """See `Sessions.add_unsaved`."""
        ...


class LocalDesk:
    """That of one server. Any thread may call it; `_lock` protects both tables."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._unsaved: dict[tuple[str, str], Unsaved] = {}
        self._at_work: dict[str, tuple[threading.Lock, int]] = {}

    @contextmanager
    def turn(self, entry: str, poll: Callable[[], None]) -> Iterator[None]:
        """See `Sessions.turn`."""
        with self._lock:
            lock, waiting = self._at_work.get(entry, (threading.Lock(), 0))
            self._at_work[entry] = (lock, waiting + 1)
        try:
            while not lock.acquire(timeout=0.25):
                poll()
            try:
                yield
            finally:
                lock.release()
        finally:
            with self._lock:
                _, waiting = self._at_work[entry]
                if waiting == 1:
                    del self._at_work[entry]
                else:
                    self._at_work[entry] = (lock, waiting - 1)

    def unsaved(self, owner: str, name: str) -> Unsaved:
        """See `Sessions.unsaved`."""
        with self._lock:
            return self._unsaved.get((owner, name), Unsaved())

    def add_unsaved(self, owner: str, name: str, exchange: Exchange, system: str | None, last: int, start: int) -> None:
        """See `Sessions.add_unsaved`."""
        with self._lock:
            self._unsaved[owner, name] = self._unsaved.pop((owner, name), Unsaved()).and_(exchange, system, last, start)
            while len(self._unsaved) > MOST_UNSAVED:
                del self._unsaved[next(iter(self._unsaved))]
