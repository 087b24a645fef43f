"""The connection to one engine process: calls, replies, and who is told when it ends."""

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
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from services.backend.codec import Message, choice_from_json, error_from_json, from_json, to_json
from services.backend.delivery import Delivery
from services.backend.status import Counts, Room, Status
from services.backend.types import Finish, GenerationRequest, Health, LoadSettings, Spent
from services.engine.process.heartbeat import BEAT, LONGEST_STEP, Heartbeat, is_stopped, work_of
from services.engine.process.polling import POLL_SECONDS, result_of
from services.engine.process.socket import MessageSocket, frame
from services.errors import Unavailable
from services.settings import HOME

log = logging.getLogger(__name__)

# Seconds for which an engine's process that is to stop may save what it has computed, and free its models.
STOP_SECONDS = 15.0
# How long a caller that leaves waits for what its answer has cost: a step takes less.
_LAST_STEP = 3.0
# How long a caller waits for what neither loads nor generates: it may have to wait for a step.
CALL_SECONDS = 120.0
# How long a process whose socket is closed has to end by itself, and one that is killed.
_ENDING = 5.0


@dataclass(frozen=True)
class EngineOptions:
    """What the engine's process is told beside the models' settings; see EnginePool and StateStore."""

    states: Path
    cache_ram: int | None = None
    cache_disk: int = 0
    shares_states: bool = False
    """Whether other engines use the folder of states too."""
    think_ahead: bool = True
    queue: int = 32
    model_ram: int | None = None
    idle_seconds: float = 0
    log_level: str = "WARNING"
    log_format: str = "text"
    timeout: float = 8
    """Seconds after which a process that does not answer is killed; 0: never."""


@dataclass(frozen=True)
class Report:
    """What a process has last said of itself."""

    health: Health
    loaded: list[Path]
    status: Status


def _nothing_yet() -> Report:
    none = Room(0, 0)
    return Report("down", [], Status(Counts(), 0, 0, 0, none, none, none))


@dataclass(frozen=True)
class Lease:
    """A model on lease: its number, what will be answered once it is loaded, and what the process tells of it.

    `poll` is called while it loads.
    """

    number: int
    ready: Future[Any]
    known: Message
    poll: Callable[[], None]


def crashed() -> Unavailable:
    """What everybody gets who waited for a process that has ended."""
    what = "the engine's process ended while it worked on this; nothing was stored, and asking again is safe"
    return Unavailable(what, code="engine_crashed", retry_after=2)


