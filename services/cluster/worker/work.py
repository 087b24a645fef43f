"""What a worker does: it computes what the broker hands it, and writes what comes into the request's stream."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, TypeVar

from services.backend.codec import Message, choice_to_json, error_to_json, from_json, to_json
from services.backend.protocols import Backend, Generation, Model
from services.backend.types import GenerationRequest, LoadSettings, PrefetchRequest, Prompt
from services.cluster.node.generation import lost
from services.cluster.redis_client import RedisClient, is_away
from services.cluster.registry import Registry
from services.cluster.routing import Routing
from services.cluster.streams import Begun, Streams
from services.cluster.worker.checksums import Checksums
from services.errors import BadModelFile, HearthError, NotFound, Unavailable
from services.models.files import CheckedModel, ModelFiles
from services.storage.json_file import Stamp

log = logging.getLogger(__name__)

# How often an answer is begun at most: one that has ended so many engines would end the next too.
MOST_ATTEMPTS = 4
# Seconds between two looks while no words come, and between two whether the API node is there that waits for the answer.
_LOOK, _LOOK_FOR_NODE = 0.2, 5.0
# Seconds for which Redis may be away before an answer is given back to the broker.
_MOST_AWAY = 300.0
# What another engine may do better.
_CRASHES = frozenset({"engine_crashed", "engine_down"})
T = TypeVar("T")


class GiveBack(Exception):
    """This worker cannot do it: another is to."""


class TaskRunner:
    """The tasks of one worker. Any thread may call it; `_lock` protects the table of what is under way."""

    def __init__(
        self,
        name: str,
        client: RedisClient,
        registry: Registry,
        backend: Backend,
        files: ModelFiles,
        checksums: Checksums | None = None,
    ) -> None:
        """`checksums` tells the models' contents apart, where workers share what they have computed."""
        self.name = name
        self.checksums = checksums
        self._streams = Streams(client)
        self._routing = Routing(client)
        self._registry = registry
        self._backend = backend
        self._files = files
        self._lock = threading.Lock()
        self._under_way: dict[str, tuple[threading.Event, list[Generation]]] = {}

    @property
    def n_running(self) -> int:
        """How many requests are under way."""
        return len(self._under_way)

    def generate(self, id_: str, settings: Message, asked: Message) -> None:
        """Compute a request, from where another worker has left it. Raises GiveBack."""
        with self._working(id_):
            try:
                wanted, request = from_json(LoadSettings, settings), from_json(GenerationRequest, asked)
            except ValueError:
                # Not what it says: that has words of the request in it.
                what = f"the worker {self.name} cannot read this request: is it of another version?"
                return self._refuse(id_, Unavailable(what, code="worker_version", retry_after=5))
            try:
                while self._attempt(id_, wanted, request):
                    time.sleep(0.5)
            finally:
                with suppress(Exception):
                    self._routing.end(id_, self.name)

    @contextmanager
    def _working(self, id_: str) -> Iterator[None]:
        """While a request is under way here. One that is already is waited for.

        Where the broker was away, it hands out again what it thinks is lost; what was done is then found to be.
        """
        over = threading.Event()
        while True:
            with self._lock:
                known = self._under_way.get(id_)
                if not known:
                    self._under_way[id_] = (over, [])
                    break
            known[0].wait()
        try:
            yield
        finally:
            with self._lock:
                del self._under_way[id_]
            over.set()

    def _refuse(self, id_: str, error: Exception) -> None:
        begun = self._patiently(lambda: self._streams.begin(id_, self.name))
        if begun.order not in ("gone", "cancel"):
            self.write_events(id_, begun.attempt, begun.written, [{"error": error_to_json(error)}])

    def call(self, id_: str, settings: Message, do: str, argument: Any) -> None:
        """Tokenize or embed something, and write what came of it. Raises GiveBack."""
        begun = self._patiently(lambda: self._streams.begin(id_, self.name))
        if begun.order == "gone":
            return
        try:
            with self._backend.lease_embedder(self._here(from_json(LoadSettings, settings))) as embedder:
                if do == "tokenize":
                    event: Message = {"result": embedder.tokenize(from_json(Prompt, argument))}
                else:
                    vector, spent = embedder.embed(argument, lambda: self._check_wanted(id_))
                    event = {"result": [vector, to_json(spent)]}
        except Exception as error:
            event = {"error": error_to_json(self._explained(error))}
        self.write_events(id_, begun.attempt, begun.written, [event])

    def _check_wanted(self, id_: str) -> None:
        """Raise Unavailable where nobody waits for a request any more."""
        if self._patiently(lambda: self._streams.look(id_)) is None:
            raise Unavailable("nobody waits for it any more", code="cancelled")

    def obey(self, order: Message) -> None:
        """Do what an API node tells all workers: stop, cancel, prefetch, forget or unload. What fails is not told."""
        do = order.get("do")
        if do in ("stop", "cancel"):
            for generation in self._under_way.get(str(order.get("id")), (None, []))[1]:
                generation.stop() if do == "stop" else generation.cancel()
        elif do == "forget":
            self._backend.forget(str(order["owner"]), str(order["session"]))
        elif do == "unload":
            with suppress(HearthError):
                self._backend.unload(self._files.check(str(order["file"])).path)
        elif do == "prefetch" and order.get("worker") in ("", self.name):
            # A beginning is for all that have the model.
            with (
                suppress(HearthError),
                self._backend.lease(self._here(from_json(LoadSettings, order["settings"]))) as model,
            ):
                model.prefetch(from_json(PrefetchRequest, order["prefetch"]))

    def _attempt(self, id_: str, settings: LoadSettings, request: GenerationRequest) -> bool:
        """Go on with a request; return whether to try again."""
        begun = self._patiently(lambda: self._streams.begin(id_, self.name))
        if begun.order in ("gone", "cancel") or any("finish" in event or "error" in event for event in begun.events):
            return False
        if begun.attempt > MOST_ATTEMPTS:
            # It may be the request that ends the workers.
            what = f"{MOST_ATTEMPTS} workers went down over this request; nothing was stored"
            error = Unavailable(what, code="engine_crashed", retry_after=10)
            self.write_events(id_, begun.attempt, begun.written, [{"error": error_to_json(error)}])
            return False
        self._patiently(lambda: self._routing.begin(id_, self.name, request.owner, request.session))
        texts, tokens = [], list(request.resume_tokens)
        for event in begun.events:
            texts.append(event.get("text", ""))
            tokens += event.get("tokens", ())
        request = replace(request, resume_tokens=tuple(tokens), delivered=len("".join(texts)))
        watch = _Watch(self, id_, begun)
        try:
            with self._backend.lease(self._here(settings)) as model:
                generation = watch.generation = self._submit(model, request, watch)
                with self._lock:
                    self._under_way[id_][1][:] = [generation]
                if begun.order == "stop":
                    generation.stop()
                watch.deliver(generation)
        except GiveBack:
            raise
        except Exception as problem:
            if isinstance(problem, Unavailable) and problem.code == "stopping":
                raise GiveBack from problem
            if isinstance(problem, Unavailable) and problem.code in _CRASHES and begun.attempt < MOST_ATTEMPTS:
                return True
            watch.write({"error": error_to_json(self._explained(problem))})
        finally:
            if watch.generation and not watch.generation.finish:
                watch.generation.cancel()
        return False

    def _submit(self, model: Model, request: GenerationRequest, watch: _Watch) -> Generation:
        """Begin to compute; wait where others have all the slots."""
        while True:
            try:
                return model.submit_all([request])[0]
            except Unavailable as error:
                if error.code != "too_busy":
                    raise
            time.sleep(_LOOK)
            watch.look()
            if watch.is_over:
                raise lost()

    def has_reader(self, id_: str) -> bool:
        """Whether the API node is there that waits for a request."""
        look = self._patiently(lambda: self._streams.look(id_))
        return look is not None and self._patiently(lambda: self._registry.has_node(look.node))

    def write_events(self, id_: str, attempt: int, written: int, events: list[Message]) -> str:
        """See `Streams.write`; waits while Redis is away. Raises GiveBack."""
        return self._patiently(lambda: self._streams.write(id_, attempt, written, events))

    def _here(self, settings: LoadSettings) -> LoadSettings:
        """The settings with this machine's files. Raises what `ModelFiles.check` raises."""
        model = self._files.check(settings.file.as_posix())
        adapters = []
        for adapter in settings.lora:
            mine = self._files.check_adapter(adapter.file.as_posix())
            adapters.append(replace(adapter, file=mine.path, stamp=self._stamp(mine)))
        return replace(settings, file=model.path, stamp=self._stamp(model), lora=tuple(adapters))

    def _stamp(self, model: CheckedModel) -> Stamp:
        """Where workers share states, what is the same for the same file on every machine."""
        return self.checksums.stamp(model) if self.checksums else model.stamp

    def _explained(self, error: Exception) -> Exception:
        """An error as the caller is to see it: what is wrong with a worker's files is none of its fault."""
        if isinstance(error, BadModelFile | NotFound):
            what = f"the worker {self.name} cannot load the model: {error.message}"
            return Unavailable(what, param="model", code="no_model", retry_after=5)
        if not isinstance(error, HearthError):
            log.error("a request failed: %s", type(error).__name__)
        return error

    def _patiently(self, do: Callable[[], T]) -> T:
        """Do something in Redis, waiting while that is away. Raises GiveBack where it stays so."""
        deadline = time.monotonic() + _MOST_AWAY
        while True:
            try:
                return do()
            except Exception as error:
                if not is_away(error):
                    raise
                if time.monotonic() > deadline:
                    raise GiveBack from error
                log.warning("Redis is away: %s", error)
                time.sleep(0.5)


