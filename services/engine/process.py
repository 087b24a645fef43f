"""The engine in a process of its own, as a backend: what crashes llama.cpp costs the answers under way, and no more.

The process is started again at once, and again after longer and longer pauses where it crashes again and again. Whoever
waited gets an error that says so, and may ask again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import TimeoutError as TooLate
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from services.backend import ChatFormat, GenerationRequest, Health, LoadSettings, Prompt, Spent, Thought
from services.codec import Message, plain, read
from services.engine.life import EngineOptions, Life, RemoteGeneration, crashed
from services.engine.machine import used_memory
from services.engine.trial import Trials
from services.errors import Unavailable
from services.status import Counts, Room, Status

log = logging.getLogger(__name__)

# Seconds in which it says how it is, or it is down.
_SOON = 2.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0, 5.0
# A process that has lived for so long did not crash at once.
_GOOD_LIFE = 10.0


class RemoteModel:
    """A loaded model in the engine's process, for as long as its lease lasts; see `Model` and `Embedder`."""

    def __init__(self, life: Life, lease: int, known: Message) -> None:
        self._life = life
        self._lease = lease
        self.n_ctx: int = known["n_ctx"]
        self.chat_format = read(ChatFormat, known["chat_format"])

    def tokenize(self, prompt: Prompt) -> list[int]:
        """See `Model.tokenize`."""
        return self.tokenize_all([prompt])[0]

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """See `Model.pieces`."""
        return [bytes.fromhex(piece) for piece in self._life.call("pieces", lease=self._lease, tokens=list(tokens))]

    def tokenize_all(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """See `Model.tokenize_all`."""
        return list(self._life.call("tokenize_all", lease=self._lease, prompts=[plain(prompt) for prompt in prompts]))

    def submit_all(self, requests: Sequence[GenerationRequest]) -> list[RemoteGeneration]:
        """See `Model.submit_all`."""
        return self._life.submit_all(self._lease, requests)

    def think(self, thought: Thought) -> None:
        """See `Model.think`."""
        self._life.tell("think", lease=self._lease, thought=plain(thought))

    def embed(self, tokens: Sequence[int]) -> tuple[list[float], Spent]:
        """See `Embedder.embed`."""
        vector, spent = self._life.call("embed", lease=self._lease, tokens=list(tokens))
        return list(vector), read(Spent, spent)


class EngineProcess:
    """The backend of a single server: see `Backend`.

    Any thread may call it. `_turn` protects which life is the current one, and what is known of those before.
    """

    def __init__(self, options: EngineOptions, tried: Path) -> None:
        """`tried` is the file that remembers which settings went well."""
        self._options = options
        self._trials = Trials(tried, self._try)
        self._turn = threading.Lock()
        self._closing = False
        self._pause = _FIRST_PAUSE
        self._past = Counts()
        self._seen = Counts()
        self.on_restart: Callable[[], None] = lambda: None
        """Called once a new process stands in the place of one that crashed."""
        self._life = Life(options, self._ended)

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._life.process.pid

    @contextmanager
    def lease(self, settings: LoadSettings) -> Iterator[RemoteModel]:
        """See `Backend.lease`."""
        with self._leased(settings, embeds=False) as model:
            yield model

    @contextmanager
    def lease_embedder(self, settings: LoadSettings) -> Iterator[RemoteModel]:
        """See `Backend.lease_embedder`."""
        with self._leased(settings, embeds=True) as model:
            yield model

    @contextmanager
    def _leased(self, settings: LoadSettings, embeds: bool) -> Iterator[RemoteModel]:
        life = self._current()
        self._trials.check(settings, embeds)
        lease, known = life.lease(settings, embeds)
        try:
            yield RemoteModel(life, lease, known)
        finally:
            life.tell("release", lease=lease)

    def stop(self, _owner: str, _session: str) -> bool:
        """See `Backend.stop`: there is no other server."""
        return False

    def retain(self, sessions: Iterable[tuple[str, str]]) -> None:
        """See `Backend.retain`."""
        self._current().tell("retain", sessions=sorted(sessions))

    def loaded(self) -> list[Path]:
        """See `Backend.loaded`."""
        try:
            return [Path(file) for file in self._current().call("loaded", _SOON)]
        except (TooLate, Unavailable):
            return []

    def unload(self, file: Path) -> bool:
        """See `Backend.unload`."""
        return bool(self._current().call("unload", file=str(file)))

    def status(self) -> Status:
        """See `Backend.status`."""
        try:
            told = read(Status, self._current().call("status", _SOON))
        except (TooLate, Unavailable):
            none = Room(0, 0)
            told = Status(Counts(), 0, 0, 0, none, none, none)
        memory = Room(told.memory.used + used_memory(), told.memory.limit)
        with self._turn:
            self._seen = told.counts
            counts = self._past + told.counts
        return replace(told, counts=counts, memory=memory)

    def forget(self, owner: str, session: str) -> None:
        """See `Backend.forget`."""
        self._current().call("forget", owner=owner, session=session)

    def health(self) -> Health:
        """See `Backend.health`."""
        life = self._life
        if life.is_over or not life.ready.is_set():
            return "down" if self._closing or self._pause > 1 else "loading"
        try:
            health: Health = life.call("health", _SOON)
        except (TooLate, Unavailable):
            return "down"
        return health

    def close(self) -> None:
        """See `Backend.close`."""
        with self._turn:
            was_closing, self._closing = self._closing, True
        if not was_closing:
            self._life.stop()

    def _try(self, settings: LoadSettings, embeds: bool) -> None:
        self._current().call("try", settings=plain(settings), embeds=embeds)

    def _current(self) -> Life:
        if self._closing:
            raise Unavailable("the server is stopping", code="stopping", retry_after=5)
        life = self._life
        if life.is_over:
            raise crashed()
        return life

    def _ended(self, life: Life) -> None:
        """A process is over: say why, and start the next. On the thread that received from it."""
        with self._turn:
            if self._closing:
                return
            self._past += self._seen
            self._seen = Counts()
        has_lived = time.monotonic() - life.began > _GOOD_LIFE
        self._pause = _FIRST_PAUSE if has_lived else min(max(2 * self._pause, 0.5), _LONGEST_PAUSE)
        log.error("the engine's process has ended (%s); the next one starts in %g s", life.ending(), self._pause)
        while True:
            time.sleep(self._pause)
            with self._turn:
                if self._closing:
                    return
                try:
                    self._life = Life(self._options, self._ended)
                    break
                except OSError as error:
                    self._pause = _LONGEST_PAUSE
                    log.error("the engine's process cannot be started: %s", error)
        self.on_restart()
