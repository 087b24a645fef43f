"""The models that are loaded on this machine: the backend of a single server."""

from __future__ import annotations

import logging
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from typing_extensions import override

from services.backend.protocols import Backend
from services.backend.status import Counts, LoadedModel, Room, Status
from services.backend.types import Health, LoadSettings, draft_of
from services.engine.kv.store import StateStore
from services.engine.llama.embedder import LlamaEmbedder
from services.engine.llama.features import cpu_features
from services.engine.llama.loading import fit_of, info_of
from services.engine.loop.engine import MAX_WAITING, Engine
from services.engine.machine import all_memory, free_memory, trim_heap, used_memory
from services.errors import BadModelFile, Unavailable
from services.models.fast_types import is_slow
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


class EnginePool(Backend):
    """Loaded engines, in the order of their last use.

    Any thread may call it. `_lock` protects the list; `_loading` lets one model load at a time, beside those that answer.
    The last one used stays loaded, and of the others as many as fit the budget of memory, but one for each file: after a
    change of a profile, the old settings are not needed. An engine on lease stays too, so that answers in flight finish on
    the old model while later ones use the new. An engine that is idle for `idle_seconds` is freed, the last one included.
    """

    def __init__(
        self,
        store: StateStore | None = None,
        prefetches: bool = True,
        max_waiting: int = MAX_WAITING,
        budget: int | None = None,
        idle_seconds: float = 0,
    ) -> None:
        """`store`, `prefetches` and `max_waiting` are as for `Engine.open`; the pool closes the store.

        `budget` is the bytes that loaded models may take together, three quarters of the free memory if None;
        `idle_seconds` 0: none is freed for being idle.
        """
        self._budget = free_memory() * 3 // 4 if budget is None else budget
        self._has_budget = budget is not None
        """True if the budget is set by a person, so that each model is made to fit."""
        self._idle_seconds = idle_seconds
        self._is_idle = False
        """True while no engine is loaded because the last one was idle: the server is ready to load it again."""
        self._max_waiting = max_waiting
        self._store = store or StateStore()
        self._prefetches = prefetches
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._loaded: list[_Loaded] = []
        self._retiring: list[_Loaded] = []
        self._suggested: set[Path] = set()
        """The files for which a faster type was suggested."""
        self._past = Counts()
        """The counts of the engines that are no longer loaded."""
        self._closed = False
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin to write states to disk, and to free idle engines."""
        self._store.start()
        if self._idle_seconds:
            threading.Thread(target=self._free_idle, name="unload", daemon=True).start()

    @override
    @contextmanager
    def lease(self, settings: LoadSettings, poll: Callable[[], None] = lambda: None) -> Iterator[Engine]:
        # The other process polls for its callers.
        with self._lease(settings, Engine) as engine:
            yield cast(Engine, engine)

    @override
    @contextmanager
    def lease_embedder(self, settings: LoadSettings, poll: Callable[[], None] = lambda: None) -> Iterator[LlamaEmbedder]:
        with self._lease(settings, LlamaEmbedder) as embedder:
            yield cast(LlamaEmbedder, embedder)

    @contextmanager
    def _lease(self, settings: LoadSettings, kind: type[Engine | LlamaEmbedder]) -> Iterator[Engine | LlamaEmbedder]:
        loaded = self._find(settings, kind)
        if loaded is None:
            with self._loading:
                # Another caller may have loaded it while this one waited for the lock.
                loaded = self._find(settings, kind) or self._load(settings, kind)
        try:
            yield loaded.engine
        finally:
            with self._lock:
                loaded.leases -= 1
                loaded.used = time.monotonic()
            self._retire()

    def has(self, settings: LoadSettings, embeds: bool) -> bool:
        """Return whether a lease of these settings, of one that makes embeddings or not, would load nothing."""
        with self._lock:
            engines = [each.engine for each in self._loaded if each.settings == settings and each.engine.is_open]
        return any(isinstance(engine, LlamaEmbedder) == embeds for engine in engines)

    @override
    def loaded(self) -> list[Path]:
        with self._lock:
            return [each.settings.file for each in self._loaded if each.engine.is_open]

    @override
    def unload(self, file: Path) -> bool:
        with self._lock:
            freed = [each for each in self._loaded if each.settings.file == file]
            if any(each.leases for each in freed):
                raise Unavailable(f"{file.name} answers just now", param="model", code="model_in_use", retry_after=2)
            self._loaded = [each for each in self._loaded if each not in freed]
            self._retiring += freed
            # As if nobody had used it for long.
            self._is_idle = self._is_idle or bool(freed and not self._loaded)
        self._free(freed)
        return bool(freed)

    @override
    def status(self) -> Status:
        with self._lock:
            present = [*self._loaded, *self._retiring]
            counts = self._past
            engines = [each.engine for each in present if isinstance(each.engine, Engine)]
            for engine in engines:
                counts += engine.counts
        states_ram, states_disk = self._store.rooms()
        n_models = sum(each.n_bytes for each in present)
        return Status(
            counts=counts,
            slots=sum(engine.n_slots for engine in engines),
            running=sum(engine.n_running for engine in engines),
            waiting=sum(engine.n_waiting for engine in engines),
            memory=Room(used_memory(), all_memory()),
            states_ram=states_ram,
            states_disk=states_disk,
            models=[LoadedModel(each.settings.file.name, each.n_bytes) for each in present],
            weights=sum(each.engine.n_weights for each in present),
            contexts=n_models - sum(each.engine.n_weights for each in present),
            models_limit=self._budget if self._has_budget else max(self._budget, n_models),
        )

    def observe(self) -> tuple[int, int]:
        """Return the most that `StepClock.observe` returns for any model."""
        with self._lock:
            present = (*self._loaded, *self._retiring)
        observed = [each.engine.clock.observe() for each in present]
        return max((same for same, _ in observed), default=0), max((still for _, still in observed), default=0)

    @override
    def forget(self, owner: str, session: str) -> None:
        with self._lock:
            engines = [each.engine for each in (*self._loaded, *self._retiring)]
        for conversation in (draft_of(session), session):
            for engine in engines:
                engine.forget(owner, conversation)
            self._store.forget(owner, conversation)

    @override
    def stop(self, owner: str, session: str, thinking: bool = False) -> bool:
        # There is no other server.
        return False

    @override
    def retain(self, sessions: Iterable[tuple[str, str]]) -> None:
        self._store.retain(set(sessions))

    @override
    def health(self) -> Health:
        with self._lock:
            if self._is_idle or any(each.engine.is_open for each in self._loaded):
                return "ready"
        return "loading" if self._loading.locked() else "down"

    @override
    def close(self) -> None:
        self._stopped.set()
        with self._lock:
            self._closed, self._is_idle = True, False
            loaded = list(self._loaded)
        for each in loaded:
            each.engine.stop()
        self._retire()
        self._store.close()

    def _find(self, settings: LoadSettings, kind: type[Engine | LlamaEmbedder]) -> _Loaded | None:
        """Lease the engine of `settings`, where it is loaded and works, and make it the last one used."""
        with self._lock:
            if self._closed:
                raise Unavailable("the server is stopping", code="stopping", retry_after=5)
            for each in self._loaded:
                if each.settings == settings and isinstance(each.engine, kind) and each.engine.is_open:
                    self._loaded.remove(each)
                    self._loaded.append(each)
                    each.leases += 1
                    return each
        return None

    def _load(self, settings: LoadSettings, kind: type[Engine | LlamaEmbedder]) -> _Loaded:
        """Load an engine, and lease it."""
        started = time.perf_counter()
        budget, had_some = self._remaining_budget() if self._has_budget else None, bool(self._loaded)
        self._retire(_expected_bytes(settings, budget))
        engine: Engine | LlamaEmbedder
        try:
            if kind is Engine:
                engine = Engine.open(settings, self._store, self._prefetches, self._max_waiting, budget)
            else:
                engine = LlamaEmbedder(settings)
        except BaseException:
            with self._lock:
                # The engine that had to make room is loaded again by the next request for it.
                self._is_idle = self._is_idle or (had_some and not self._loaded)
            raise
        loaded = _Loaded(settings, engine, leases=1, used=time.monotonic())
        log.info("loaded %s in %.1f s", settings.file.name, time.perf_counter() - started)
        with self._lock:
            self._loaded.append(loaded)
            self._is_idle = False
            closed = self._closed
            self._tell_weights()
        if closed:
            engine.stop()
        # A file that was removed meanwhile needs no suggestion.
        with suppress(BadModelFile, OSError):
            self._suggest_conversion(settings)
        self._retire()
        return loaded

    def _suggest_conversion(self, settings: LoadSettings) -> None:
        """Log, once for each file, that another type of it would be much faster here."""
        kind = info_of(settings).quantization
        if settings.file not in self._suggested and is_slow(kind, cpu_features()):
            self._suggested.add(settings.file)
            what = "%s: llama.cpp has no fast kernel for %s on this CPU; to measure and write a faster file: %s"
            log.info(what, settings.file.name, kind, f"python3 main.py tune {shlex.quote(settings.file.name)} --convert")

    def _retire(self, coming: int = 0) -> None:
        """Free the unleased engines that are outdated or over the budget, with `coming` bytes about to be taken.

        The last one used is freed for `coming` bytes only.
        """
        with self._lock:
            retired = [each for each in self._outdated() if not each.leases]
            self._loaded = [each for each in self._loaded if each not in retired]
            self._retiring += retired
            over = sum(each.n_bytes for each in self._loaded) + coming - self._budget
            for each in [each for each in self._loaded[: None if coming else -1] if not each.leases]:
                if over > 0:
                    over -= each.n_bytes
                    self._loaded.remove(each)
                    self._retiring.append(each)
                    retired.append(each)
        self._free(retired)

    def _free(self, retired: list[_Loaded]) -> None:
        for each in retired:
            each.engine.close()
            with self._lock:
                self._retiring.remove(each)
                if isinstance(each.engine, Engine):
                    self._past += each.engine.counts
                self._tell_weights()
        if retired:
            trim_heap()

    def _tell_weights(self) -> None:
        """Tell the store how many bytes the weights of the loaded models take."""
        self._store.set_weights(sum(each.engine.n_weights for each in self._loaded))

    def _remaining_budget(self) -> int:
        """The bytes that a model may take beside those on lease."""
        with self._lock:
            return max(self._budget - sum(each.n_bytes for each in self._loaded if each.leases), 0)

    def _outdated(self) -> list[_Loaded]:
        """The engines that a later one of the same file replaces, those that broke, and those that are idle too long."""
        if self._closed:
            return self._loaded
        latest = {(each.settings.file, type(each.engine)): each for each in self._loaded}
        before = time.monotonic() - self._idle_seconds if self._idle_seconds else 0.0
        return [
            each
            for each in self._loaded
            if latest[each.settings.file, type(each.engine)] is not each or not each.engine.is_open or each.used < before
        ]

    def _free_idle(self) -> None:
        """The thread that frees idle engines."""
        while not self._stopped.wait(min(self._idle_seconds / 4, 10)):
            with self._lock:
                had_some = bool(self._loaded)
            self._retire()
            with self._lock:
                if had_some and not self._loaded and not self._closed:
                    self._is_idle = True


def _expected_bytes(settings: LoadSettings, budget: int | None) -> int:
    """About what a model will take once it is loaded."""
    try:
        size = sum(part.stat().st_size for part in part_paths(settings.file))
        fits = fit_of(settings, info_of(settings), free_memory(), budget, size)
    except (OSError, BadModelFile):
        # It has just been removed, or is damaged, which loading it reports.
        return 0
    return fits.weights + fits.kv