class _Watch:
    """One attempt's writing, and what is wanted of it meanwhile. Owned by the thread that computes it."""

    def __init__(self, work: TaskRunner, id_: str, begun: Begun) -> None:
        self._work = work
        self._id = id_
        self._attempt = begun.attempt
        self._written = begun.written
        self._looked = self._seen = time.monotonic()
        self._missed = 0
        self.generation: Generation | None = None
        self.is_over = False
        """Whether nobody wants it."""

    def deliver(self, generation: Generation) -> None:
        """Write what comes until it ends, or nobody wants it any more."""
        n_tokens = n_choices = 0
        for text in generation.chunks(self.look):
            if text:
                event: Message = {"text": text}
                if tokens := generation.tokens[n_tokens:]:
                    n_tokens += len(tokens)
                    event["tokens"] = tokens
                if choices := generation.choices[n_choices:]:
                    n_choices += len(choices)
                    event["choices"] = [choice_to_json(choice) for choice in choices]
                self.write(event)
            if self.is_over:
                generation.cancel()
                break
        # Should its API node be there after all, it is not to wait for more.
        how = {"finish": to_json(generation.finish)} if generation.finish else {"error": error_to_json(lost())}
        self.write({**how, "spent": to_json(generation.spent)})

    def write(self, event: Message) -> None:
        """Write an event."""
        self._heed(self._work.write_events(self._id, self._attempt, self._written, [event]))
        self._written += 1

    def look(self) -> None:
        """What is called while nothing comes: look what is wanted, and whether somebody waits."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        self._heed(self._work.write_events(self._id, self._attempt, self._written, []))
        if now - self._seen > _LOOK_FOR_NODE:
            self._seen = now
            self._missed = 0 if self._work.has_reader(self._id) else self._missed + 1
            # Twice, since a node's heartbeat may have ended while Redis was away.
            if self._missed > 1:
                log.info("nobody waits for a request any more: its API node is gone")
                self.is_over = True

    def _heed(self, order: str) -> None:
        self._looked = time.monotonic()
        if order in ("gone", "stale", "cancel"):
            self.is_over = True
        elif order == "stop" and self.generation:
            self.generation.stop()
