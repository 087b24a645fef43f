"""One life of the engine's process: what is asked of it, what it says, and who is told when it ends."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLate
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from services.backend import Finish, GenerationRequest, LoadSettings, Spent
from services.codec import Message, plain, read, read_choice, read_error
from services.delivery import Delivery
from services.engine.wire import Wire
from services.errors import Unavailable
from services.settings import HOME

log = logging.getLogger(__name__)

# Seconds for which an engine's process that is to stop may save what it has computed, and free its models.
STOP_SECONDS = 15.0
# How long a caller that leaves waits for what its answer has cost: a step takes less.
_LAST_STEP = 3.0


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


def crashed() -> Unavailable:
    """What everybody gets who waited for a process that has ended."""
    what = "the engine's process ended while it worked on this; nothing was stored, and asking again is safe"
    return Unavailable(what, code="engine_crashed", retry_after=2)


class Life:
    """One process, from its start to its end. Its own thread receives; any thread may call or send.

    `_turn` protects the tables of what is waited for.
    """

    def __init__(self, options: EngineOptions, ended: Callable[[Life], None]) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "services.engine.child", str(theirs.fileno())]
        # numpy's threads would be there before the process forks, and are of no use in it.
        environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        # A session of its own: Ctrl+C is for the server, which ends this process in its turn.
        self.process = subprocess.Popen(  # noqa: S603
            command, cwd=HOME, env=environ, pass_fds=[theirs.fileno()], start_new_session=True, stdin=subprocess.DEVNULL
        )
        theirs.close()
        self.began = time.monotonic()
        self.is_over = False
        self.ready = threading.Event()
        self._wire = Wire(ours)
        self._numbers = itertools.count()
        self._turn = threading.Lock()
        self._replies: dict[int, Future[Any]] = {}
        self._generations: dict[int, RemoteGeneration] = {}
        self._ended = ended
        self._known: dict[tuple[LoadSettings, bool], tuple[int, Message]] = {}
        """Of models that were leased before the number of that lease, and what the process has told of them."""
        hello = {**vars(options), "states": str(options.states)}
        threading.Thread(target=self._receive, args=(hello,), name="engine process", daemon=True).start()

    def call(self, do: str, seconds: float | None = None, **what: Any) -> Any:
        """Have something done, and return what came of it. Raises what it raises there, and Unavailable after a crash."""
        number = next(self._numbers)
        reply: Future[Any] = Future()
        with self._turn:
            if self.is_over:
                raise crashed()
            self._replies[number] = reply
        try:
            self._wire.send({"id": number, "do": do, **what})
        except OSError:
            # The receiving thread finds out too, and tells everybody.
            raise crashed() from None
        try:
            return reply.result(seconds)
        finally:
            with self._turn:
                self._replies.pop(number, None)

    def tell(self, do: str, **what: Any) -> None:
        """Have something done that nobody waits for."""
        try:
            self._wire.send({"id": next(self._numbers), "do": do, **what})
        except OSError:
            log.debug("%s comes too late", do)

    def lease(self, settings: LoadSettings, embeds: bool) -> tuple[int, Message]:
        """Lease a model, loaded first where it is not; return the lease's number and what there is to know of the model.

        Of one that is known it is not waited for: where it cannot be had any more, what is asked of it says so. Raises
        BadModelFile.
        """
        lease = next(self._numbers)
        if known := self._known.get((settings, embeds)):
            self.tell("lease", lease=lease, like=known[0], embeds=embeds)
            return lease, known[1]
        try:
            told = dict(self.call("lease", lease=lease, like=lease, settings=plain(settings), embeds=embeds))
        except BaseException:
            self.tell("release", lease=lease)
            raise
        self._known[settings, embeds] = lease, told
        return lease, told

    def submit_all(self, lease: int, requests: Sequence[GenerationRequest]) -> list[RemoteGeneration]:
        """See `Model.submit_all`."""
        made = [RemoteGeneration(self, next(self._numbers)) for _ in requests]
        with self._turn:
            self._generations |= {generation.number: generation for generation in made}
        try:
            plain_requests = [[generation.number, plain(each)] for generation, each in zip(made, requests, strict=True)]
            self.call("submit_all", lease=lease, requests=plain_requests)
        except BaseException:
            with self._turn:
                for generation in made:
                    self._generations.pop(generation.number, None)
            raise
        return made

    def ending(self) -> str:
        """How the process has ended, in words."""
        status = self.process.returncode
        named = {number.value: number.name for number in signal.Signals}
        return named.get(-status, f"signal {-status}") if status < 0 else f"status {status}"

    def stop(self) -> None:
        """Have it save what it has computed, and end; make it end where that takes too long."""
        deadline = time.monotonic() + STOP_SECONDS
        try:
            self.call("close", STOP_SECONDS)
        except (TooLate, Unavailable):
            log.warning("the engine's process does not stop by itself")
        self._wire.close()
        try:
            self.process.wait(max(deadline - time.monotonic(), 1))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _receive(self, hello: Message) -> None:
        try:
            self._wire.send(hello)
            while message := self._wire.receive():
                self._take(message)
        except Exception:
            log.exception("the engine's process says what cannot be read")
            self.process.kill()
        self.process.wait()
        with self._turn:
            self.is_over = True
            replies, generations = list(self._replies.values()), list(self._generations.values())
            self._generations.clear()
        for reply in replies:
            # One that has come may not have been taken yet.
            if not reply.done():
                reply.set_exception(crashed())
        for generation in generations:
            generation.put(crashed())
            generation.left.set()
        self._wire.close()
        self._ended(self)

    def _take(self, message: Message) -> None:
        if "ready" in message:
            self.ready.set()
        elif "id" in message:
            with self._turn:
                reply = self._replies.pop(message["id"], None)
            if reply and "error" in message:
                reply.set_exception(read_error(message["error"]))
            elif reply:
                reply.set_result(message["ok"])
        else:
            with self._turn:
                generation = self._generations.get(message["of"])
                if generation and "left" in message:
                    del self._generations[message["of"]]
            if generation:
                generation.take(message)


class RemoteGeneration(Delivery):
    """A generation in the engine's process; see `Generation`."""

    def __init__(self, life: Life, number: int) -> None:
        super().__init__()
        self.number = number
        self.spent = Spent()
        self.left = threading.Event()
        """Set once its sequence has left the engine."""
        self._life = life
        self._n_pieces = 0

    def take(self, message: Message) -> None:
        """What the engine says of it, on the receiving thread."""
        self.tokens += message.get("tokens", ())
        self.choices += [read_choice(choice) for choice in message.get("choices", ())]
        if "left" in message:
            self.spent = read(Spent, message["left"])
            self.left.set()
        if "text" in message:
            # Until it has left, about as many tokens as pieces.
            self._n_pieces += 1
            self.spent = replace(self.spent, completion_tokens=self._n_pieces)
            self.put(message["text"])
        elif "place" in message:
            self.place = message["place"]
        elif "finish" in message:
            self.put(read(Finish, message["finish"]))
        elif "error" in message:
            self.put(read_error(message["error"]))

    def stop(self) -> None:
        """See `Generation.stop`."""
        self._life.tell("stop", number=self.number)

    def cancel(self) -> None:
        """See `Generation.cancel`; it returns once it is known what the answer has cost."""
        if not self.left.is_set():
            self._life.tell("cancel", number=self.number)
            self.left.wait(_LAST_STEP)
