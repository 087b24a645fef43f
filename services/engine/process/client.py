"""The engine in a process of its own, as a backend: what crashes llama.cpp costs the answers under way, and no more.

The process is started again at once, and again after longer and longer pauses where it crashes again and again. One that
hangs is killed. Whoever waited gets an error that says so, and may ask again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from services.backend.codec import from_json, to_json
from services.backend.status import Counts, Room, Status
from services.backend.types import ChatFormat, GenerationRequest, Health, LoadSettings, PrefetchRequest, Prompt, Spent
from services.engine.machine import used_memory
from services.engine.process.connection import EngineConnection, EngineOptions, Lease, ProcessGeneration, Report, crashed
from services.engine.process.heartbeat import BEAT
from services.engine.process.probe import ProbeProcess, Probes
from services.errors import HearthError, Unavailable

log = logging.getLogger(__name__)

# Seconds in which it says how busy it is, or what it said last is told.
_SOON = 0.05
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0, 5.0
# A process that has lived for so long did not crash at once.
_GOOD_LIFE = 10.0


class ProcessModel:
    """A loaded model in the engine's process, for as long as its lease lasts; see `Model` and `Embedder`."""

    def __init__(self, connection: EngineConnection, lease: Lease) -> None:
        self._connection = connection
        self._lease = lease
        self.n_ctx: int = lease.known["n_ctx"]
        self.chat_format = from_json(ChatFormat, lease.known["chat_format"])

    def tokenize(self, prompt: Prompt) -> list[int]:
        """See `Model.tokenize`."""
        return self.tokenize_all([prompt])[0]

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """See `Model.pieces`."""
        return [bytes.fromhex(piece) for piece in self._connection.call_leased("pieces", self._lease, tokens=list(tokens))]

    def tokenize_all(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """See `Model.tokenize_all`."""
        return list(
            self._connection.call_leased("tokenize_all", self._lease, prompts=[to_json(prompt) for prompt in prompts])
        )

    def submit_all(self, requests: Sequence[GenerationRequest]) -> list[ProcessGeneration]:
        """See `Model.submit_all`."""
        return self._connection.submit_all(self._lease, requests)

    def prefetch(self, request: PrefetchRequest) -> None:
        """See `Model.prefetch`."""
        self._connection.tell("prefetch", lease=self._lease.number, prefetch=to_json(request))

    def embed(self, tokens: Sequence[int], poll: Callable[[], None] = lambda: None) -> tuple[list[float], Spent]:
        """See `Embedder.embed`."""
        vector, spent = self._connection.call_polled("embed", poll, lease=self._lease.number, tokens=list(tokens))
        return list(vector), from_json(Spent, spent)


class EngineProcess:
    """The backend of a single server: see `Backend`.

    Any thread may call it. `_lock` protects which connection is the current one, and what is known of those before. A
    thread of its own starts the processes, and watches over them.
    """

    def __init__(self, options: EngineOptions, tried: Path) -> None:
        """`tried` is the file that remembers which settings went well. Raises OSError where no process can be started."""
        self._options = options
        self._probe = ProbeProcess()
        self._probes = Probes(tried, self._probe)
        self._lock = threading.Lock()
        self._closing = False
        self._pause = _FIRST_PAUSE
        self._past = Counts()
        self.on_restart: Callable[[], None] = lambda: None
        """Called once a new process stands in the place of one that crashed, on a thread of its own."""
        first: Future[EngineConnection] = Future()
        threading.Thread(target=self._supervise, args=(first,), name="engine supervisor", daemon=True).start()
        self._connection = first.result()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._connection.process.pid

    @contextmanager
    def lease(self, settings: LoadSettings, poll: Callable[[], None] = lambda: None) -> Iterator[ProcessModel]:
        """See `Backend.lease`."""
        with self._leased(settings, False, poll) as model:
            yield model

    @contextmanager
    def lease_embedder(self, settings: LoadSettings, poll: Callable[[], None] = lambda: None) -> Iterator[ProcessModel]:
        """See `Backend.lease_embedder`."""
        with self._leased(settings, True, poll) as model:
            yield model

    @contextmanager
    def _leased(self, settings: LoadSettings, embeds: bool, poll: Callable[[], None]) -> Iterator[ProcessModel]:
        connection = self._current()
        self._probes.check(settings, embeds, poll)
        lease = connection.lease(settings, embeds, poll)
        try:
            yield ProcessModel(connection, lease)
        finally:
            connection.tell("release", lease=lease.number)

    def stop(self, _owner: str, _session: str) -> bool:
        """See `Backend.stop`: there is no other server."""
        return False

    def retain(self, sessions: Iterable[tuple[str, str]]) -> None:
        """See `Backend.retain`."""
        self._current().tell("retain", sessions=sorted(sessions))

    def loaded(self) -> list[Path]:
        """See `Backend.loaded`."""
        connection = self._connection
        return [] if connection.is_over else _ask_anew(connection).loaded

    def unload(self, file: Path) -> bool:
        """See `Backend.unload`."""
        return bool(self._current().call("unload", file=str(file)))

    def status(self) -> Status:
        """See `Backend.status`. Of a process that does not answer at once, it is what that said last."""
        with self._lock:
            connection, past = self._connection, self._past
        told = _ask_anew(connection).status
        if connection.is_over:
            none = Room(0, 0)
            told = Status(told.counts, 0, 0, 0, none, none, none)
        server = used_memory()
        memory = Room(told.memory.used + server, told.memory.limit)
        return replace(told, counts=past + told.counts, memory=memory, server=server)

    def forget(self, owner: str, session: str) -> None:
        """See `Backend.forget`."""
        self._current().call("forget", owner=owner, session=session)

    def health(self) -> Health:
        """See `Backend.health`. It is what the process has said last, which is never long ago."""
        connection = self._connection
        if self._closing or connection.is_silent:
            return "down"
        if connection.is_over or not connection.ready.is_set():
            return "down" if self._pause > 1 else "loading"
        return connection.report.health

    def close(self) -> None:
        """See `Backend.close`."""
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

    def _supervise(self, first: Future[EngineConnection]) -> None:
        """The thread that starts one process after the other, and watches over each."""
        try:
            connection = EngineConnection(self._options)
        except OSError as error:
            first.set_exception(error)
            return
        first.set_result(connection)
        while not self._closing or not connection.is_over:
            while not connection.over.wait(BEAT):
                with suppress(Unavailable):
                    connection.beat()
            if next_connection := self._start_after(connection):
                connection = next_connection
                threading.Thread(target=self.on_restart, name="restart", daemon=True).start()

    def _start_after(self, connection: EngineConnection) -> EngineConnection | None:
        """Start the process that takes the place of one that has ended; None where the server stops."""
        has_lived = time.monotonic() - connection.began > _GOOD_LIFE
        self._pause = _FIRST_PAUSE if has_lived else min(max(2 * self._pause, 0.5), _LONGEST_PAUSE)
        if not self._closing:
            log.error("the engine's process has ended (%s); the next one starts in %g s", connection.ending(), self._pause)
        while not self._closing:
            time.sleep(self._pause)
            with self._lock:
                if self._closing:
                    break
                try:
                    self._connection = EngineConnection(self._options)
                    self._past += connection.report.status.counts
                    return self._connection
                except OSError as error:
                    self._pause = _LONGEST_PAUSE
                    log.error("the engine's process cannot be started: %s", error)
        return None


def _ask_anew(connection: EngineConnection) -> Report:
    """What a process says of itself now, or what it said last where it does not answer at once."""
    if not connection.is_silent:
        with suppress(HearthError):
            connection.call("report", _SOON)
    return connection.report
