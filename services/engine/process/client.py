"""The engine in a process of its own, as a backend: what crashes llama.cpp costs the answers in flight, and no more.

The process is started again at once, and after longer and longer pauses where it crashes again and again. One that hangs
is killed. The callers that waited get an error that says so, and may ask again.
"""

from __future__ import annotations

import logging
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from typing_extensions import override

from services.backend.codec import from_json, to_json
from services.backend.protocols import Backend, Embedder, Model
from services.backend.status import Counts, Room, Status
from services.backend.types import ChatFormat, GenerationRequest, Health, LoadSettings, PrefetchRequest, Prompt, Spent
from services.engine.machine import used_memory
from services.engine.own_thread import open_on_own_thread
from services.engine.process.connection import EngineConnection, EngineOptions, Lease, Report, crashed
from services.engine.process.incoming import IncomingGeneration
from services.engine.process.probe import ProbeProcess, Probes
from services.engine.process.watchdog import PING_SECONDS
from services.errors import HearthError, Unavailable

log = logging.getLogger(__name__)

# Seconds in which a new report has to come, or the last one is taken.
_REPORT_SECONDS = 0.05
# Seconds before a process that has crashed is replaced.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0, 5.0
# Seconds after which a crash counts as the first one again.
_STABLE_SECONDS = 10.0


