"""The engine's process: loaded models and computed states, served over a socket to the process that started it.

`python3 -m services.engine.process.main FD` is started by connection.py. What crashes llama.cpp crashes this process alone.
It ends when the other end of the socket is closed.
"""

from __future__ import annotations

from services.storage.processes import end_with_parent

if __name__ == "__main__":
    # First of all: where this process is stopped, it would not see its socket closed.
    end_with_parent()

import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from services import logs
from services.backend.codec import Message, error_to_json, from_json, to_json
from services.backend.types import GenerationRequest, LoadSettings, PrefetchRequest, Prompt
from services.engine.kv.store import StateStore
from services.engine.llama.embedder import LlamaEmbedder
from services.engine.loop.engine import Engine
from services.engine.loop.sequence import Sequence
from services.engine.machine import bound_heap
from services.engine.pool import EnginePool
from services.engine.process.outgoing import Outbox, OutgoingGeneration
from services.engine.process.socket import MessageSocket, frame, framed
from services.engine.process.updates import encode
from services.errors import Unavailable

# Requests of the other process that are worked on at once. None waits here for a model to load.
THREADS = 96
# Prompts up to this length are tokenized in less than a millisecond.
QUICK_CHARACTERS = 4000
Leased = Future[tuple[ExitStack, Engine | LlamaEmbedder]]


def _always(_child: Child, _message: Message) -> bool:
    return True


def _never(_child: Child, _message: Message) -> bool:
    return False


@dataclass(frozen=True)
class Handler:
    """The handling of one kind of message."""

    run: Callable[[Child, Message], Any]
    is_quick: Callable[[Child, Message], bool] = _never
    """True for a message that takes no longer than handing it to another thread: the thread that receives handles it, in
    the order in which messages come. Messages that load, compile or wait are not quick."""
    register: Callable[[Child, Message], None] | None = None
    """Called first, by the thread that receives: notes what later messages need."""
    answered: bool = True
    reports: bool = False
    """True if a report of the process goes before its answer."""


