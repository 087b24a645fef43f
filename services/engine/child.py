"""The engine's process: loaded models and computed states, served over a socket to the process that started it.

`python3 -m services.engine.child FD` is started by services/engine/process.py. What crashes llama.cpp crashes this process
alone. It ends when the other end of the socket is closed.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from services import logs
from services.backend import ChatFormat, Finish, GenerationRequest, LoadSettings, Prompt, Thought
from services.codec import Message, plain, plain_choice, plain_error, read
from services.engine.embedder import Embedder
from services.engine.engine import Engine
from services.engine.pool import EnginePool
from services.engine.sequence import EngineGeneration
from services.engine.store import StateStore
from services.engine.trial import TrialHelper
from services.engine.wire import Wire
from services.errors import HearthError

# Requests of the other process that are worked on at once; most wait for a model to load.
THREADS = 96
# Prompts up to this length are tokenized in less than a millisecond.
QUICK_CHARACTERS = 4000


class _Outgoing(EngineGeneration):
    """A generation whose events go over the wire. On the engine's thread, but for its making."""

    def __init__(self, request: GenerationRequest, wake: Callable[[], None], number: int, outbox: Outbox) -> None:
        self._number = number
        self._outbox = outbox
        self._place: int | None = None
        self._told = self._n_tokens = 0
        self._has_left = False
        super().__init__(request, wake)

    @property
    def place(self) -> int | None:
        """See `Generation.place`; the other side is told of each change."""
        return self._place

    @place.setter
    def place(self, place: int | None) -> None:
        if place != self._place:
            self._place = place
            self._outbox.put({"of": self._number, "place": place})

    def put(self, event: str | Finish | HearthError) -> None:
        """Send the event, with the tokens that are new since the last, and how they were chosen."""
        message: Message = {"of": self._number}
        if tokens := self.tokens[self._n_tokens :]:
            self._n_tokens += len(tokens)
            message["tokens"] = tokens
        if new := self.choices[self._told :]:
            self._told += len(new)
            message["choices"] = [plain_choice(choice) for choice in new]
        if isinstance(event, str):
            message["text"] = event
        elif isinstance(event, Finish):
            message["finish"] = plain(event)
        else:
            message["error"] = plain_error(event)
        if not isinstance(event, str):
            message["left"], self._has_left = plain(self.spent), True
        self._outbox.put(message)

    def leave(self) -> None:
        """Send what it has cost, where its end has not told."""
        if not self._has_left:
            self._outbox.put({"of": self._number, "left": plain(self.spent)})


# What nobody waits for.
_UNANSWERED = frozenset({"stop", "cancel", "think", "release", "retain"})
Outbox = queue.SimpleQueue[Message]