class ProcessModel(Model, Embedder):
    """A loaded model in the engine's process, for as long as its lease lasts."""

    def __init__(self, connection: EngineConnection, lease: Lease, prefetches: bool) -> None:
        self._connection = connection
        self._prefetches = prefetches
        self._lease = lease
        self.n_ctx = int(lease.known["n_ctx"])
        self.chat_format = from_json(ChatFormat, lease.known["chat_format"])
        self.ranks = bool(lease.known["ranks"])

    @override
    def tokenize(self, prompt: Prompt) -> list[int]:
        return self.tokenize_all([prompt])[0]

    @override
    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        return [bytes.fromhex(piece) for piece in self._connection.call_leased("pieces", self._lease, tokens=list(tokens))]

    @override
    def tokenize_all(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        return list(
            self._connection.call_leased("tokenize_all", self._lease, prompts=[to_json(prompt) for prompt in prompts])
        )

    @override
    def submit_all(self, requests: Sequence[GenerationRequest]) -> list[IncomingGeneration]:
        return self._connection.submit_all(self._lease, requests)

    @override
    def prefetch(self, request: PrefetchRequest) -> bool:
        if self._prefetches:
            self._connection.tell("prefetch", lease=self._lease.number, prefetch=to_json(request))
        return self._prefetches

    @override
    def tokenize_pairs(self, query: str, documents: Sequence[str]) -> list[list[int]]:
        fields = {"query": query, "documents": list(documents)}
        return list(self._connection.call_leased("tokenize_pairs", self._lease, **fields))

    @override
    def embed(
        self, texts: Sequence[Sequence[int]], poll: Callable[[], None] = lambda: None
    ) -> tuple[list[list[float]], Spent]:
        lists = [list(tokens) for tokens in texts]
        vectors, spent = self._connection.call_polled("embed", poll, lease=self._lease.number, texts=lists)
        return [_floats(bytes.fromhex(vector)) for vector in vectors], from_json(Spent, spent)


class EngineProcess(Backend):
    """The backend of a single server.

    Any thread may call it. `_lock` protects the current connection, and the counts of those before. A thread of its own
    starts the processes, and watches over them.
    """

    def __init__(self, options: EngineOptions, probe: ProbeProcess, probes: Probes, connection: EngineConnection) -> None:
        """Made by the thread that then supervises it: see `open`."""
        self._options = options
        self._probe = probe
        self._probes = probes
        self._connection = connection
        self._lock = threading.Lock()
        self._closing = False
        self._pause = _FIRST_PAUSE
        self._past = Counts()
        self._restart_listeners: list[Callable[[], None]] = []

    @classmethod
    def open(cls, options: EngineOptions, database: Path) -> EngineProcess:
        """Start a process and the thread that supervises it; the process may still be loading when this returns.

        `database` remembers which settings went well. Raises OSError where no process can be started.
        """
        probe = ProbeProcess()
        probes = Probes(database, probe)

        def make() -> EngineProcess:
            return cls(options, probe, probes, EngineConnection.open(options))

        return open_on_own_thread("engine supervisor", make, EngineProcess._supervise)

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._connection.process.pid

    @override
    def add_restart_listener(self, listener: Callable[[], None]) -> None:
        self._restart_listeners.append(listener)

    @override
    @contextmanager
    def lease(self, settings: LoadSettings, poll: Callable[[], None] = lambda: None) -> Iterator[ProcessModel]:
        with self._leased(settings, False, poll) as model:
            yield model

    @override
    @contextmanager
    def lease_embedder(self, settings: LoadSettings, poll: Callable[[], None] = lambda: None) -> Iterator[ProcessModel]:
        with self._leased(settings, True, poll) as model:
            yield model

    @contextmanager
    def _leased(self, settings: LoadSettings, embeds: bool, poll: Callable[[], None]) -> Iterator[ProcessModel]:
        connection = self._current()
        self._probes.check(settings, embeds, poll)
        lease = connection.lease(settings, embeds, poll)
        try:
            yield ProcessModel(connection, lease, self._options.prefetches)
        finally:
            connection.tell("release", lease=lease.number)

    @override
    def stop(self, owner: str, session: str, thinking: bool = False) -> bool:
        # There is no other server.
        return False

    @override
    def retain(self, sessions: Iterable[tuple[str, str]]) -> None:
        self._current().tell("retain", sessions=sorted(sessions))

    @override
    def loaded(self) -> list[Path]:
        connection = self._connection
        return [] if connection.is_over else _fresh_report(connection).loaded

    @override
    def unload(self, file: Path) -> bool:
        return bool(self._current().call("unload", file=str(file)))

    @override
    def status(self) -> Status:
        with self._lock:
            connection, past = self._connection, self._past
        status = _fresh_report(connection).status
        if connection.is_over:
            none = Room(0, 0)
            status = Status(status.counts, 0, 0, 0, none, none, none)
        server = used_memory()
        memory = Room(status.memory.used + server, status.memory.limit)
        return replace(status, counts=past + status.counts, memory=memory, server=server)

    @override
    def forget(self, owner: str, session: str) -> None:
        self._current().call("forget", owner=owner, session=session)

    @override
    def health(self) -> Health:
        # From the last report, which is never old.
        connection = self._connection
        if self._closing or connection.is_silent:
            return "down"
        if connection.is_over or not connection.ready.is_set():
            return "down" if self._pause > 1 else "loading"
        return connection.report.health

    @override
    def close(self) -> None:
        with self._lock:
            was_closing, self._closing = self._closing, True
        self._probe.close()
        if not was_closing:
            self._connection.stop()

    def _current(self) -> EngineConnection:
        if self._closing:
            raise Unavailable("the server is stopping", code="stopping", retry_after=5)
        connection = self._connection
        if connection.is_over:
            raise crashed()
        return connection

    def _supervise(self) -> None:
        """Watch over one process after the other."""
        connection = self._connection
        while not self._closing or not connection.is_over:
            while not connection.over.wait(PING_SECONDS):
                with suppress(Unavailable):
                    connection.ping()
            if next_connection := self._start_after(connection):
                connection = next_connection
                threading.Thread(target=self._tell_restart, name="restart", daemon=True).start()

    def _tell_restart(self) -> None:
        for listener in self._restart_listeners:
            listener()

    def _start_after(self, connection: EngineConnection) -> EngineConnection | None:
        """Start the process that replaces one that has ended; return None where the server stops."""
        was_stable = time.monotonic() - connection.began > _STABLE_SECONDS
        self._pause = _FIRST_PAUSE if was_stable else min(max(2 * self._pause, 0.5), _LONGEST_PAUSE)
        if not self._closing:
            log.error("the engine's process has ended (%s); the next one starts in %g s", connection.ending(), self._pause)
        while not self._closing:
            time.sleep(self._pause)
            with self._lock:
                if self._closing:
                    break
                try:
                    self._connection = EngineConnection.open(self._options)
                    self._past += connection.report.status.counts
                    return self._connection
                except OSError as error:
                    self._pause = _LONGEST_PAUSE
                    log.error("the engine's process cannot be started: %s", error)
        return None


def _fresh_report(connection: EngineConnection) -> Report:
    """The report of a process now, or its last one where it does not answer at once."""
    if not connection.is_silent:
        with suppress(HearthError):
            connection.call("report", _REPORT_SECONDS)
    return connection.report


def _floats(raw: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))
