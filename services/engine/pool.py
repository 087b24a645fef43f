"""The models that are loaded on this machine: the backend of a single server."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from services.backend.status import Counts, LoadedModel, Room, Status
from services.backend.types import Health, LoadSettings
from services.engine.kv.store import StateStore
from services.engine.llama.embedder import LlamaEmbedder
from services.engine.llama.loading import fit_of, info_of
from services.engine.loop.engine import MAX_WAITING, Engine
from services.engine.machine import all_memory, free_memory, give_back_heap, used_memory
from services.errors import BadModelFile, Unavailable
from services.models.split import part_paths

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Loaded:
    settings: LoadSettings
    engine: Engine | LlamaEmbedder
    leases: int
    used: float

    @property
    def n_bytes(self) -> int:
        return self.engine.n_bytes


class EnginePool:
    """Loaded engines, in the order of their last use.

    Any thread may call it. `_lock` protects the list; `_loading` lets one model load at a time, beside those that answer.
    The last one used stays loaded, and of the others as many as fit the budget of memory, but one for each file: whoever
    changes a profile does not want the old one too. An engine on lease stays too, so that answers in flight finish on the
    old model while later ones use the new. What has been idle for `idle_seconds` is freed, the last one included.
    """

    def __init__(
        self,
        store: StateStore | None = None,
        think_ahead: bool = True,
        max_waiting: int = MAX_WAITING,
        budget: int | None = None,
        idle_seconds: float = 0,
    ) -> None:
        """What an engine is told beside its LoadSettings, and computed states that have no room in the engines.

        `budget` is the bytes that loaded models may take together, three quarters of what is free if None; `idle_seconds`
        0: never.
        """
        self._budget = free_memory() * 3 // 4 if budget is None else budget
        self._is_told = budget is not None
        """Whether somebody has said what models may take, so that each is made to fit."""
        self._idle_seconds = idle_seconds
        self._rested = False
        """Whether the last engine was freed since nobody used it."""
        self._max_waiting = max_waiting
        self._store = store or StateStore()
        self._think_ahead = think_ahead
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._loaded: list[_Loaded] = []
        self._retiring: list[_Loaded] = []
        self._past = Counts()
        """What engines have computed that are no longer loaded."""
        self._closed = False
        self._stopped = threading.Event()
        if idle_seconds:
            threading.Thread(target=self._watch, name="unload", daemon=True).start()

    @contextmanager
    def lease(self, settings: LoadSettings, _poll: Callable[[], None] = lambda: None) -> Iterator[Engine]:
        """See `Backend.lease`; whoever asks this process is asked there whether it still waits."""
        with self._lease(settings, Engine) as engine:
            yield cast(Engine, engine)

    @contextmanager
    def lease_embedder(self, settings: LoadSettings, _poll: Callable[[], None] = lambda: None) -> Iterator[LlamaEmbedder]:
        """See `Backend.lease_embedder`."""
        with self._lease(settings, LlamaEmbedder) as embedder:
            yield cast(LlamaEmbedder, embedder)

    @contextmanager
    def _lease(self, settings: LoadSettings, kind: type[Engine | LlamaEmbedder]) -> Iterator[Engine | LlamaEmbedder]:
        held = self._find(settings, kind)
        if held is None:
            with self._loading:
                # Whoever held the lock may have loaded just this.
                held = self._find(settings, kind) or self._load(settings, kind)
        try:
            yield held.engine
        finally:
            with self._lock:
                held.leases -= 1
                held.used = time.monotonic()
            self._retire()

    def has(self, settings: LoadSettings, embeds: bool) -> bool:
        """Whether a lease of these settings, of one that makes embeddings or not, would not have to load anything."""
        with self._lock:
            held = [held.engine for held in self._loaded if held.settings == settings and held.engine.is_open]
        return any(isinstance(engine, LlamaEmbedder) == embeds for engine in held)

    def loaded(self) -> list[Path]:
        """See `Backend.loaded`."""
        with self._lock:
            return [held.settings.file for held in self._loaded if held.engine.is_open]

    def unload(self, file: Path) -> bool:
        """See `Backend.unload`."""
        with self._lock:
            freed = [held for held in self._loaded if held.settings.file == file]
            if any(held.leases for held in freed):
                raise Unavailable(f"{file.name} answers just now", param="model", code="model_in_use", retry_after=2)
            self._loaded = [held for held in self._loaded if held not in freed]
            self._retiring += freed
            # As one that nobody has used for long: the server is ready to load it again.
            self._rested = self._rested or bool(freed and not self._loaded)
        self._free(freed)
        return bool(freed)

    def status(self) -> Status:
        """See `Backend.status`."""
        with self._lock:
            present = [*self._loaded, *self._retiring]
            counts = self._past
            engines = [held.engine for held in present if isinstance(held.engine, Engine)]
            for engine in engines:
                counts += engine.counts
        states_ram, states_disk = self._store.rooms()
        n_models = sum(held.n_bytes for held in present)
        return Status(
            counts=counts,
            slots=sum(engine.n_slots for engine in engines),
            running=sum(engine.n_running for engine in engines),
            waiting=sum(engine.n_waiting for engine in engines),
            memory=Room(used_memory(), all_memory()),
            states_ram=states_ram,
            states_disk=states_disk,
            models=[LoadedModel(held.settings.file.name, held.n_bytes) for held in present],
            weights=sum(held.engine.n_weights for held in present),
            contexts=n_models - sum(held.engine.n_weights for held in present),
            models_limit=self._budget if self._is_told else max(self._budget, n_models),
        )

    def look(self) -> tuple[int, int]:
        """See `StepClock.look`: the most of any model's."""
        with self._lock:
            present = (*self._loaded, *self._retiring)
        looks = [held.engine.clock.look() for held in present]
        return max((long for long, _ in looks), default=0), max((still for _, still in looks), default=0)

    def forget(self, owner: str, session: str) -> None:
        """See `Backend.forget`."""
        with self._lock:
            engines = [held.engine for held in (*self._loaded, *self._retiring)]
        for engine in engines:
            engine.forget(owner, session)
        self._store.forget(owner, session)

    def stop(self, _owner: str, _session: str) -> bool:
        """See `Backend.stop`: there is no other server."""
        return False

    def retain(self, sessions: Iterable[tuple[str, str]]) -> None:
        """See `Backend.retain`."""
        self._store.retain(set(sessions))

    def health(self) -> Health:
        """See `Backend.health`."""
        with self._lock:
            if self._rested or any(held.engine.is_open for held in self._loaded):
                return "ready"
        return "loading" if self._loading.locked() else "down"

    def close(self) -> None:
        """See `Backend.close`."""
        self._stopped.set()
        with self._lock:
            self._closed, self._rested = True, False
            loaded = list(self._loaded)
        for held in loaded:
            held.engine.stop()
        self._retire()
        self._store.close()

    def _find(self, settings: LoadSettings, kind: type[Engine | LlamaEmbedder]) -> _Loaded | None:
        """Lease the engine of `settings`, where it is loaded and works, and make it the last one used."""
        with self._lock:
            if self._closed:
                raise Unavailable("the server is stopping", code="stopping", retry_after=5)
            for held in self._loaded:
                if held.settings == settings and isinstance(held.engine, kind) and held.engine.is_open:
                    self._loaded.remove(held)
                    self._loaded.append(held)
                    held.leases += 1
                    return held
        return None

    def _load(self, settings: LoadSettings, kind: type[Engine | LlamaEmbedder]) -> _Loaded:
        started = time.perf_counter()
        budget, had_some = self._room() if self._is_told else None, bool(self._loaded)
        self._retire(_expected_bytes(settings, budget))
        engine: Engine | LlamaEmbedder
        try:
            if kind is Engine:
                engine = Engine(settings, self._store, self._think_ahead, self._max_waiting, budget)
            else:
                engine = LlamaEmbedder(settings)
        except BaseException:
            with self._lock:
                # What had to make room can come back, when somebody asks for it.
                self._rested = self._rested or (had_some and not self._loaded)
            raise
        held = _Loaded(settings, engine, leases=1, used=time.monotonic())
        log.info("loaded %s in %.1f s", settings.file.name, time.perf_counter() - started)
        with self._lock:
            self._loaded.append(held)
            self._rested = False
            closed = self._closed
            self._store.set_aside(sum(each.engine.n_weights for each in self._loaded))
        if closed:
            held.engine.stop()
        self._retire()
        return held

    def _retire(self, coming: int = 0) -> None:
        """Free the engines that nobody holds and that have no place any more; `coming` bytes are about to be taken.

        Only for what is coming does the last one used leave too.
        """
        with self._lock:
            retired = [held for held in self._outdated() if not held.leases]
            self._loaded = [held for held in self._loaded if held not in retired]
            self._retiring += retired
            over = sum(held.n_bytes for held in self._loaded) + coming - self._budget
            for held in [held for held in self._loaded[: None if coming else -1] if not held.leases]:
                if over > 0:
                    over -= held.n_bytes
                    self._loaded.remove(held)
                    self._retiring.append(held)
                    retired.append(held)
        self._free(retired)

    def _free(self, retired: list[_Loaded]) -> None:
        for held in retired:
            held.engine.close()
            with self._lock:
                self._retiring.remove(held)
                if isinstance(held.engine, Engine):
                    self._past += held.engine.counts
                self._store.set_aside(sum(each.engine.n_weights for each in self._loaded))
        if retired:
            give_back_heap()

    def _room(self) -> int:
        """The bytes that models may take beside those that answer just now."""
        with self._lock:
            return max(self._budget - sum(held.n_bytes for held in self._loaded if held.leases), 0)

    def _outdated(self) -> list[_Loaded]:
        """The engines that a later one of the same file stands for, those that broke, and those that are idle too long."""
        if self._closed:
            return self._loaded
        latest = {(held.settings.file, type(held.engine)): held for held in self._loaded}
        before = time.monotonic() - self._idle_seconds if self._idle_seconds else 0.0
        return [
            held
            for held in self._loaded
            if latest[held.settings.file, type(held.engine)] is not held or not held.engine.is_open or held.used < before
        ]

    def _watch(self) -> None:
        """The thread that frees what is idle."""
        while not self._stopped.wait(min(self._idle_seconds / 4, 10)):
            with self._lock:
                had_some = bool(self._loaded)
            self._retire()
            with self._lock:
                if had_some and not self._loaded and not self._closed:
                    self._rested = True


def _expected_bytes(settings: LoadSettings, budget: int | None) -> int:
    """About what a model will take once it is loaded."""
    try:
        size = sum(part.stat().st_size for part in part_paths(settings.file))
        fits = fit_of(settings, info_of(settings), free_memory(), budget, size)
    except (OSError, BadModelFile):
        # It has just been removed, or is damaged, which loading it will say.
        return 0
    return fits.weights + fits.kv
