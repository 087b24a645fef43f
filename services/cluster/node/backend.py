"""The backend of an API node: what is asked of it goes to workers, over the broker, and comes back through Redis."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from services.backend.codec import error_from_json, from_json, to_json
from services.backend.status import Counts, Room, Status
from services.backend.types import (
    EVERYBODY,
    ChatFormat,
    GenerationRequest,
    Health,
    LoadSettings,
    PrefetchRequest,
    Prompt,
    Spent,
)
from services.cluster.broker import CALL, GENERATE, Broker
from services.cluster.node.generation import StreamGeneration
from services.cluster.node.vocabularies import Tokenizer, Vocabularies
from services.cluster.redis_client import RedisClient, is_away, reached
from services.cluster.registry import TEXT, ServedModel, WorkerHeartbeat
from services.cluster.routing import Routing
from services.cluster.stores.files import NO_WORKER, ClusterFiles
from services.cluster.streams import Streams
from services.errors import EngineFailure, NotFound, Unavailable

log = logging.getLogger(__name__)

ORDERS = "orders"
# Seconds for which a request waits for a worker that may be about to come, as one that is started anew.
_COMING = 5.0
CHARACTERS_A_TOKEN = 3
# The context in tokens where the profile leaves it to the server: workers must agree on one, and their memory differs.
CONTEXT = 8192


class ClusterModel:
    """A model that workers serve; see `Model` and `Embedder`. Any thread may call it."""

    def __init__(
        self, backend: ClusterBackend, settings: LoadSettings, served: ServedModel, tokenizer: Tokenizer, embeds: bool
    ) -> None:
        settings = replace(settings, n_ctx=settings.n_ctx or min(served.info.context_length or CONTEXT, CONTEXT))
        # Where a token is a character, about so many are one.
        self.n_ctx = settings.n_ctx * (CHARACTERS_A_TOKEN if served.vocabulary == TEXT else 1)
        self.n_ctx = min(self.n_ctx, served.info.context_length or self.n_ctx)
        self.chat_format: ChatFormat = tokenizer.chat_format
        self._backend = backend
        self._settings = settings
        self._served = served
        self._tokenizer = tokenizer
        self._embeds = embeds

    def tokenize(self, prompt: Prompt) -> list[int]:
        """See `Model.tokenize`."""
        return self.tokenize_all([prompt])[0]

    def tokenize_all(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """See `Model.tokenize_all`."""
        if self._embeds:
            return [list(self._call("tokenize", to_json(prompt))) for prompt in prompts]
        return [self._tokenizer.tokenize(prompt) for prompt in prompts]

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """See `Model.pieces`."""
        return self._tokenizer.pieces(tokens)

    def submit_all(self, requests: Sequence[GenerationRequest]) -> list[StreamGeneration]:
        """See `Model.submit_all`."""
        return self._backend.submit_all(self._settings, self._served, requests)

    def prefetch(self, request: PrefetchRequest) -> None:
        """See `Model.prefetch`."""
        self._backend.prefetch(self._settings, request)

    def embed(self, tokens: Sequence[int], poll: Callable[[], None] = lambda: None) -> tuple[list[float], Spent]:
        """See `Embedder.embed`."""
        vector, spent = self._call("embed", list(tokens), poll)
        return list(vector), from_json(Spent, spent)

    def _call(self, do: str, argument: Any, poll: Callable[[], None] = lambda: None) -> Any:
        return self._backend.call(self._settings, self._served, do, argument, poll)


class ClusterBackend:
    """See `Backend`. Any thread may call it; `_lock` protects what waits for a worker."""

    def __init__(
        self, name: str, client: RedisClient, broker: Broker, files: ClusterFiles, vocabularies: Vocabularies
    ) -> None:
        """`name` is that of the API node's process."""
        self._name = name
        self._client = client
        self._broker = broker
        self._registry = files.registry
        self._vocabularies = vocabularies
        self._routing = Routing(client)
        self.streams = Streams(client)
        self.files = files
        self._lock = threading.Lock()
        self._waiting: set[str] = set()
        self._undone: list[StreamGeneration] = []
        self.is_closed = False
        self.on_restart: Callable[[], None] = lambda: None

    @property
    def n_waiting(self) -> int:
        """How many requests of this node no worker has begun."""
        return len(self._waiting)

    @contextmanager
    def lease(self, settings: LoadSettings, poll: Callable[[], None] = lambda: None) -> Iterator[ClusterModel]:
        """See `Backend.lease`."""
        yield self._model(settings, False, poll)

    @contextmanager
    def lease_embedder(self, settings: LoadSettings, poll: Callable[[], None] = lambda: None) -> Iterator[ClusterModel]:
        """See `Backend.lease_embedder`."""
        yield self._model(settings, True, poll)

    def _model(self, settings: LoadSettings, embeds: bool, poll: Callable[[], None]) -> ClusterModel:
        served, _ = self._serving(settings.file.as_posix(), poll)
        with reached():
            return ClusterModel(self, settings, served, self._vocabularies.get(served), embeds)

    def _serving(self, name: str, poll: Callable[[], None] = lambda: None) -> tuple[ServedModel, list[WorkerHeartbeat]]:
        """Who serves a model, waiting a little for somebody who does. Raises Unavailable."""
        deadline = time.monotonic() + _COMING
        while True:
            try:
                return self.files.serving(name)
            except NotFound as error:
                if time.monotonic() > deadline or self.is_closed:
                    raise Unavailable(error.message, param="model", code=NO_WORKER, retry_after=5) from None
            poll()
            time.sleep(0.25)

    def submit_all(
        self, settings: LoadSettings, served: ServedModel, requests: Sequence[GenerationRequest]
    ) -> list[StreamGeneration]:
        """See `Model.submit_all`."""
        made: list[StreamGeneration] = []
        try:
            with reached():
                for request in requests:
                    made.append(self._submit(settings, served, request))
        except BaseException:
            for generation in made:
                with contextlib.suppress(Unavailable):
                    generation.cancel()
            raise
        return made

    def _submit(self, settings: LoadSettings, served: ServedModel, request: GenerationRequest) -> StreamGeneration:
        if self.is_closed:
            raise Unavailable("the server is stopping", code="stopping", retry_after=5)
        id_ = uuid.uuid4().hex
        generation = StreamGeneration(self, id_, request)
        try:
            self.streams.open(id_, self._name)
            priority = self._routing.enter(id_, request)
            _, workers = self._serving(served.name)
            worker = self._routing.choose(id_, request, served, workers)
            with self._lock:
                self._waiting.add(id_)
            self._broker.send(GENERATE, id_, [id_, to_json(settings), to_json(request)], served, worker, priority)
        except BaseException:
            # Should the broker have taken it after all, nobody begins it any more.
            self.done(generation)
            raise
        return generation

    def call(self, settings: LoadSettings, served: ServedModel, do: str, argument: Any, poll: Callable[[], None]) -> Any:
        """Have a worker do something with a model that takes no slot; return what came of it, or raise what that raises.

        `poll` is called each second meanwhile, and gives up by what it raises.
        """
        with reached():
            id_ = uuid.uuid4().hex
            self.streams.open(id_, self._name)
            try:
                self._broker.send(CALL, id_, [id_, to_json(settings), do, argument], served, "", 9)
                return self._result_of(id_, poll)
            finally:
                self.streams.drop(id_)

    def _result_of(self, id_: str, poll: Callable[[], None]) -> Any:
        deadline, after = time.monotonic() + 60, "0"
        while time.monotonic() < deadline:
            poll()
            for entry, _, event in self.streams.read(id_, after, 1000):
                after = entry
                if "error" in event:
                    raise error_from_json(event["error"])
                if "result" in event:
                    return event["result"]
        raise Unavailable("no worker has answered in time", code="timeout", retry_after=5)

    def begun(self, generation: StreamGeneration) -> None:
        """A worker has begun it."""
        with self._lock:
            self._waiting.discard(generation.id)

    def done(self, generation: StreamGeneration) -> None:
        """Nobody reads it any more."""
        self.begun(generation)
        with self._lock:
            self._undone.append(generation)
        self.settle()

    def settle(self) -> None:
        """Let Redis forget what nobody reads any more; what it cannot be told now is told again later."""
        with self._lock:
            undone, self._undone = self._undone, []
        for n, generation in enumerate(undone):
            try:
                self.streams.drop(generation.id)
                self._routing.leave(generation.id, generation.request)
            except Exception as error:
                with self._lock:
                    self._undone += undone[n:]
                if not is_away(error):
                    raise
                return

    def stop(self, owner: str, session: str) -> bool:
        """See `Backend.stop`."""
        with reached():
            id_ = self._routing.answering(owner, session)
            if id_ is None:
                return False
            self.order(id_, "stop")
        return True

    def order(self, id_: str, order: str) -> int:
        """Want a request to "stop" or "cancel"; return how many workers have begun it."""
        attempts = self.streams.order(id_, order)
        if attempts:
            self._tell({"do": order, "id": id_})
        return attempts

    def prefetch(self, settings: LoadSettings, request: PrefetchRequest) -> None:
        """Have the worker that has the conversation read on; for the beginning of a template, all that serve the model."""
        with contextlib.suppress(Exception):
            home = "" if request.owner == EVERYBODY else self._routing.home(request.owner, request.session)
            if home is not None:
                self._tell({"do": "prefetch", "worker": home, "settings": to_json(settings), "prefetch": to_json(request)})

    def forget(self, owner: str, session: str) -> None:
        """See `Backend.forget`. Workers that are away forget it when they are back."""
        with reached():
            self._routing.forget(owner, session)
            self._tell({"do": "forget", "owner": owner, "session": session})

    def retain(self, sessions: Iterable[tuple[str, str]]) -> None:
        """See `Backend.retain`: each worker sees to it when it starts."""

    def loaded(self) -> list[Path]:
        """See `Backend.loaded`."""
        with reached():
            return [Path(model.file) for worker in self._registry.workers() for model in worker.status.models]

    def unload(self, file: Path) -> bool:
        """See `Backend.unload`: all workers are told to, and one that answers with it just then keeps it."""
        with reached():
            self._tell({"do": "unload", "file": file.as_posix()})
            return file in self.loaded()

    def status(self) -> Status:
        """See `Backend.status`: of all workers together."""
        try:
            workers, nodes = self._registry.workers(), self._registry.nodes()
        except Exception as error:
            if not is_away(error):
                raise
            workers, nodes = [], []
        parts = [worker.status for worker in workers]
        return Status(
            counts=sum((part.counts for part in parts), Counts()),
            slots=sum(worker.slots for worker in workers),
            running=sum(part.running for part in parts),
            waiting=sum(part.waiting for part in parts) + sum(node.waiting for node in nodes),
            memory=sum((part.memory for part in parts), Room(0, 0)),
            states_ram=sum((part.states_ram for part in parts), Room(0, 0)),
            states_disk=sum((part.states_disk for part in parts), Room(0, 0)),
            models=[model for part in parts for model in part.models],
            weights=sum(part.weights for part in parts),
            contexts=sum(part.contexts for part in parts),
            models_limit=sum(part.models_limit for part in parts),
            server=sum(part.server for part in parts),
        )

    def health(self) -> Health:
        """See `Backend.health`."""
        try:
            return "ready" if self._registry.workers() else "loading"
        except Exception as error:
            if not is_away(error):
                raise EngineFailure(f"the cluster cannot be asked: {error}") from error
            return "down"

    def close(self) -> None:
        """See `Backend.close`: who waits is told so, and the workers give up what nobody reads."""
        self.is_closed = True
        self._broker.close()

    def _tell(self, order: dict[str, Any]) -> None:
        self._client.redis.publish(self._client.key(ORDERS), json.dumps(order))
