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
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from services import logs
from services.backend.codec import Message, choice_to_json, error_to_json, from_json, to_json
from services.backend.types import Finish, GenerationRequest, LoadSettings, PrefetchRequest, Prompt
from services.engine.kv.store import StateStore
from services.engine.llama.embedder import LlamaEmbedder
from services.engine.loop.engine import Engine
from services.engine.loop.sequence import EngineGeneration
from services.engine.machine import bound_heap
from services.engine.pool import EnginePool
from services.engine.process.socket import MessageSocket
from services.errors import HearthError, Unavailable

# Requests of the other process that are worked on at once. None waits here for a model to load.
THREADS = 96
# Prompts up to this length are tokenized in less than a millisecond.
QUICK_CHARACTERS = 4000


class _Outgoing(EngineGeneration):
    """A generation whose events go over the wire. On the engine's thread, but for its making."""

    def __init__(self, request: GenerationRequest, wake: Callable[[], None], number: int, outbox: Outbox) -> None:
        self._number = number
        self._outbox = outbox
        self._queue_position: int | None = None
        self._told = self._n_tokens = 0
        self._has_left = False
        super().__init__(request, wake)

    @property
    def queue_position(self) -> int | None:
        """See `Generation.queue_position`; the other side is told of each change."""
        return self._queue_position

    @queue_position.setter
    def queue_position(self, queue_position: int | None) -> None:
        if queue_position != self._queue_position:
            self._queue_position = queue_position
            self._outbox.put({"of": self._number, "queue_position": queue_position})

    def put(self, event: str | Finish | HearthError) -> None:
        """Send the event, with the tokens that are new since the last, and how they were chosen."""
        message: Message = {"of": self._number}
        if tokens := self.tokens[self._n_tokens :]:
            self._n_tokens += len(tokens)
            message["tokens"] = tokens
        if new := self.choices[self._told :]:
            self._told += len(new)
            message["choices"] = [choice_to_json(choice) for choice in new]
        if isinstance(event, str):
            message["text"] = event
        elif isinstance(event, Finish):
            message["finish"] = to_json(event)
        else:
            message["error"] = error_to_json(event)
        if not isinstance(event, str):
            message["left"], self._has_left = to_json(self.spent), True
        self._outbox.put(message)

    def leave(self) -> None:
        """Send what it has cost, where its end has not told."""
        if not self._has_left:
            self._outbox.put({"of": self._number, "left": to_json(self.spent)})


# What nobody waits for.
_UNANSWERED = frozenset({"stop", "cancel", "give_up", "prefetch", "release", "retain"})
# With whose answer it is told what the process is at.
_REPORTED = frozenset({"beat", "report", "lease", "unload"})
Outbox = queue.SimpleQueue[Message]
Leased = Future[tuple[ExitStack, Engine | LlamaEmbedder]]