class EngineConnection:
    """One process, from its start to its end. Any thread may call; one of its own sends, and another one receives.

    `_lock` protects the tables of what is waited for. Nobody who calls ever waits for the socket.
    """

    def __init__(self, options: EngineOptions) -> None:
        """Start it, on a thread that lives as long: the system kills the process when that ends, however the server does.

        Raises OSError.
        """
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "services.engine.process.main", str(theirs.fileno())]
        # numpy's threads are of no use in it.
        environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        # A session of its own: Ctrl+C is for the server, which ends this process in its turn.
        self.process = subprocess.Popen(  # noqa: S603
            command, cwd=HOME, env=environ, pass_fds=[theirs.fileno()], start_new_session=True, stdin=subprocess.DEVNULL
        )
        theirs.close()
        self.began = time.monotonic()
        self.over = threading.Event()
        self.ready = threading.Event()
        self.report = _nothing_yet()
        self._socket = MessageSocket(ours)
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._replies: dict[int, Future[Any]] = {}
        self._overdue: dict[int, float] = {}
        """For how many seconds nobody has waited any more for what is still not done."""
        self._generations: dict[int, ProcessGeneration] = {}
        self._numbers_of: dict[tuple[LoadSettings, bool], int] = {}
        """Of models that were leased before the number of the first lease."""
        self._known: dict[tuple[LoadSettings, bool], Message] = {}
        """What the process has told of them."""
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._heartbeat = Heartbeat(options.timeout)
        self._ping: Future[Any] | None = None
        self._reason = ""
        """Why it was killed, where it was."""
        self._outbox.put(frame({**vars(options), "states": str(options.states)}))
        threading.Thread(target=self._send, name="to the engine", daemon=True).start()
        threading.Thread(target=self._receive, name="from the engine", daemon=True).start()

    @property
    def is_over(self) -> bool:
        """Whether the process has ended."""
        return self.over.is_set()

    @property
    def is_silent(self) -> bool:
        """Whether it has not answered for so long that nothing is to be expected of it, or cannot."""
        return self._heartbeat.is_silent or is_stopped(self.process.pid)

    def beat(self) -> None:
        """Look whether it still answers, every BEAT seconds, and kill it where it has not for too long.

        Raises Unavailable where it has ended.
        """
        heartbeat, ping, pid = self._heartbeat, self._ping, self.process.pid
        if not self.ready.is_set():
            reason = heartbeat.start(work_of(pid))
        elif ping is None or ping.done():
            reason = heartbeat.answered(*ping.result()) if ping and not ping.exception() else ""
            _, self._ping = self._ask("beat")
        elif self._socket.has_input:
            # It is the server that is behind.
            reason = ""
        else:
            reason = heartbeat.missed(work_of(pid))
        with self._lock:
            self._overdue = {number: seconds + BEAT for number, seconds in self._overdue.items()}
            if max(self._overdue.values(), default=0) > LONGEST_STEP:
                reason = reason or f"it did not do within {CALL_SECONDS + LONGEST_STEP:g} s what takes milliseconds"
        if reason and not self.is_over:
            self._kill(reason)

    def call(self, do: str, seconds: float = CALL_SECONDS, **what: Any) -> Any:
        """Have something done, and return what came of it.

        Raises what it raises there, and Unavailable after a crash, or where it is not done in time.
        """
        number, reply = self._ask(do, **what)
        with self._awaited(number):
            return self._in_time(number, reply, seconds)

    def call_polled(self, do: str, poll: Callable[[], None], **what: Any) -> Any:
        """The same, however long it takes; what `poll` raises, which is called all the while, has it given up there too."""
        number, reply = self._ask(do, **what)
        with self._awaited(number, gives_up=True):
            return result_of(reply, poll)

    def call_leased(self, do: str, lease: Lease, **what: Any) -> Any:
        """The same of a leased model. To load that again is no delay, and the lease's `poll` is called meanwhile."""
        number, reply = self._ask(do, lease=lease.number, **what)
        with self._awaited(number, gives_up=True):
            while not lease.ready.done() and not wait([reply], POLL_SECONDS).done:
                lease.poll()
            return self._in_time(number, reply, CALL_SECONDS)

    @contextlib.contextmanager
    def _awaited(self, number: int, gives_up: bool = False) -> Iterator[None]:
        """Await a reply meanwhile; `gives_up`: where that raises, the process is told that nobody waits any more."""
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
        if wait([reply], seconds).done:
            return reply.result()
        with self._lock:
            if number in self._replies:
                self._overdue[number] = 0.0
        raise Unavailable(f"the engine did not answer within {seconds:g} seconds", code="timeout", retry_after=10)

    def tell(self, do: str, **what: Any) -> None:
        """Have something done that nobody waits for."""
        self._outbox.put(frame({"id": next(self._numbers), "do": do, **what}))

    def _ask(self, do: str, **what: Any) -> tuple[int, Future[Any]]:
        """Have something done; return the number under which it is answered, and what will be. Raises Unavailable."""
        number = next(self._numbers)
        message = frame({"id": number, "do": do, **what})
        reply: Future[Any] = Future()
        with self._lock:
            if self.is_over:
                raise crashed()
            self._replies[number] = reply
        self._outbox.put(message)
        return number, reply

    def lease(self, settings: LoadSettings, embeds: bool, poll: Callable[[], None]) -> Lease:
        """Lease a model, loaded first where it is not.

        `poll` is called meanwhile, and gives up by what it raises; the model is loaded all the same. One that is known is
        not waited for: where it cannot be had any more, what is asked of it says so. Raises BadModelFile.
        """
        number = next(self._numbers)
        like = self._numbers_of.setdefault((settings, embeds), number)
        known = self._known.get((settings, embeds))
        told = {} if known else {"settings": to_json(settings)}
        id_, ready = self._ask("lease", lease=number, like=like, embeds=embeds, **told)
        try:
            if not known:
                known = self._known[settings, embeds] = dict(result_of(ready, poll))
            return Lease(number, ready, known, poll)
        except BaseException:
            self.tell("release", lease=number)
            with self._lock:
                self._replies.pop(id_, None)
            raise

    def submit_all(self, lease: Lease, requests: Sequence[GenerationRequest]) -> list[ProcessGeneration]:
        """See `Model.submit_all`."""
        made = [ProcessGeneration(self, next(self._numbers)) for _ in requests]
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
        """How the process has ended, in words."""
        status = self.process.returncode
        if status is None:
            how = "it cannot be killed"
        else:
            named = {number.value: number.name for number in signal.Signals}
            how = named.get(-status, f"signal {-status}") if status < 0 else f"status {status}"
        return f"{how}: {self._reason}" if self._reason else how

    def stop(self) -> None:
        """Have it save what it has computed, and end; make it end where that takes too long, or it is silent."""
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
        """End a process that hangs. Not even one that the kernel holds is waited for."""
        self._reason = reason
        self.process.kill()
        self._socket.close()

    def _send(self) -> None:
        """The thread that sends: it alone waits where the process does not read."""
        with contextlib.suppress(OSError):
            while frames := self._outbox.get():
                self._socket.send_frames(frames)

    def _receive(self) -> None:
        """The thread that receives, and tells everybody of the end."""
        try:
            while message := self._socket.receive():
                self._take(message)
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
            # One that has come may not have been taken yet.
            if not reply.done():
                reply.set_exception(crashed())
        for generation in generations:
            generation.put(crashed())
            generation.left.set()

    def _wait(self) -> None:
        """Wait for the end of a process whose socket is closed, and do not let it take long."""
        for _ in range(2):
            try:
                self.process.wait(_ENDING)
                return
            except subprocess.TimeoutExpired:
                self.process.kill()

    def _take(self, message: Message) -> None:
        if "ready" in message:
            self.ready.set()
        elif "report" in message:
            self.report = from_json(Report, message["report"])
        elif "id" in message:
            with self._lock:
                reply = self._replies.pop(message["id"], None)
                self._overdue.pop(message["id"], None)
            if reply and "error" in message:
                reply.set_exception(error_from_json(message["error"]))
            elif reply:
                reply.set_result(message["ok"])
        else:
            with self._lock:
                generation = self._generations.get(message["of"])
                if generation and "left" in message:
                    del self._generations[message["of"]]
            if generation:
                generation.take(message)
            elif "left" not in message:
                # Its caller has given up before it was queued.
                self.tell("cancel", number=message["of"])


