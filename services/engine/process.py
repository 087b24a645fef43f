"""The engine in a process of its own, as a backend: what crashes llama.cpp costs the answers under way, and no more.

The process is started again at once, and again after longer and longer pauses where it crashes again and again. Whoever
waited gets an error that says so, and may ask again.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import TimeoutError as TooLate
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from services.backend import ChatFormat, GenerationRequest, Health, LoadSettings, Prompt, Spent, Thought
from services.engine.life import EngineOptions, Life, RemoteGeneration, crashed
from services.engine.machine import used_memory
from services.engine.wire import Message, plain, read
from services.errors import BadModelFile, Unavailable
from services.status import Counts, Room, Status

log = logging.getLogger(__name__)

# Seconds in which it says how it is, or it is down.
_SOON = 2.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0, 30.0
# A process that has lived for so long did not crash at once.
_GOOD_LIFE = 60.0
_NO_FORMAT = {"template": "", "bos": "", "eos": "", "specials": ()}
Check = Callable[[LoadSettings, bool], None]


class RemoteModel:
    """A loaded model in the engine's process, for as long as its lease lasts; see `Model` and `Embedder`."""

    def __init__(self, life: Life, leased: Message) -> None:
        self._life = life
        self.lease = leased["lease"]
        self.n_ctx = leased.get("n_ctx", 0)
        self.chat_format = (
            read(ChatFormat, leased["chat_format"]) if "chat_format" in leased else ChatFormat("", "", "", ())
        )

    def tokenize(self, prompt: Prompt) -> list[int]:
        """See `Model.tokenize`."""
        return self.tokenize_all([prompt])[0]

    def detokenize(self, tokens: Sequence[int]) -> str:
        """See `Model.detokenize`."""
        return str(self._life.call("detokenize", lease=self.lease, tokens=list(tokens)))

    def tokenize_all(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """See `Model.tokenize_all`."""
        return list(self._life.call("tokenize_all", lease=self.lease, prompts=[plain(prompt) for prompt in prompts]))

    def submit_all(self, requests: Sequence[GenerationRequest]) -> list[RemoteGeneration]:
        """See `Model.submit_all`."""
        return self._life.submit_all(self.lease, requests)

    def think(self, thought: Thought) -> None:
        """See `Model.think`."""
        self._life.tell("think", lease=self.lease, thought=plain(thought))

    def embed(self, tokens: Sequence[int]) -> tuple[list[float], Spent]:
        """See `Embedder.embed`."""
        vector, spent = self._life.call("embed", lease=self.lease, tokens=list(tokens))
        return list(vector), read(Spent, spent)


class EngineProcess:
    """The backend of a single server: see `Backend`.

    Any thread may call it. `_turn` protects which life is the current one, and what is known of those before.
    """

    def __init__(self, options: EngineOptions, check: Check) -> None:
        """`check` raises BadModelFile for settings that would crash it; the bool is whether they are for embeddings."""
        self._options = options
        self._check = check
        self._turn = threading.Lock()
        self._closing = False
        self._pause = _FIRST_PAUSE
        self._past = Counts()
        self._seen = Counts()
        self._loading: list[LoadSettings] = []
        self._fatal: set[LoadSettings] = set()
        """What the process has ended of while it was loaded."""
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
        if settings in self._fatal:
            raise BadModelFile(f"llama.cpp ended its process when it loaded {settings.file.name}", param="model")
        self._check(settings, embeds)
        self._loading.append(settings)
        try:
            model = RemoteModel(life, life.call("lease", settings=plain(settings), embeds=embeds))
        except Unavailable as error:
            if error.code == "engine_crashed" and not embeds and self._loading == [settings]:
                self._fatal.add(settings)
            raise
        finally:
            self._loading.remove(settings)
        try:
            yield model
        finally:
            life.tell("release", lease=model.lease)

    def retain(self, sessions: Iterable[tuple[str, str]]) -> None:
        """Keep the states of these sessions (owner and number) only: there are no others."""
        self._current().tell("retain", sessions=sorted(sessions))

    def loaded(self) -> list[Path]:
        """See `Backend.loaded`."""
        try:
            return [Path(file) for file in self._current().call("loaded", _SOON)]
        except (TooLate, Unavailable):
            return []

    def status(self) -> Status:
        """See `Backend.status`."""
        try:
            told = read(Status, self._current().call("status", _SOON))
        except (TooLate, Unavailable):
            none = Room(0, 0)
            told = Status(Counts(), 0, 0, 0, none, none, none)
        memory = Room(told.memory.used + used_memory(), told.memory.limit)
        with self._turn:
            self._seen = replace(told.counts)
            counts = replace(self._past)
        counts.add(told.counts)
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
            self._past.add(self._seen)
            self._seen = Counts()
        status = life.process.returncode
        reason = signal.Signals(-status).name if status < 0 else f"status {status}"
        has_lived = time.monotonic() - life.began > _GOOD_LIFE
        self._pause = _FIRST_PAUSE if has_lived else min(max(2 * self._pause, 0.5), _LONGEST_PAUSE)
        log.error("the engine's process has ended (%s); the next one starts in %g s", reason, self._pause)
        time.sleep(self._pause)
        with self._turn:
            if self._closing:
                return
            self._life = Life(self._options, self._ended)
        self.on_restart()
