"""Entries that a thread of its own stores: no request waits for long for a disk, or a server, that does not take them."""

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

# Seconds for which `add` waits: storage that works takes milliseconds, for all waiting entries together.
PATIENCE = 0.1
# Seconds after which a failed store is tried again.
RETRY_AFTER = 0.25
# Seconds for which `close` tries again.
_CLOSING = 3.0


class WriteBehind(Generic[Entry]):
    """The entries that are not stored yet, the oldest first.

    Any thread may call it. `_lock` protects them, and whatever `on_stored` changes; the first entry starts the thread.
    While a thread holds `storage`, it finds each entry either stored or in `waiting`.
    """

    def __init__(
        self,
        name: str,
        storage: threading.Lock,
        store: Callable[[Sequence[Entry]], None],
        on_stored: Callable[[Sequence[Entry]], None] = lambda _entries: None,
    ) -> None:
        """`name` is that of the entries in the log. `store` stores entries, all or none; then `on_stored` gets the same."""
        self._name = name
        self._storage = storage
        self._store = store
        self._on_stored = on_stored
        self._lock = threading.Lock()
        self._came = threading.Condition(self._lock)
        self._stored = threading.Condition(self._lock)
        self._entries: list[Entry] = []
        self._n_added = self._n_stored = 0
        self._fails = False
        self._closing = self._closed = False
        self._writer: threading.Thread | None = None

    def add(self, entry: Entry, waits: bool = True) -> None:
        """Store an entry, as a rule at once; until it is stored it is in `waiting`.

        `waits`: return when it is stored, or after a tenth of a second.
        """
        with self._lock:
            self._entries.append(entry)
            self._n_added += 1
            number = self._n_added
            if not self._writer:
                self._writer = threading.Thread(target=self._write, name=self._name, daemon=True)
                self._writer.start()
            self._came.notify()
            if waits:
                self._stored.wait_for(lambda: self._n_stored >= number or self._fails, PATIENCE)

    @contextmanager
    def waiting(self) -> Iterator[Sequence[Entry]]:
        """Give the entries that are not stored yet, with the lock held."""
        with self._lock:
            yield self._entries

    def close(self) -> None:
        """Store the entries that are not stored yet, unless that fails for seconds; the rest stays in `waiting`."""
        with self._lock:
            self._closing = True
            self._came.notify()
            writer = self._writer
        patience = time.monotonic() + _CLOSING
        while writer and writer.is_alive() and (not self._fails or time.monotonic() < patience):
            writer.join(0.05)
        self._closed = True
        if self._entries:
            log.error("%s: %d entries could not be stored", self._name, len(self._entries))

    def _write(self) -> None:
        """The writer's thread."""
        while batch := self._next():
            try:
                with self._storage:
                    self._store(batch)
                    with self._lock:
                        self._on_stored(batch)
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
                    log.error("%s is kept in memory only, until it can be stored: %s", self._name, problem)
                self._fails = True
                self._stored.notify_all()
            if self._closed:
                return
            time.sleep(RETRY_AFTER)

    def _next(self) -> list[Entry]:
        """Wait for entries, and return those to be stored now; [] at the end."""
        with self._lock:
            self._came.wait_for(lambda: self._entries or self._closing)
            return list(self._entries)
