"""Entries that a thread of its own stores: nobody waits for long for a disk, or a server, that does not take them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from services.errors import HearthError

log = logging.getLogger(__name__)

Entry = TypeVar("Entry")

# Seconds for which an entry is waited for: storage that works takes milliseconds, for all that wait together.
PATIENCE = 0.1
# Seconds after which what could not be stored is tried again.
RETRY_AFTER = 0.25
# Seconds for which `close` tries again.
_CLOSING = 3.0


class WriteBehind(Generic[Entry]):
    """The entries that are not stored yet, the oldest first.

    Any thread may call it. `_lock` protects them, and whatever `kept` changes; the thread is started by the first entry.
    Whoever holds `storage` sees each entry either stored or among those that wait.
    """

    def __init__(
        self,
        what: str,
        storage: threading.Lock,
        keep: Callable[[Sequence[Entry]], None],
        kept: Callable[[Sequence[Entry]], None] = lambda _entries: None,
    ) -> None:
        """`what` names the entries in the log. `keep` stores some of them, all or none, and `kept` is told which were."""
        self._what = what
        self._storage = storage
        self._keep = keep
        self._kept = kept
        self._lock = threading.Lock()
        self._came = threading.Condition(self._lock)
        self._stored = threading.Condition(self._lock)
        self._entries: list[Entry] = []
        self._n_added = self._n_stored = 0
        self._fails = False
        self._closing = self._closed = False
        self._writer: threading.Thread | None = None

    def add(self, entry: Entry, waits: bool = True) -> None:
        """Store an entry: at once as a rule, and later where that cannot be; until then it is among those of `waiting`.

        `waits`: return when it is stored, if that is soon.
        """
        with self._lock:
            self._entries.append(entry)
            self._n_added += 1
            number = self._n_added
            if not self._writer:
                self._writer = threading.Thread(target=self._write, name=self._what, daemon=True)
                self._writer.start()
            self._came.notify()
            if waits:
                self._stored.wait_for(lambda: self._n_stored >= number or self._fails, PATIENCE)

    @contextmanager
    def waiting(self) -> Iterator[Sequence[Entry]]:
        """The entries that are not stored yet; none is meanwhile said to be."""
        with self._lock:
            yield self._entries

    def close(self) -> None:
        """Store what is not stored, unless that fails for seconds. What is left then is among those of `waiting`."""
        with self._lock:
            self._closing = True
            self._came.notify()
            writer = self._writer
        patience = time.monotonic() + _CLOSING
        while writer and writer.is_alive() and (not self._fails or time.monotonic() < patience):
            writer.join(0.05)
        self._closed = True
        if self._entries:
            log.error("%s: %d entries could not be stored", self._what, len(self._entries))

    def _write(self) -> None:
        """The writer's thread."""
        while batch := self._next():
            try:
                with self._storage:
                    self._keep(batch)
                    with self._lock:
                        self._kept(batch)
                        del self._entries[: len(batch)]
                        self._n_stored += len(batch)
                        self._fails = False
                        self._stored.notify_all()
                continue
            except HearthError as error:
                problem = error.message
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            with self._lock:
                if not self._fails:
                    log.error("%s is kept in memory only, until it can be stored: %s", self._what, problem)
                self._fails = True
                self._stored.notify_all()
            if self._closed:
                return
            time.sleep(RETRY_AFTER)

    def _next(self) -> list[Entry]:
        """What is to be stored now; nothing at the end."""
        with self._lock:
            self._came.wait_for(lambda: self._entries or self._closing)
            return list(self._entries)
