"""The backend of an API node: requests go to workers over the broker, and their text comes back through Redis."""

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

from typing_extensions import override

from services.backend.codec import error_from_json, from_json, to_json
from services.backend.protocols import Backend, Embedder, Model
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
from services.cluster.node.generation import Sender, StreamGeneration
from services.cluster.node.vocabularies import Vocabularies
from services.cluster.orders import CHANNEL, Order
from services.cluster.redis_client import RedisClient, is_away, reached
from services.cluster.registry import TEXT, ServedModel, WorkerHeartbeat
from services.cluster.routing import Routing
from services.cluster.stores.files import NO_WORKER, ClusterFiles
from services.cluster.streams import Streams
from services.cluster.text_tokens import Tokenizer
from services.errors import EngineFailure, NotFound, Unavailable

log = logging.getLogger(__name__)

# Seconds for which a request waits for a worker that may be starting.
_COMING = 5.0
# Where each character is a token, about so many are one token of a model.
CHARACTERS_A_TOKEN = 3
# The context in tokens where the profile names none: workers must agree on one, and their memory differs.
CONTEXT = 8192


class ClusterModel(Model, Embedder):
    """A model that workers serve. Any thread may call it."""

    def __init__(
        self, backend: ClusterBackend, settings: LoadSettings, served: ServedModel, tokenizer: Tokenizer, embeds: bool
    ) -> None:
        settings = replace(settings, n_ctx=settings.n_ctx or min(served.info.context_length or CONTEXT, CONTEXT))
        self.n_ctx = settings.n_ctx * (CHARACTERS_A_TOKEN if served.vocabulary == TEXT else 1)
        self.n_ctx = min(self.n_ctx, served.info.context_length or self.n_ctx)
        self.chat_format: ChatFormat = tokenizer.chat_format
        self._backend = backend
        self._settings = settings
        self._served = served
        self._tokenizer = tokenizer
        self._embeds = embeds
        self.ranks = served.info.ranks

    @override
    def tokenize(self, prompt: Prompt) -> list[int]:
        return self.tokenize_all([prompt])[0]

    @override
    def tokenize_all(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        if self._embeds:
            return [list(tokens) for tokens in self._call("tokenize", [to_json(prompt) for prompt in prompts])]
        return [self._tokenizer.tokenize(prompt) for prompt in prompts]

    @override
    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        return self._tokenizer.pieces(tokens)

    @override
    def submit_all(self, requests: Sequence[GenerationRequest]) -> list[StreamGeneration]:
        return self._backend.submit_all(self._settings, self._served, requests)

    @override
    def prefetch(self, request: PrefetchRequest) -> bool:
        # An upstream server has no such request.
        return self._served.vocabulary != TEXT and self._backend.prefetch(self._settings, request)

    @override
    def tokenize_pairs(self, query: str, documents: Sequence[str]) -> list[list[int]]:
        return [list(tokens) for tokens in self._call("tokenize_pairs", [query, *documents])]

    @override
    def embed(
        self, texts: Sequence[Sequence[int]], poll: Callable[[], None] = lambda: None
    ) -> tuple[list[list[float]], Spent]:
        vectors, spent = self._call("embed", [list(tokens) for tokens in texts], poll)
        return [list(vector) for vector in vectors], from_json(Spent, spent)

    def _call(self, do: str, argument: Any, poll: Callable[[], None] = lambda: None) -> Any:
        return self._backend.call(self._settings, self._served, do, argument, poll)


class ClusterBackend(Backend, Sender):
    """The cluster's workers. Any thread may call it; `_lock` protects the sets of this node's requests."""

    def __init__(
        self, node: str, client: RedisClient, broker: Broker, files: ClusterFiles, vocabularies: Vocabularies
    ) -> None:
        """`node` is the name of this API node's process."""
        self._node = node
        self._client = client
        self._broker = broker
        self._registry = files.registry
        self._vocabularies = vocabularies
        self._routing = Routing(client)
        self.streams = Streams(client)
        self.files = files
        self._lock = threading.Lock()
        self._waiting: set[str] = set()
        self._to_forget: list[StreamGeneration] = []
        self.is_closed = False

    @property
    def n_waiting(self) -> int:
        """The number of this node's requests that no worker has begun."""
        return len(self._waiting)

    @override
    @contextmanager
    def lease(self, settings: LoadSettings, poll: Callable[[], None] = lambda: None) -> Iterator[ClusterModel]:
        yield self._model(settings, False, poll)

    @override
    @contextmanager
    def lease_embedder(self, settings: LoadSettings, poll: Callable[[], None] = lambda: None) -> Iterator[ClusterModel]:
        yield self._model(settings, True, poll)

    def _model(self, settings: LoadSettings, embeds: bool, poll: Callable[[], None]) -> ClusterModel:
        served, _ = self._serving(settings.file.as_posix(), poll)
        with reached():
            return ClusterModel(self, settings, served, self._vocabularies.get(served), embeds)

    def _serving(self, name: str, poll: Callable[[], None] = lambda: None) -> tuple[ServedModel, list[WorkerHeartbeat]]:
        """Find a model and its workers, waiting a little for one to start. Raises Unavailable."""
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
        """Send requests to the workers that serve a model. Raises Unavailable; then none is left in the queue."""
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
            self.streams.open(id_, self._node)
            priority = self._routing.enter(id_, request)
            _, workers = self._serving(served.name)
            worker = self._routing.choose(id_, request, served, workers)
            with self._lock:
                self._waiting.add(id_)
            self._broker.send(GENERATE, id_, [id_, to_json(settings), to_json(request)], served, worker, priority)
        except BaseException:
            # Should the broker have taken it after all, no worker begins it any more.
            self.note_read(generation)
            raise
        return generation

    def call(self, settings: LoadSettings, served: ServedModel, do: str, argument: Any, poll: Callable[[], None]) -> Any:
        """Have a worker "tokenize", "tokenize_pairs" or "embed" (`do`), without a slot; return the result.

        `poll` is called each second meanwhile, and gives up by raising. Raises the worker's error.
        """
        with reached():
            id_ = uuid.uuid4().hex
            self.streams.open(id_, self._node)
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

    @override
    def note_begun(self, generation: StreamGeneration) -> None:
        with self._lock:
            self._waiting.discard(generation.id)

    @override
    def note_read(self, generation: StreamGeneration) -> None:
        self.note_begun(generation)
        with self._lock:
            self._to_forget.append(generation)
        self.forget_read()

    def forget_read(self) -> None:
        """Remove from Redis the requests that are read no more; while that is away, they are kept for the next call."""
        with self._lock:
            generations, self._to_forget = self._to_forget, []
        for n, generation in enumerate(generations):
            try:
                self.streams.drop(generation.id)
                self._routing.leave(generation.id, generation.request)
            except Exception as error:
                with self._lock:
                    self._to_forget += generations[n:]
                if not is_away(error):
                    raise
                return

    @override
    def stop(self, owner: str, session: str, thinking: bool = False) -> bool:
        with reached():
            id_ = self._routing.answering(owner, session)
            if id_ is None:
                return False
            self.order(id_, Order.STOP_THINKING if thinking else Order.STOP)
        return True

    @override
    def order(self, id_: str, order: Order) -> int:
        attempts = self.streams.order(id_, order)
        if attempts:
            self._publish(order, id=id_)
        return attempts

    def prefetch(self, settings: LoadSettings, request: PrefetchRequest) -> bool:
        """Have the worker prefetch that has the conversation; for the beginning of a template, all that serve the model.

        Returns False where no worker has it, or Redis cannot be reached.
        """
        with contextlib.suppress(Exception):
            home = "" if request.owner == EVERYBODY else self._routing.home(request.owner, request.session)
            if home is not None:
                self._publish(Order.PREFETCH, worker=home, settings=to_json(settings), prefetch=to_json(request))
                return True
        return False

    @override
    def forget(self, owner: str, session: str) -> None:
        with reached():
            self._routing.forget(owner, session)
            # A worker that is away forgets it when it is back.
            self._publish(Order.FORGET, owner=owner, session=session)

    @override
    def retain(self, sessions: Iterable[tuple[str, str]]) -> None:
        # Each worker does so when it starts.
        pass

    @override
    def loaded(self) -> list[Path]:
        with reached():
            return [Path(model.file) for worker in self._registry.workers() for model in worker.status.models]

    @override
    def unload(self, file: Path) -> bool:
        with reached():
            # A worker that answers with it just then keeps it.
            self._publish(Order.UNLOAD, file=file.as_posix())
            return file in self.loaded()

    @override
    def status(self) -> Status:
        """Return the sums over all workers."""
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

    @override
    def health(self) -> Health:
        try:
            return "ready" if self._registry.workers() else "loading"
        except Exception as error:
            if not is_away(error):
                raise EngineFailure(f"the cluster cannot be asked: {error}") from error
            return "down"

    @override
    def close(self) -> None:
        # Readers poll `is_closed`; the workers give up what is read no more.
        self.is_closed = True
        self._broker.close()

    def _publish(self, order: Order, **fields: Any) -> None:
        self._client.redis.publish(self._client.key(CHANNEL), json.dumps({"do": order.value, **fields}))