class Child:
    """Answers the other process. `serve` receives; worker threads run what is not quick, and one sends events.

    `_reporting` keeps its reports in order.
    """

    def __init__(self, to_server: MessageSocket, pool: EnginePool) -> None:
        self._socket = to_server
        self._reporting = threading.Lock()
        self._pool = pool
        self._outbox = Outbox()
        self._workers = ThreadPoolExecutor(THREADS, "worker")
        self._leases: dict[int, Leased] = {}
        self._settings: dict[int, LoadSettings] = {}
        """By the number of the first lease of them."""
        self._loading: dict[int, Leased] = {}
        """The lease that loads a model, by the number of the first."""
        self._deferred: dict[int, Message] = {}
        """Messages that wait for a model to load, and take no thread meanwhile."""
        self._generations: dict[int, OutgoingGeneration] = {}
        self._embeddings: dict[int, threading.Event] = {}
        """Texts being embedded by the number of their call; set once nobody waits for one any more."""

    def serve(self) -> None:
        """Work until the other end is gone, or asks for the end."""
        threading.Thread(target=self._send_events, name="events", daemon=True).start()
        while message := self._socket.receive():
            handler = HANDLERS[message["do"]]
            if handler.register:
                handler.register(self, message)
            if handler.is_quick(self, message):
                self._run(message)
            elif loading := self._awaited_lease(message):
                self._deferred[message["id"]] = message
                loading.add_done_callback(partial(self._resume, message["id"]))
            else:
                self._workers.submit(self._run, message)

    def _awaited_lease(self, message: Message) -> Leased | None:
        """The lease that has to be ready first: a model's own, and while that loads for another lease, the first one."""
        if message["do"] != "lease":
            leased = self._leases.get(message.get("lease", -1))
            return leased if leased and not leased.done() else None
        loading = self._loading.get(message["like"])
        if loading and not loading.done():
            return loading
        self._loading[message["like"]] = self._leases[message["lease"]]
        return None

    def _resume(self, id_: int, loaded: Leased) -> None:
        """Run a deferred message, unless it was given up; a lease fails as the one that it waited for."""
        message = self._deferred.pop(id_, None)
        if message and message["do"] == "lease" and (error := loaded.exception()):
            self._leases[message["lease"]].set_exception(error)
            self._send(frame({"id": id_, "error": error_to_json(error)}))
        elif message:
            self._workers.submit(self._run, message)

    def _run(self, message: Message) -> None:
        """Handle a message, and answer it."""
        handler = HANDLERS[message["do"]]
        try:
            reply = {"id": message["id"], "ok": handler.run(self, message)}
        except BaseException as error:
            reply = {"id": message["id"], "error": error_to_json(error)}
        if handler.answered:
            (self._send_report if handler.reports else self._send)(frame(reply))

    def _send_report(self, frames: bytes) -> None:
        """Send how busy the process is, then these messages."""
        with self._reporting:
            loaded = [str(path) for path in self._pool.loaded()]
            report = {"health": self._pool.health(), "loaded": loaded, "status": to_json(self._pool.status())}
            self._send(frame({"report": report}) + frames)

    def _send(self, frames: bytes) -> None:
        try:
            self._socket.send_frames(frames)
        except OSError:
            # The server is gone.
            os._exit(1)

    def _send_events(self) -> None:
        """The thread that sends the events of generations: those of one step of the engine go together."""
        while True:
            updates = self._outbox.take()
            if not updates:
                continue
            left = [update.number for update in updates if update.left]
            for number in left:
                self._generations.pop(number, None)
            # A caller that has its answer finds it counted.
            (self._send_report if left else self._send)(framed(encode(updates)))

    # The handlers. Those of `is_quick` and `register` are on the thread that receives.

    def _register_lease(self, message: Message) -> None:
        self._leases[message["lease"]] = Future()
        if "settings" in message:
            self._settings[message["like"]] = from_json(LoadSettings, message["settings"])

    def _is_loaded(self, message: Message) -> bool:
        return self._pool.has(self._settings[message["like"]], message["embeds"])

    def _lease(self, message: Message) -> Message:
        leased = self._leases[message["lease"]]
        settings = self._settings[message["like"]]
        stack = ExitStack()
        model: Engine | LlamaEmbedder
        try:
            was_loaded = self._is_loaded(message)
            if message["embeds"]:
                model = stack.enter_context(self._pool.lease_embedder(settings))
            else:
                model = stack.enter_context(self._pool.lease(settings))
        except BaseException as error:
            self._send_report(b"")
            leased.set_exception(error)
            raise
        if not was_loaded:
            # First: with the result, the messages go on that wait for it.
            self._send_report(b"")
        leased.set_result((stack, model))
        ranks = isinstance(model, LlamaEmbedder) and model.ranks
        return {"n_ctx": model.n_ctx, "chat_format": to_json(model.chat_format), "ranks": ranks}

    def _release(self, message: Message) -> None:
        leased = self._leases.pop(message["lease"])
        if not leased.exception():
            leased.result()[0].close()

    def _has_model(self, message: Message) -> bool:
        return self._leases[message["lease"]].done()

    def _has_short_prompts(self, message: Message) -> bool:
        return self._has_model(message) and sum(len(each["text"]) for each in message["prompts"]) < QUICK_CHARACTERS

    def _tokenize_all(self, message: Message) -> list[list[int]]:
        model = self._model(message)
        return model.tokenize_all([from_json(Prompt, prompt) for prompt in message["prompts"]])

    def _pieces(self, message: Message) -> list[str]:
        return [piece.hex() for piece in self._engine(message).pieces(message["tokens"])]

    def _tokenize_pairs(self, message: Message) -> list[list[int]]:
        embedder = self._model(message)
        assert isinstance(embedder, LlamaEmbedder)
        return embedder.tokenize_pairs(message["query"], message["documents"])

    def _register_embedding(self, message: Message) -> None:
        self._embeddings[message["id"]] = threading.Event()

    def _embed(self, message: Message) -> list[Any]:
        embedder = self._model(message)
        assert isinstance(embedder, LlamaEmbedder)
        is_given_up = self._embeddings[message["id"]]

        def poll() -> None:
            if is_given_up.is_set():
                raise Unavailable("nobody waits for it any more", code="cancelled")

        try:
            vectors, spent = embedder.embed(message["texts"], poll)
        finally:
            del self._embeddings[message["id"]]
        return [[struct.pack(f"<{len(vector)}f", *vector).hex() for vector in vectors], to_json(spent)]

    def _give_up(self, message: Message) -> None:
        if self._deferred.pop(message["number"], None):
            self._embeddings.pop(message["number"], None)
        elif is_given_up := self._embeddings.get(message["number"]):
            is_given_up.set()

    def _submit_all(self, message: Message) -> None:
        numbers = [number for number, _ in message["requests"]]
        requests = [from_json(GenerationRequest, request) for _, request in message["requests"]]

        def make(index: int, sequence: Sequence, wake: Callable[[], None]) -> OutgoingGeneration:
            number = numbers[index]
            made = self._generations[number] = OutgoingGeneration(sequence, wake, number, self._outbox)
            return made

        try:
            self._engine(message).submit_all(requests, make)
        except BaseException:
            for number in numbers:
                self._generations.pop(number, None)
            raise

    def _stop(self, message: Message) -> None:
        if generation := self._generations.get(message["number"]):
            generation.stop()

    def _stop_thinking(self, message: Message) -> None:
        if generation := self._generations.get(message["number"]):
            generation.stop_thinking()

    def _cancel(self, message: Message) -> None:
        if generation := self._generations.get(message["number"]):
            generation.cancel()

    def _prefetch(self, message: Message) -> None:
        self._engine(message).prefetch(from_json(PrefetchRequest, message["prefetch"]))

    def _forget(self, message: Message) -> None:
        self._pool.forget(message["owner"], message["session"])

    def _retain(self, message: Message) -> None:
        self._pool.retain((owner, session) for owner, session in message["sessions"])

    def _unload(self, message: Message) -> bool:
        return self._pool.unload(Path(message["file"]))

    def _ping(self, _message: Message) -> tuple[int, int]:
        return self._pool.observe()

    def _report(self, _message: Message) -> None:
        """Do nothing: the report goes before the answer."""

    def _close(self, _message: Message) -> None:
        self._pool.close()

    def _model(self, message: Message) -> Engine | LlamaEmbedder:
        """The model of a lease, once it is loaded. Raises the error of loading it."""
        return self._leases[message["lease"]].result()[1]

    def _engine(self, message: Message) -> Engine:
        engine = self._model(message)
        assert isinstance(engine, Engine)
        return engine


