"""The tasks of a worker: it computes the requests that it takes from the broker, and writes the text into their streams."""

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
from services.backend.types import GenerationRequest, LoadSettings, Mark, PrefetchRequest, Prompt
from services.cluster.node.generation import lost
from services.cluster.orders import Order
from services.cluster.redis_client import RedisClient, is_away
from services.cluster.registry import Registry
from services.cluster.routing import Routing
from services.cluster.streams import Begun, Streams
from services.cluster.worker.checksums import Checksums
from services.errors import BadModelFile, HearthError, NotFound, Unavailable
from services.models.files import AvailableModels, CheckedModel
from services.storage.json_file import Stamp

log = logging.getLogger(__name__)

# Attempts at one answer: a request over which so many engines went down would end the next too.
MOST_ATTEMPTS = 4
# Seconds between two looks for an order while no text is written, and between two whether the API node is alive.
_LOOK, _LOOK_FOR_NODE = 0.2, 5.0
# Seconds for which Redis may be away before an answer is given back to the broker.
_MOST_AWAY = 300.0
# Errors after which a new engine may succeed.
_CRASHES = frozenset({"engine_crashed", "engine_down"})
T = TypeVar("T")


class GiveBack(Exception):
    """Raised where the task goes back to the broker, for another worker."""


class TaskRunner:
    """Runs the tasks of one worker. Any thread may call it; `_lock` protects the table of requests in flight."""

    def __init__(
        self,
        name: str,
        client: RedisClient,
        registry: Registry,
        backend: Backend,
        files: AvailableModels,
        checksums: Checksums | None = None,
    ) -> None:
        """`checksums` identifies the models, where workers share computed states; None where they do not."""
        self.name = name
        self.checksums = checksums
        self._streams = Streams(client)
        self._routing = Routing(client)
        self._registry = registry
        self._backend = backend
        self._files = files
        self._lock = threading.Lock()
        self._in_flight: dict[str, tuple[threading.Event, list[Generation]]] = {}
        """By request: an event for its end, and its generation once there is one."""

    @property
    def n_running(self) -> int:
        """The number of requests in flight."""
        return len(self._in_flight)

    def generate(self, id_: str, settings: Message, request: Message) -> None:
        """Compute a request, resuming where another worker has left it. Raises GiveBack."""
        with self._working(id_):
            try:
                parsed = from_json(LoadSettings, settings), from_json(GenerationRequest, request)
            except ValueError:
                # The error itself is not told: it may quote the prompt.
                what = f"the worker {self.name} cannot read this request: is it of another version?"
                return self._refuse(id_, Unavailable(what, code="worker_version", retry_after=5))
            try:
                while self._attempt(id_, *parsed):
                    time.sleep(0.5)
            finally:
                with suppress(Exception):
                    self._routing.end(id_, self.name)

    @contextmanager
    def _working(self, id_: str) -> Iterator[None]:
        """Count a request as in flight; wait where it already is.

        After the broker was away, it hands out again the tasks that it takes for lost; the stream then shows what is done.
        """
        over = threading.Event()
        while True:
            with self._lock:
                known = self._in_flight.get(id_)
                if not known:
                    self._in_flight[id_] = (over, [])
                    break
            known[0].wait()
        try:
            yield
        finally:
            with self._lock:
                del self._in_flight[id_]
            over.set()

    def _refuse(self, id_: str, error: Exception) -> None:
        begun = self._patiently(lambda: self._streams.begin(id_, self.name))
        if begun.order not in ("gone", Order.CANCEL):
            self.write_events(id_, begun.attempt, begun.written, [{"error": error_to_json(error)}])

    def call(self, id_: str, settings: Message, do: str, argument: Any) -> None:
        """Write the result of "tokenize", "tokenize_pairs" or "embed" (`do`), or the error. Raises GiveBack."""
        begun = self._patiently(lambda: self._streams.begin(id_, self.name))
        if begun.order == "gone":
            return
        try:
            with self._backend.lease_embedder(self._here(from_json(LoadSettings, settings))) as embedder:
                if do == "tokenize":
                    prompts = [from_json(Prompt, prompt) for prompt in argument]
                    event: Message = {"result": embedder.tokenize_all(prompts)}
                elif do == "tokenize_pairs":
                    event = {"result": embedder.tokenize_pairs(argument[0], argument[1:])}
                else:
                    vectors, spent = embedder.embed(argument, lambda: self._check_wanted(id_))
                    event = {"result": [vectors, to_json(spent)]}
        except Exception as error:
            event = {"error": error_to_json(self._explained(error))}
        self.write_events(id_, begun.attempt, begun.written, [event])

    def _check_wanted(self, id_: str) -> None:
        """Raise Unavailable where the API node has forgotten the request."""
        if self._patiently(lambda: self._streams.look(id_)) is None:
            raise Unavailable("nobody waits for it any more", code="cancelled")

    def obey(self, order: Message) -> None:
        """Carry out an order of an API node (see `Order`); no reply tells that it failed."""
        match order.get("do"):
            case Order.STOP:
                for generation in self._generations(order):
                    generation.stop()
            case Order.STOP_THINKING:
                for generation in self._generations(order):
                    generation.stop_thinking()
            case Order.CANCEL:
                for generation in self._generations(order):
                    generation.cancel()
            case Order.FORGET:
                self._backend.forget(str(order["owner"]), str(order["session"]))
            case Order.UNLOAD:
                with suppress(HearthError):
                    self._backend.unload(self._files.check(str(order["file"])).path)
            case Order.PREFETCH if order.get("worker") in ("", self.name):
                self._prefetch(order)

    def _generations(self, order: Message) -> list[Generation]:
        return self._in_flight.get(str(order.get("id")), (None, []))[1]

    def _prefetch(self, order: Message) -> None:
        with suppress(HearthError), self._backend.lease(self._here(from_json(LoadSettings, order["settings"]))) as model:
            model.prefetch(from_json(PrefetchRequest, order["prefetch"]))

    def _attempt(self, id_: str, settings: LoadSettings, request: GenerationRequest) -> bool:
        """Make one attempt at a request; return whether to make another."""
        begun = self._patiently(lambda: self._streams.begin(id_, self.name))
        if begun.order in ("gone", Order.CANCEL) or any("finish" in event or "error" in event for event in begun.events):
            return False
        if begun.attempt > MOST_ATTEMPTS:
            # The request may be what ends the engines.
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
                    self._in_flight[id_][1][:] = [generation]
                watch.heed(begun.order)
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
        """Begin to compute, waiting for a slot."""
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
        """Return whether the API node that waits for a request is alive. Raises GiveBack."""
        look = self._patiently(lambda: self._streams.look(id_))
        return look is not None and self._patiently(lambda: self._registry.has_node(look.node))

    def write_events(self, id_: str, attempt: int, written: int, events: list[Message]) -> str:
        """Write events as `Streams.write` does, waiting while Redis is away. Raises GiveBack."""
        return self._patiently(lambda: self._streams.write(id_, attempt, written, events))

    def _here(self, settings: LoadSettings) -> LoadSettings:
        """Return the settings with this machine's files. Raises as `AvailableModels.check` does."""
        model = self._files.check(settings.file.as_posix())
        adapters = []
        for adapter in settings.lora:
            here = self._files.check_adapter(adapter.file.as_posix())
            adapters.append(replace(adapter, file=here.path, stamp=self._stamp(here)))
        return replace(settings, file=model.path, stamp=self._stamp(model), lora=tuple(adapters))

    def _stamp(self, model: CheckedModel) -> Stamp:
        """Return a stamp of the model's file; where workers share states, the same for the same file on every machine."""
        return self.checksums.stamp(model) if self.checksums else model.stamp

    def _explained(self, error: Exception) -> Exception:
        """Return an error as the caller is to see it: a fault of a worker's files is not the caller's."""
        if isinstance(error, BadModelFile | NotFound):
            what = f"the worker {self.name} cannot load the model: {error.message}"
            public = "this model cannot be loaded on the server. Ask whoever runs it"
            return Unavailable(what, param="model", code="no_model", retry_after=5, public=public)
        if not isinstance(error, HearthError):
            log.error("a request failed: %s", type(error).__name__)
        return error

    def _patiently(self, do: Callable[[], T]) -> T:
        """Do something in Redis, waiting while that is away. Raises GiveBack where it stays away."""
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
    """Writes one attempt's events, and heeds the request's order meanwhile. Owned by the thread that computes it."""

    def __init__(self, runner: TaskRunner, id_: str, begun: Begun) -> None:
        self._runner = runner
        self._id = id_
        self._attempt = begun.attempt
        self._written = begun.written
        self._looked = self._seen = time.monotonic()
        self._missed = 0
        self._n_tokens = self._n_choices = 0
        """The numbers of tokens and choices that are written."""
        self._has_prompt = False
        """True if the choices of the prompt are."""
        self.generation: Generation | None = None
        self.is_over = False
        """Whether the attempt is to end: it was cancelled or forgotten, or a later one has begun."""

    def deliver(self, generation: Generation) -> None:
        """Write the text as it comes, until it ends or `is_over`; before it, how much of the prompt is read."""
        n_read = 0
        for text in generation.chunks(self.look):
            if not text and generation.n_read > n_read:
                n_read = generation.n_read
                self.write({"n_read": n_read})
            if text:
                mark = {"mark": True} if isinstance(text, Mark) else {}
                self.write({"text": text, **mark, **self._new(generation)})
            if self.is_over:
                generation.cancel()
                break
        # Should the API node be alive after all, it is not to wait for more.
        end = {"error": error_to_json(lost())}
        if generation.finish:
            end = {"finish": to_json(generation.finish), **self._new(generation)}
        self.write({**end, "spent": to_json(generation.spent)})

    def _new(self, generation: Generation) -> Message:
        """Return the tokens and choices that have come since the last event."""
        new: Message = {}
        if tokens := generation.tokens[self._n_tokens :]:
            self._n_tokens += len(tokens)
            new["tokens"] = tokens
        if choices := generation.choices[self._n_choices :]:
            self._n_choices += len(choices)
            new["choices"] = [choice_to_json(choice) for choice in choices]
        if generation.prompt_choices and not self._has_prompt:
            self._has_prompt = True
            new["prompt_choices"] = [choice_to_json(choice) for choice in generation.prompt_choices]
        if generation.n_choices:
            # They may be ahead of the text.
            new["n_choices"] = generation.n_choices
        return new

    def write(self, event: Message) -> None:
        """Write an event."""
        self.heed(self._runner.write_events(self._id, self._attempt, self._written, [event]))
        self._written += 1

    def look(self) -> None:
        """Look for an order, and whether the API node is alive; called at least every quarter of a second."""
        now = time.monotonic()
        if now - self._looked >= _LOOK:
            # Each event that is written brings the order too.
            self.heed(self._runner.write_events(self._id, self._attempt, self._written, []))
        if now - self._seen > _LOOK_FOR_NODE:
            self._seen = now
            self._missed = 0 if self._runner.has_reader(self._id) else self._missed + 1
            # Twice, since a node's heartbeat may have ended while Redis was away.
            if self._missed > 1:
                log.info("a request is given up: its API node is gone")
                self.is_over = True

    def heed(self, order: str) -> None:
        """Carry out the request's order, as `Begun` has it."""
        self._looked = time.monotonic()
        if order in ("gone", "stale", Order.CANCEL):
            self.is_over = True
        elif order == Order.STOP and self.generation:
            self.generation.stop()
        elif order == Order.STOP_THINKING and self.generation:
            self.generation.stop_thinking()
