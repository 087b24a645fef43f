"""What a worker does: it computes what the broker hands it, and writes what comes into the request's stream."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from services.backend import Backend, Generation, GenerationRequest, LoadSettings, Prompt, Thought
from services.cluster.link import Link, is_away
from services.cluster.placing import Placing
from services.cluster.roster import Roster
from services.cluster.streams import Begun, Streams
from services.codec import Message, plain, plain_choice, plain_error, read
from services.errors import BadModelFile, HearthError, NotFound, Unavailable
from services.models import ModelFiles

log = logging.getLogger(__name__)

# How often an answer is begun at most: one that has ended so many engines would end the next too.
MOST_ATTEMPTS = 4
# Seconds between two looks while no words come, and between two whether the API node is there that waits for the answer.
_LOOK, _LOOK_FOR_NODE = 0.2, 5.0
# Seconds for which Redis may be away before an answer is given back to the broker.
_MOST_AWAY = 300.0
# What another engine, or another worker, may do better.
_PASSING = frozenset({"engine_crashed", "engine_down", "too_busy", "stopping"})
T = TypeVar("T")


class GiveBack(Exception):
    """This worker cannot do it: another is to."""


class Work:
    """The tasks of one worker. Any thread may call it; `_turn` protects the table of what is under way."""

    def __init__(self, name: str, link: Link, roster: Roster, backend: Backend, files: ModelFiles) -> None:
        self.name = name
        self._streams = Streams(link)
        self._placing = Placing(link)
        self._roster = roster
        self._backend = backend
        self._files = files
        self._turn = threading.Lock()
        self._under_way: dict[str, tuple[threading.Event, list[Generation]]] = {}

    @property
    def n_running(self) -> int:
        """How many requests are under way."""
        return len(self._under_way)

    def generate(self, id_: str, settings: Message, asked: Message) -> None:
        """Compute a request, from where another worker has left it. Raises GiveBack."""
        over = threading.Event()
        with self._turn:
            known = self._under_way.get(id_)
            if not known:
                self._under_way[id_] = (over, [])
        if known:
            # The broker was away, and hands out again what it thinks is lost.
            known[0].wait()
            return
        request = read(GenerationRequest, asked)
        try:
            self._patiently(lambda: self._placing.begin(id_, self.name, request.owner, request.session))
            while self._attempt(id_, read(LoadSettings, settings), request):
                time.sleep(0.5)
        finally:
            with self._turn:
                del self._under_way[id_]
            over.set()
            with suppress(Exception):
                self._placing.end(id_, self.name)

    def call(self, id_: str, settings: Message, do: str, argument: Any) -> None:
        """Tokenize or embed something, and write what came of it. Raises GiveBack."""
        begun = self._patiently(lambda: self._streams.begin(id_, self.name))
        if begun.order == "gone":
            return
        try:
            with self._backend.lease_embedder(self._here(read(LoadSettings, settings))) as embedder:
                if do == "tokenize":
                    event: Message = {"result": embedder.tokenize(read(Prompt, argument))}
                else:
                    vector, spent = embedder.embed(argument)
                    event = {"result": [vector, plain(spent)]}
        except Exception as error:
            event = {"error": plain_error(_explained(self.name, error))}
        self._write(id_, begun, [event])

    def obey(self, order: Message) -> None:
        """Do what an API node tells all workers: stop, cancel, think or forget. What fails is not told."""
        do = order.get("do")
        if do in ("stop", "cancel"):
            for generation in self._under_way.get(str(order.get("id")), (None, []))[1]:
                generation.stop() if do == "stop" else generation.cancel()
        elif do == "forget":
            self._backend.forget(str(order["owner"]), str(order["session"]))
        elif do == "think" and order.get("worker") in ("", self.name):
            settings = read(LoadSettings, order["settings"])
            # A beginning is for all that have the model.
            with suppress(HearthError), self._backend.lease(self._here(settings)) as model:
                model.think(read(Thought, order["thought"]))

    def _attempt(self, id_: str, settings: LoadSettings, request: GenerationRequest) -> bool:
        """Go on with a request; return whether to try again."""
        begun = self._patiently(lambda: self._streams.begin(id_, self.name))
        if begun.order in ("gone", "cancel") or any("finish" in event or "error" in event for event in begun.events):
            return False
        texts, tokens = [], list(request.given)
        for event in begun.events:
            texts.append(event.get("text", ""))
            tokens += event.get("tokens", ())
        request = replace(request, given=tuple(tokens), told=len("".join(texts)))
        try:
            with self._backend.lease(self._here(settings)) as model:
                [generation] = model.submit_all([request])
                with self._turn:
                    self._under_way[id_][1][:] = [generation]
                if begun.order == "stop":
                    generation.stop()
                self._deliver(id_, begun, generation)
        except GiveBack:
            raise
        except Exception as error:
            if isinstance(error, Unavailable) and error.code in _PASSING:
                if error.code == "stopping":
                    raise GiveBack from error
                if begun.attempt < MOST_ATTEMPTS or error.code == "too_busy":
                    return True
            self._write(id_, begun, [{"error": plain_error(_explained(self.name, error))}])
        return False

    def _deliver(self, id_: str, begun: Begun, generation: Generation) -> None:
        """Write what comes until it ends, or nobody wants it any more."""
        watch = _Watch(self, id_, begun, generation)
        n_tokens = n_choices = 0
        for text in generation.chunks(watch.look):
            if text:
                event: Message = {"text": text}
                if tokens := generation.tokens[n_tokens:]:
                    n_tokens += len(tokens)
                    event["tokens"] = tokens
                if choices := generation.choices[n_choices:]:
                    n_choices += len(choices)
                    event["choices"] = [plain_choice(choice) for choice in choices]
                watch.write(event)
            if watch.is_over:
                generation.cancel()
                break
        if generation.finish:
            watch.write({"finish": plain(generation.finish), "spent": plain(generation.spent)})
        else:
            watch.write({"spent": plain(generation.spent)})

    def _write(self, id_: str, begun: Begun, events: list[Message]) -> str:
        return self._patiently(lambda: self._streams.write(id_, begun.attempt, begun.written, events))

    def has_reader(self, id_: str) -> bool:
        """Whether the API node is there that waits for a request."""
        node = self._patiently(lambda: self._streams.node_of(id_))
        return node is not None and self._patiently(lambda: self._roster.has_node(node))

    def write_events(self, id_: str, attempt: int, written: int, events: list[Message]) -> str:
        """See `Streams.write`; waits while Redis is away. Raises GiveBack."""
        return self._patiently(lambda: self._streams.write(id_, attempt, written, events))

    def _here(self, settings: LoadSettings) -> LoadSettings:
        """The settings with this machine's files. Raises what `ModelFiles.check` raises."""
        model = self._files.check(settings.file.as_posix())
        adapters = []
        for adapter in settings.lora:
            mine = self._files.check_adapter(adapter.file.as_posix())
            adapters.append(replace(adapter, file=mine.path, stamp=mine.stamp))
        return replace(settings, file=model.path, stamp=model.stamp, lora=tuple(adapters))

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

    def __init__(self, work: Work, id_: str, begun: Begun, generation: Generation) -> None:
        self._work = work
        self._id = id_
        self._attempt = begun.attempt
        self._written = begun.written
        self._generation = generation
        self._looked = self._seen = time.monotonic()
        self._missed = 0
        self.is_over = False
        """Whether nobody wants it."""

    def write(self, event: Message) -> None:
        """Write an event."""
        self._heed(self._work.write_events(self._id, self._attempt, self._written, [event]))
        self._written += 1

    def look(self) -> None:
        """What is called while nothing comes: look what is wanted, and whether somebody waits."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        self._heed(self._work.write_events(self._id, self._attempt, self._written, []))
        if now - self._seen > _LOOK_FOR_NODE:
            self._seen = now
            self._missed = 0 if self._work.has_reader(self._id) else self._missed + 1
            # Twice, since a node's card may have ended while Redis was away.
            if self._missed > 1:
                log.info("nobody waits for a request any more: its API node is gone")
                self.is_over = True

    def _heed(self, order: str) -> None:
        self._looked = time.monotonic()
        if order in ("gone", "stale", "cancel"):
            self.is_over = True
        elif order == "stop":
            self._generation.stop()


def _explained(worker: str, error: Exception) -> Exception:
    """An error as the caller is to see it: what is wrong with a worker's files is none of its fault."""
    if isinstance(error, BadModelFile | NotFound):
        what = f"the worker {worker} cannot load the model: {error.message}"
        return Unavailable(what, param="model", code="no_model", retry_after=5)
    if not isinstance(error, HearthError):
        log.error("a request failed", exc_info=error)
    return error