HANDLERS = {
    "lease": Handler(Child._lease, Child._is_loaded, Child._register_lease),
    "release": Handler(Child._release, answered=False),
    "tokenize_all": Handler(Child._tokenize_all, Child._has_short_prompts),
    "pieces": Handler(Child._pieces),
    "tokenize_pairs": Handler(Child._tokenize_pairs),
    "embed": Handler(Child._embed, register=Child._register_embedding),
    "give_up": Handler(Child._give_up, _always, answered=False),
    "submit_all": Handler(Child._submit_all),
    "stop": Handler(Child._stop, _always, answered=False),
    "stop_thinking": Handler(Child._stop_thinking, _always, answered=False),
    "cancel": Handler(Child._cancel, _always, answered=False),
    "prefetch": Handler(Child._prefetch, Child._has_model, answered=False),
    "forget": Handler(Child._forget),
    "retain": Handler(Child._retain, answered=False),
    "unload": Handler(Child._unload, reports=True),
    "ping": Handler(Child._ping, _always, reports=True),
    "report": Handler(Child._report, _always, reports=True),
    "close": Handler(Child._close),
}
"""Every kind of message that the server sends, by its "do"."""


def main() -> None:
    """Serve on the socket whose number is the argument; the first message says how."""
    for name in (signal.SIGINT, signal.SIGTERM):
        # Ctrl+C in a terminal is the other process's, which ends this one in its turn.
        signal.signal(name, signal.SIG_IGN)
    to_server = MessageSocket(socket.socket(fileno=int(sys.argv[1])))
    hello = to_server.receive()
    if hello is None:
        return
    bound_heap()
    logs.set_up(hello["log_level"], hello["log_format"])
    store = StateStore(Path(hello["states"]), hello["cache_ram"], hello["cache_disk"], hello["shares_states"])
    pool = EnginePool(store, hello["prefetches"], hello["queue"], hello["model_ram"], hello["idle_seconds"])
    pool.start()
    to_server.send({"ready": True})
    Child(to_server, pool).serve()
    # What could be saved has been, if there was time to ask for it; threads may be deep in llama.cpp.
    os._exit(0)


if __name__ == "__main__":
    main()
