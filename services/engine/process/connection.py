"""The connection to one engine process: calls, replies, generations, and the end."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import override

from services.backend.codec import Message, error_from_json, from_json, to_json
from services.backend.status import Counts, Room, Status
from services.backend.types import GenerationRequest, Health, LoadSettings
from services.engine.process.incoming import EngineChannel, IncomingGeneration
from services.engine.process.polling import POLL_SECONDS, is_done_within, result_of
from services.engine.process.socket import MessageSocket, frame, parse
from services.engine.process.updates import Update, decode, is_updates
from services.engine.process.watchdog import LONGEST_STEP, PING_SECONDS, Watchdog
from services.engine.process_stat import is_stopped, work_of
from services.errors import Unavailable
from services.settings import HOME

log = logging.getLogger(__name__)

# Seconds in which a process that is to stop may save its computed states and free its models.
STOP_SECONDS = 15.0
# Seconds that a caller waits for a call that neither loads nor generates: it may have to wait for a step.
CALL_SECONDS = 120.0
# Seconds that a process has to end by itself once its socket is closed, and once it is killed.
_ENDING = 5.0


@dataclass(frozen=True)
class EngineOptions:
    """The options of the engine's process beside the models' settings: those of EnginePool and StateStore."""

    states: Path
    cache_ram: int | None = None
    cache_disk: int = 0
    shares_states: bool = False
    """True if other engines use the folder of states too."""
    prefetches: bool = True
    queue: int = 32
    model_ram: int | None = None
    idle_seconds: float = 0
    log_level: str = "WARNING"
    log_format: str = "text"
    timeout: float = 8
    """Seconds after which a process that does not answer is killed; 0: never."""


@dataclass(frozen=True)
class Report:
    """The state of a process, by its own account."""

    health: Health
    loaded: list[Path]
    status: Status


def _no_report() -> Report:
    none = Room(0, 0)
    return Report("down", [], Status(Counts(), 0, 0, 0, none, none, none))


@dataclass(frozen=True)
class Lease:
    """A model on lease: its number, the reply that comes once it is loaded, and what the process has told of the model.

    `poll` is called while it loads.
    """

    number: int
    ready: Future[Any]
    known: Message
    poll: Callable[[], None]


def crashed() -> Unavailable:
    """The error of everything that waited for a process that has ended."""
    what = "the engine's process ended while it worked on this; nothing was stored, and asking again is safe"
    return Unavailable(what, code="engine_crashed", retry_after=2)


class EngineConnection(EngineChannel):
    """One process, from its start to its end. Any thread may call; one of its own sends, and another one receives.

    `_lock` protects the tables of pending replies and generations. No caller ever waits for the socket.
    """

    def __init__(self, process: subprocess.Popen[bytes], to_process: MessageSocket, timeout: float) -> None:
        """`timeout` is the seconds of silence after which the process is killed; 0: never."""
        self.process = process
        self.began = time.monotonic()
        self.over = threading.Event()
        self.ready = threading.Event()
        self.report = _no_report()
        self._socket = to_process
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._replies: dict[int, Future[Any]] = {}
        self._overdue: dict[int, float] = {}
        """Of each call that no caller waits for any more and that is still not done, for how many seconds."""
        self._generations: dict[int, IncomingGeneration] = {}
        self._numbers_of: dict[tuple[LoadSettings, bool], int] = {}
        """Of each model that was leased before, the number of the first lease."""
        self._known: dict[tuple[LoadSettings, bool], Message] = {}
        """Of each, what the process has answered."""
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._watchdog = Watchdog(timeout)
        self._ping: Future[Any] | None = None
        self._reason = ""
        """Why it was killed, where it was."""

    @classmethod
    def open(cls, options: EngineOptions) -> EngineConnection:
        """Start a process, on a thread that lives as long: the system kills it when that ends, however the server does.

        Raises OSError.
        """
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "services.engine.process.main", str(theirs.fileno())]
        # numpy's threads are of no use in it.
        environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        # A session of its own: Ctrl+C is for the server, which ends this process in its turn.
        process = subprocess.Popen(  # noqa: S603
            command, cwd=HOME, env=environ, pass_fds=[theirs.fileno()], start_new_session=True, stdin=subprocess.DEVNULL
        )
        theirs.close()
        connection = cls(process, MessageSocket(ours), options.timeout)
        connection._outbox.put(frame({**vars(options), "states": str(options.states)}))
        threading.Thread(target=connection._send, name="to the engine", daemon=True).start()
        threading.Thread(target=connection._receive, name="from the engine", daemon=True).start()
        return connection

    @property
    def is_over(self) -> bool:
        """True if the process has ended."""
        return self.over.is_set()

    @property
    @override
    def is_silent(self) -> bool:
        return self._watchdog.is_silent or is_stopped(self.process.pid)

    def ping(self) -> None:
        """Ask the process for a sign of life, once every PING_SECONDS, and kill it where it counts as hung.

        Raises Unavailable where it has ended.
        """
        watchdog, ping, pid = self._watchdog, self._ping, self.process.pid
        if not self.ready.is_set():
            reason = watchdog.starting(work_of(pid))
        elif ping is None or ping.done():
            reason = watchdog.answered(*ping.result()) if ping and not ping.exception() else ""
            _, self._ping = self._ask("ping")
        elif self._socket.has_input:
            # It is the server that is behind.
            reason = ""
        else:
            reason = watchdog.missed(work_of(pid))
        with self._lock:
            self._overdue = {number: seconds + PING_SECONDS for number, seconds in self._overdue.items()}
            if max(self._overdue.values(), default=0) > LONGEST_STEP:
                reason = reason or f"it did not do within {CALL_SECONDS + LONGEST_STEP:g} s what takes milliseconds"
        if reason and not self.is_over:
            self._kill(reason)

    def call(self, do: str, seconds: float = CALL_SECONDS, **fields: Any) -> Any:
        """Send a message, and return its answer.

        Raises the error that the process answers with, and Unavailable after a crash, or where no answer comes in time.
        """
        number, reply = self._ask(do, **fields)
        with self._awaited(number):
            return self._in_time(number, reply, seconds)

    def call_polled(self, do: str, poll: Callable[[], None], **fields: Any) -> Any:
        """Call as `call`, without a limit of time; `poll` is called meanwhile, and by raising gives up, there too."""
        number, reply = self._ask(do, **fields)
        with self._awaited(number, gives_up=True):
            return result_of(reply, poll)

    def call_leased(self, do: str, lease: Lease, **fields: Any) -> Any:
        """Call as `call`, of a leased model. Loading that again is no delay, and the lease's `poll` is called meanwhile."""
        number, reply = self._ask(do, lease=lease.number, **fields)
        with self._awaited(number, gives_up=True):
            while not lease.ready.done() and not is_done_within(reply, POLL_SECONDS):
                lease.poll()
            return self._in_time(number, reply, CALL_SECONDS)

    @contextlib.contextmanager
    def _awaited(self, number: int, gives_up: bool = False) -> Iterator[None]:
        """Keep a reply pending meanwhile; `gives_up`: an exception tells the process that nobody waits any more."""
        try:
            yield
        except BaseException:
            if gives_up:
                self.tell("give_up", number=number)
            raise
        finally:
            with self._lock:
                self._replies.pop(number, None)

    def _in_time(self, number: int, reply: Future[Any], seconds: float) -> Any:
        if is_done_within(reply, seconds):
            return reply.result()
        with self._lock:
            if number in self._replies:
                self._overdue[number] = 0.0
        raise Unavailable(f"the engine did not answer within {seconds:g} seconds", code="timeout", retry_after=10)

    @override
    def tell(self, do: str, **fields: Any) -> None:
        self._outbox.put(frame({"id": next(self._numbers), "do": do, **fields}))

    def _ask(self, do: str, **fields: Any) -> tuple[int, Future[Any]]:
        """Send a message; return its number, and the answer to come. Raises Unavailable."""
        number = next(self._numbers)
        message = frame({"id": number, "do": do, **fields})
        reply: Future[Any] = Future()
        with self._lock:
            if self.is_over:
                raise crashed()
            self._replies[number] = reply
        self._outbox.put(message)
        return number, reply

    def lease(self, settings: LoadSettings, embeds: bool, poll: Callable[[], None]) -> Lease:
        """Lease a model, loaded first where it is not.

        `poll` is called meanwhile, and gives up by raising; the model is loaded all the same. A model that was leased
        before is not waited for: where it cannot be loaded any more, the calls on it raise that. Raises BadModelFile.
        """
        number = next(self._numbers)
        like = self._numbers_of.setdefault((settings, embeds), number)
        known = self._known.get((settings, embeds))
        new = {} if known else {"settings": to_json(settings)}
        id_, ready = self._ask("lease", lease=number, like=like, embeds=embeds, **new)
        try:
            if not known:
                known = self._known[settings, embeds] = dict(result_of(ready, poll))
            return Lease(number, ready, known, poll)
        except BaseException:
            self.tell("release", lease=number)
            with self._lock:
                self._replies.pop(id_, None)
            raise

    def submit_all(self, lease: Lease, requests: Sequence[GenerationRequest]) -> list[IncomingGeneration]:
        """Queue requests of a leased model, as `Model.submit_all` does."""
        made = [IncomingGeneration(next(self._numbers), self) for _ in requests]
        with self._lock:
            self._generations |= {generation.number: generation for generation in made}
        try:
            requests_as_json = [[generation.number, to_json(each)] for generation, each in zip(made, requests, strict=True)]
            self.call_leased("submit_all", lease, requests=requests_as_json)
        except BaseException:
            with self._lock:
                for generation in made:
                    self._generations.pop(generation.number, None)
            # Where it was not done in time, it may still be.
            for generation in made:
                self.tell("cancel", number=generation.number)
            raise
        return made

    def ending(self) -> str:
        """Return in words how the process has ended."""
        status = self.process.returncode
        if status is None:
            how = "it cannot be killed"
        else:
            named = {number.value: number.name for number in signal.Signals}
            how = named.get(-status, f"signal {-status}") if status < 0 else f"status {status}"
        return f"{how}: {self._reason}" if self._reason else how

    def stop(self) -> None:
        """Have it save its computed states and end; kill it where that takes too long, or it is silent."""
        deadline = time.monotonic() + STOP_SECONDS
        try:
            self.call("close", STOP_SECONDS)
        except Unavailable:
            log.warning("the engine's process does not stop by itself")
        self._socket.close()
        if not self.over.wait(max(deadline - time.monotonic(), 1)):
            self.process.kill()
            self.over.wait(_ENDING)

    def _kill(self, reason: str) -> None:
        """Kill a process that hangs, without waiting for its end: the kernel may hold it."""
        self._reason = reason
        self.process.kill()
        self._socket.close()

    def _send(self) -> None:
        """The thread that sends: it alone waits where the process does not read."""
        with contextlib.suppress(OSError):
            while frames := self._outbox.get():
                self._socket.send_frames(frames)

    def _receive(self) -> None:
        """The thread that receives, and at the end fails whatever still waits."""
        try:
            while (data := self._socket.receive_data()) is not None:
                if is_updates(data):
                    self._deliver(decode(data))
                else:
                    self._handle(parse(data))
        except Exception:
            log.exception("the engine's process says what cannot be read")
            self.process.kill()
        self._socket.close()
        self._wait()
        with self._lock:
            self.over.set()
            replies, generations = list(self._replies.values()), list(self._generations.values())
            self._generations.clear()
        self._outbox.put(None)
        for reply in replies:
            # An answer may have come whose caller has not removed it yet.
            if not reply.done():
                reply.set_exception(crashed())
        for generation in generations:
            generation.put(crashed())
            generation.left.set()

    def _wait(self) -> None:
        """Wait for the end of a process whose socket is closed, and kill it where that takes long."""
        for _ in range(2):
            try:
                self.process.wait(_ENDING)
                return
            except subprocess.TimeoutExpired:
                self.process.kill()

    def _handle(self, message: Message) -> None:
        if "ready" in message:
            self.ready.set()
        elif "report" in message:
            self.report = from_json(Report, message["report"])
        else:
            with self._lock:
                reply = self._replies.pop(message["id"], None)
                self._overdue.pop(message["id"], None)
            if reply and "error" in message:
                reply.set_exception(error_from_json(message["error"]))
            elif reply:
                reply.set_result(message["ok"])

    def _deliver(self, updates: Sequence[Update]) -> None:
        """Hand updates to their generations."""
        with self._lock:
            found = [(update, self._generations.get(update.number)) for update in updates]
            for update in updates:
                if update.left:
                    self._generations.pop(update.number, None)
        for update, generation in found:
            if generation:
                generation.take(update)
            elif not update.left:
                # Its caller has given up before it was queued.
                self.tell("cancel", number=update.number)
