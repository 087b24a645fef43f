"""The models that are loaded on this machine: the backend of a single server."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from services.backend import Health, LoadSettings
from services.engine.engine import MAX_WAITING, Engine
from services.engine.store import StateStore
from services.errors import Unavailable

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Loaded:
    settings: LoadSettings
    engine: Engine
    leases: int


class EnginePool:
    """Loaded engines, in the order of their last use.

    Any thread may call it. `_turn` protects the list; `_loading` lets one model load at a time, beside those that answer.
    One idle engine stays, the last one used. An engine on lease stays too, so that answers in flight finish on the old
    model while later ones use the new.
    """

    def __init__(self, store: StateStore | None = None, think_ahead: bool = True, max_waiting: int = MAX_WAITING) -> None:
        """What an engine is told beside its LoadSettings, and computed states that have no room in the engines."""
        self._max_waiting = max_waiting
        self._store = store or StateStore()
        self._think_ahead = think_ahead
        self._turn = threading.Lock()
        self._loading = threading.Lock()
        self._loaded: list[_Loaded] = []
        self._retiring: list[_Loaded] = []
        self._closed = False

    @contextmanager
    def lease(self, settings: LoadSettings) -> Iterator[Engine]:
        """See `Backend.lease`."""
        held = self._find(settings)
        if held is None:
            with self._loading:
                # Whoever held the lock may have loaded just this.
                held = self._find(settings) or self._load(settings)
        try:
            yield held.engine
        finally:
            with self._turn:
                held.leases -= 1
            self._retire()

    def forget(self, owner: str, session: str) -> None:
        """See `Backend.forget`."""
        with self._turn:
            engines = [held.engine for held in (*self._loaded, *self._retiring)]
        for engine in engines:
            engine.forget(owner, session)
        self._store.forget(owner, session)

    def health(self) -> Health:
        """See `Backend.health`."""
        with self._turn:
            if any(held.engine.is_open for held in self._loaded):
                return "ready"
        return "loading" if self._loading.locked() else "down"

    def close(self) -> None:
        """See `Backend.close`."""
        with self._turn:
            self._closed = True
            loaded = list(self._loaded)
        for held in loaded:
            held.engine.stop()
        self._retire()
        self._store.close()

    def _find(self, settings: LoadSettings) -> _Loaded | None:
        """Lease the engine of `settings`, where it is loaded and works, and make it the last one used."""
        with self._turn:
            if self._closed:
                raise Unavailable("the server is stopping", code="stopping", retry_after=5)
            for held in self._loaded:
                if held.settings == settings and held.engine.is_open:
                    self._loaded.remove(held)
                    self._loaded.append(held)
                    held.leases += 1
                    return held
        return None

    def _load(self, settings: LoadSettings) -> _Loaded:
        started = time.perf_counter()
        held = _Loaded(settings, Engine(settings, self._store, self._think_ahead, self._max_waiting), leases=1)
        log.info("loaded %s in %.1f s", settings.file.name, time.perf_counter() - started)
        with self._turn:
            self._loaded.append(held)
            closed = self._closed
        if closed:
            held.engine.stop()
        return held

    def _retire(self) -> None:
        """Free the engines that nobody holds, but for the last one used."""
        with self._turn:
            stay = self._loaded[-1:] if not self._closed else []
            retired = [held for held in self._loaded if not held.leases and held not in stay]
            self._loaded = [held for held in self._loaded if held not in retired]
            self._retiring += retired
        for held in retired:
            held.engine.close()
            with self._turn:
                self._retiring.remove(held)