class Child:
    """Answers the other process. Its own thread receives; others work, and one sends what the engines say."""

    def __init__(self, wire: Wire, pool: EnginePool, helper: TrialHelper) -> None:
        self._wire = wire
        self._helper = helper
        self._pool = pool
        self._outbox: Outbox = queue.SimpleQueue()
        self._workers = ThreadPoolExecutor(THREADS, "worker")
        self._leases: dict[int, Future[tuple[ExitStack, Engine | Embedder]]] = {}
        self._settings: dict[int, LoadSettings] = {}
        """By the number of the first lease of them."""
        self._generations: dict[int, _Outgoing] = {}
        threading.Thread(target=self._send_events, name="events", daemon=True).start()

    def serve(self) -> None:
        """Work until the other end is gone, or asks for the end."""
        while message := self._wire.receive():
            do = getattr(self, f"_do_{message['do']}")
            if self._is_quick(message):
                # At once, and in the order in which they come.
                self._answer(do, message)
            else:
                self._workers.submit(self._answer, do, message)

    def _is_quick(self, message: Message) -> bool:
        """Whether it takes about as long as to hand it to another thread: what loads, compiles or waits does not."""
        do = message["do"]
        if do == "lease":
            # It is there from now on, for whatever comes behind it.
            self._leases[message["lease"]] = Future()
            if "settings" in message:
                self._settings[message["lease"]] = read(LoadSettings, message["settings"])
            return self._pool.has(self._settings[message["like"]])
        if do in ("tokenize_all", "think") and not self._leases[message["lease"]].done():
            return False
        if do == "tokenize_all":
            return sum(len(prompt["text"]) for prompt in message["prompts"]) < QUICK_CHARACTERS
        return do in ("stop", "cancel", "think", "health")

    def _answer(self, do: Callable[[Message], Any], message: Message) -> None:
        try:
            reply = {"id": message["id"], "ok": do(message)}
            if message["do"] in _UNANSWERED:
                return
        except BaseException as error:
            reply = {"id": message["id"], "error": plain_error(error)}
        self._tell(reply)

    def _tell(self, *messages: Message) -> None:
        try:
            self._wire.send(*messages)
        except OSError:
            # Nobody is there any more.
            os._exit(1)

    def _send_events(self) -> None:
        while True:
            messages = [self._outbox.get()]
            # What one step of the engine says goes together.
            while not self._outbox.empty():
                messages.append(self._outbox.get())
            for message in messages:
                if "left" in message:
                    self._generations.pop(message["of"], None)
            self._tell(*messages)

    def _do_lease(self, message: Message) -> Message:
        leased = self._leases[message["lease"]]
        settings = self._settings[message["like"]]
        stack = ExitStack()
        model: Engine | Embedder
        try:
            if message["embeds"]:
                model = stack.enter_context(self._pool.lease_embedder(settings))
            else:
                model = stack.enter_context(self._pool.lease(settings))
        except BaseException as error:
            leased.set_exception(error)
            raise
        leased.set_result((stack, model))
        if isinstance(model, Embedder):
            return {"n_ctx": model.n_ctx, "chat_format": plain(ChatFormat("", "", "", ()))}
        return {"n_ctx": model.n_ctx, "chat_format": plain(model.chat_format)}

    def _do_release(self, message: Message) -> None:
        leased = self._leases.pop(message["lease"])
        if not leased.exception():
            leased.result()[0].close()

    def _do_try(self, message: Message) -> None:
        self._helper.run(message["settings"], message["embeds"])

    def _do_tokenize_all(self, message: Message) -> list[list[int]]:
        model = self._model(message)
        return [model.tokenize(read(Prompt, prompt)) for prompt in message["prompts"]]

    def _do_pieces(self, message: Message) -> list[str]:
        return [piece.hex() for piece in self._engine(message).pieces(message["tokens"])]

    def _do_embed(self, message: Message) -> list[Any]:
        embedder = self._model(message)
        assert isinstance(embedder, Embedder)
        vector, spent = embedder.embed(message["tokens"])
        return [vector, plain(spent)]

    def _do_submit_all(self, message: Message) -> None:
        numbers = [number for number, _ in message["requests"]]
        requests = [read(GenerationRequest, request) for _, request in message["requests"]]

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

    def _do_think(self, message: Message) -> None:
        self._engine(message).think(read(Thought, message["thought"]))

    def _do_forget(self, message: Message) -> None:
        self._pool.forget(message["owner"], message["session"])

    def _do_retain(self, message: Message) -> None:
        self._pool.retain((owner, session) for owner, session in message["sessions"])

    def _do_loaded(self, _message: Message) -> list[str]:
        return [str(path) for path in self._pool.loaded()]

    def _do_unload(self, message: Message) -> bool:
        return self._pool.unload(Path(message["file"]))

    def _do_status(self, _message: Message) -> Any:
        return plain(self._pool.status())

    def _do_health(self, _message: Message) -> str:
        return self._pool.health()

    def _do_close(self, _message: Message) -> None:
        self._pool.close()

    def _model(self, message: Message) -> Engine | Embedder:
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
    number = int(sys.argv[1])
    # Before anything here has threads.
    helper = TrialHelper(number)
    wire = Wire(socket.socket(fileno=number))
    hello = wire.receive()
    if hello is None:
        return
    logs.set_up(hello["log_level"], hello["log_format"])
    store = StateStore(Path(hello["states"]), hello["cache_ram"], hello["cache_disk"], hello["shares_states"])
    pool = EnginePool(store, hello["think_ahead"], hello["queue"], hello["model_ram"], hello["idle_seconds"])
    wire.send({"ready": True})
    Child(wire, pool, helper).serve()
    # What could be saved has been, if there was time to ask for it; threads may be deep in llama.cpp.
    os._exit(0)


if __name__ == "__main__":
    main()