class Child:
    """Answers the other process. Its own thread receives; others work, and one sends what the engines say.

    `_reporting` keeps what it says of itself in order.
    """

    def __init__(self, to_server: MessageSocket, pool: EnginePool) -> None:
        self._socket = to_server
        self._reporting = threading.Lock()
        self._pool = pool
        self._outbox: Outbox = queue.SimpleQueue()
        self._workers = ThreadPoolExecutor(THREADS, "worker")
        self._leases: dict[int, Leased] = {}
        self._settings: dict[int, LoadSettings] = {}
        """By the number of the first lease of them."""
        self._loading: dict[int, Leased] = {}
        """The lease that loads a model, by the number of the first."""
        self._deferred: dict[int, Message] = {}
        """What waits for a model to load, and takes no thread meanwhile."""
        self._generations: dict[int, _Outgoing] = {}
        self._embeddings: dict[int, threading.Event] = {}
        """Texts under way by the number of their call, and whether nobody waits for one any more."""
        threading.Thread(target=self._send_events, name="events", daemon=True).start()

    def serve(self) -> None:
        """Work until the other end is gone, or asks for the end."""
        while message := self._socket.receive():
            if self._is_quick(message):
                # At once, and in the order in which they come.
                self._answer(message)
            elif loading := self._waits_for(message):
                self._deferred[message["id"]] = message
                loading.add_done_callback(partial(self._go_on, message["id"]))
            else:
                self._workers.submit(self._answer, message)

    def _waits_for(self, message: Message) -> Leased | None:
        """The lease that has to be there before this is done: a model's own, and where it loads already, the first one."""
        if message["do"] != "lease":
            leased = self._leases.get(message.get("lease", -1))
            return leased if leased and not leased.done() else None
        loading = self._loading.get(message["like"])
        if loading and not loading.done():
            return loading
        self._loading[message["like"]] = self._leases[message["lease"]]
        return None

    def _go_on(self, id_: int, loaded: Leased) -> None:
        """Do what has waited for a model, unless it was given up; a lease fails as the one that it waited for."""
        message = self._deferred.pop(id_, None)
        if message and message["do"] == "lease" and (error := loaded.exception()):
            self._leases[message["lease"]].set_exception(error)
            self._tell({"id": id_, "error": error_to_json(error)})
        elif message:
            self._workers.submit(self._answer, message)

    def _is_quick(self, message: Message) -> bool:
        """Whether it takes about as long as to hand it to another thread: what loads, compiles or waits does not."""
        do = message["do"]
        if do == "lease":
            # It is there from now on, for whatever comes behind it.
            self._leases[message["lease"]] = Future()
            if "settings" in message:
                self._settings[message["like"]] = from_json(LoadSettings, message["settings"])
            return self._pool.has(self._settings[message["like"]], message["embeds"])
        if do in ("tokenize_all", "prefetch") and not self._leases[message["lease"]].done():
            return False
        if do == "tokenize_all":
            return sum(len(prompt["text"]) for prompt in message["prompts"]) < QUICK_CHARACTERS
        if do == "embed":
            self._embeddings[message["id"]] = threading.Event()
        return do in ("stop", "cancel", "give_up", "prefetch", "beat", "report")

    def _answer(self, message: Message) -> None:
        do = getattr(self, f"_do_{message['do']}")
        try:
            reply = {"id": message["id"], "ok": do(message)}
            if message["do"] in _UNANSWERED:
                return
        except BaseException as error:
            reply = {"id": message["id"], "error": error_to_json(error)}
        if message["do"] in _REPORTED:
            self._report(reply)
        else:
            self._tell(reply)

    def _report(self, *messages: Message) -> None:
        """Say what the process is at, before these messages."""
        with self._reporting:
            loaded = [str(path) for path in self._pool.loaded()]
            report = {"health": self._pool.health(), "loaded": loaded, "status": to_json(self._pool.status())}
            self._tell({"report": report}, *messages)

    def _tell(self, *messages: Message) -> None:
        try:
            self._socket.send(*messages)
        except OSError:
            # Nobody is there any more.
            os._exit(1)

    def _send_events(self) -> None:
        while True:
            messages = [self._outbox.get()]
            # What one step of the engine says goes together.
            while not self._outbox.empty():
                messages.append(self._outbox.get())
            left = [message["of"] for message in messages if "left" in message]
            for number in left:
                self._generations.pop(number, None)
            # Whoever has its answer finds it counted.
            (self._report if left else self._tell)(*messages)

    def _do_lease(self, message: Message) -> Message:
        leased = self._leases[message["lease"]]
        settings = self._settings[message["like"]]
        stack = ExitStack()
        model: Engine | LlamaEmbedder
        try:
            if message["embeds"]:
                model = stack.enter_context(self._pool.lease_embedder(settings))
            else:
                model = stack.enter_context(self._pool.lease(settings))
        except BaseException as error:
            leased.set_exception(error)
            raise
        leased.set_result((stack, model))
        return {"n_ctx": model.n_ctx, "chat_format": to_json(model.chat_format)}

    def _do_release(self, message: Message) -> None:
        leased = self._leases.pop(message["lease"])
        if not leased.exception():
            leased.result()[0].close()

    def _do_tokenize_all(self, message: Message) -> list[list[int]]:
        model = self._model(message)
        return [model.tokenize(from_json(Prompt, prompt)) for prompt in message["prompts"]]

    def _do_pieces(self, message: Message) -> list[str]:
        return [piece.hex() for piece in self._engine(message).pieces(message["tokens"])]

    def _do_embed(self, message: Message) -> list[Any]:
        embedder = self._model(message)
        assert isinstance(embedder, LlamaEmbedder)
        is_given_up = self._embeddings[message["id"]]

        def poll() -> None:
            if is_given_up.is_set():
                raise Unavailable("nobody waits for it any more", code="cancelled")

        try:
            vector, spent = embedder.embed(message["tokens"], poll)
        finally:
            del self._embeddings[message["id"]]
        return [vector, to_json(spent)]

    def _do_give_up(self, message: Message) -> None:
        if self._deferred.pop(message["number"], None):
            self._embeddings.pop(message["number"], None)
        elif is_given_up := self._embeddings.get(message["number"]):
            is_given_up.set()

    def _do_submit_all(self, message: Message) -> None:
        numbers = [number for number, _ in message["requests"]]
        requests = [from_json(GenerationRequest, request) for _, request in message["requests"]]

        def make(index: int, request: GenerationRequest, wake: Callable[[], None]) -> _Outgoing:
            number = numbers[index]
            made = self._generations[number] = _Outgoing(request, wake, number, self._outbox)
            return made

        try:
            self._engine(message).submit_all(requests, make)
        except BaseException:
            for number in numbers:
                self._generations.pop(number, None)
            raise

    def _do_stop(self, message: Message) -> None:
        if generation := self._generations.get(message["number"]):
            generation.stop()

    def _do_cancel(self, message: Message) -> None:
        if generation := self._generations.get(message["number"]):
            generation.cancel()

    def _do_prefetch(self, message: Message) -> None:
        self._engine(message).prefetch(from_json(PrefetchRequest, message["prefetch"]))

    def _do_forget(self, message: Message) -> None:
        self._pool.forget(message["owner"], message["session"])

    def _do_retain(self, message: Message) -> None:
        self._pool.retain((owner, session) for owner, session in message["sessions"])

    def _do_unload(self, message: Message) -> bool:
        return self._pool.unload(Path(message["file"]))

    def _do_beat(self, _message: Message) -> tuple[int, int]:
        return self._pool.look()

    def _do_report(self, _message: Message) -> None:
        """What is wanted comes with the answer."""

    def _do_close(self, _message: Message) -> None:
        self._pool.close()

    def _model(self, message: Message) -> Engine | LlamaEmbedder:
        """The model of a lease, once it is loaded. Raises what loading it has raised."""
        return self._leases[message["lease"]].result()[1]

    def _engine(self, message: Message) -> Engine:
        engine = self._model(message)
        assert isinstance(engine, Engine)
        return engine


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
    pool = EnginePool(store, hello["think_ahead"], hello["queue"], hello["model_ram"], hello["idle_seconds"])
    to_server.send({"ready": True})
    Child(to_server, pool).serve()
    # What could be saved has been, if there was time to ask for it; threads may be deep in llama.cpp.
    os._exit(0)


if __name__ == "__main__":
    main()