class ProcessGeneration(Delivery):
    """A generation in the engine's process; see `Generation`."""

    def __init__(self, connection: EngineConnection, number: int) -> None:
        super().__init__()
        self.number = number
        self.spent = Spent()
        self.left = threading.Event()
        """Set once its sequence has left the engine."""
        self._connection = connection
        self._n_pieces = 0

    def take(self, message: Message) -> None:
        """What the engine says of it, on the receiving thread."""
        self.tokens += message.get("tokens", ())
        self.choices += [choice_from_json(choice) for choice in message.get("choices", ())]
        if "left" in message:
            self.spent = from_json(Spent, message["left"])
            self.left.set()
        if "text" in message:
            # Until it has left, about as many tokens as pieces.
            self._n_pieces += 1
            self.spent = replace(self.spent, completion_tokens=self._n_pieces)
            self.put(message["text"])
        elif "queue_position" in message:
            self.queue_position = message["queue_position"]
        elif "finish" in message:
            self.put(from_json(Finish, message["finish"]))
        elif "error" in message:
            self.put(error_from_json(message["error"]))

    def stop(self) -> None:
        """See `Generation.stop`."""
        self._connection.tell("stop", number=self.number)

    def cancel(self) -> None:
        """See `Generation.cancel`; it returns once it is known what the answer has cost."""
        if not self.left.is_set():
            self._connection.tell("cancel", number=self.number)
            if not self._connection.is_silent:
                self.left.wait(_LAST_STEP)
