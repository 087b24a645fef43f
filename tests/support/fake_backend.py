"""A backend in memory: its models say what a script tells them, and keep every promise of services/backend/protocols.py.

A token is a word with the space before it, or a single character. An answer is computed by the thread that reads it, token
by token, so that a test decides when it goes on.
"""

from __future__ import annotations

import hashlib
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

from typing_extensions import override

from services.backend.protocols import Backend, Embedder, Generation, Model
from services.backend.status import Counts, LoadedModel, Room, Status
from services.backend.types import (
    EVERYBODY,
    ChatFormat,
    Finish,
    FinishReason,
    GenerationRequest,
    Health,
    LoadSettings,
    PrefetchRequest,
    Prompt,
    Spent,
    TokenChoice,
)
from services.engine.loop.text import TextAssembler
from services.errors import HearthError, InvalidRequest, Unavailable
from tests.support.fake_guide import guide

# What an answer is made of: text; an event that it waits for; an error that breaks it off.
Piece = str | threading.Event | Exception
Script = Callable[[str], Iterable[Piece]]
"""From the prompt's text to the pieces of an answer, which may be without end."""

# Seconds between two polls of a generation that waits, and between two signs of life (see `Generation.chunks`).
_POLL, _SILENCE = 0.01, 0.25
_WORD = re.compile(r" ?\w{1,16}|.", re.DOTALL)
_CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n\n"
    "{% elif m.role == 'user' %}Human: {{ m.content }}\n"
    "{% else %}AI: {{ m.content }}\n{% endif %}{% endfor %}{% if add_generation_prompt %}AI:{% endif %}"
)
_DEFAULT_N_CTX, _WIDTH = 2048, 16


class Vocabulary:
    """Token ids in the order in which their words first came. Any thread may call it; `_lock` protects both directions."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._words: list[str] = []
        self._ids: dict[str, int] = {}

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        with self._lock:
            return [self._id(word) for word in _WORD.findall(text)]

    def texts(self, tokens: Iterable[int], param: str = "tokens") -> list[str]:
        """Return the text of each token. Raises InvalidRequest for an unknown id."""
        tokens = list(tokens)
        for token in tokens:
            if not 0 <= token < len(self._words):
                raise InvalidRequest(f"{param}: {token} is no token of this model", param=param, code="no_such_token")
        return [self._words[token] for token in tokens]

    def _id(self, word: str) -> int:
        if word not in self._ids:
            self._ids[word] = len(self._words)
            self._words.append(word)
        return self._ids[word]


class FakeGeneration(Generation):
    """One scripted answer. Its reader's thread computes it; any thread may stop it."""

    def __init__(self, model: FakeModel, request: GenerationRequest) -> None:
        self.finish: Finish | None = None
        self.tokens: list[int] = []
        self.choices: list[TokenChoice] = []
        self.request = request
        self.begun = threading.Event()
        self.stopped = threading.Event()
        self.cancelled = threading.Event()
        self.n_cached = 0
        self.n_said = 0
        """The tokens said so far, the one that ends an answer included."""
        self._model = model
        self._clock = {"submitted": time.perf_counter()}

    @property
    @override
    def queue_position(self) -> int | None:  # type: ignore[override]
        return self._model.position(self)

    @property
    @override
    def spent(self) -> Spent:
        if not self.begun.is_set():
            return Spent()
        n_prompt = len(self.request.tokens)
        return Spent(n_prompt, self.n_cached, self.n_said, cpu_seconds=(n_prompt - self.n_cached + self.n_said) / 1000)

    @property
    def first_token_seconds(self) -> float:
        """For how long its first token was waited for."""
        return self._clock["first_token"] - self._clock["submitted"]

    @override
    def chunks(self, poll: Callable[[], None]) -> Iterator[str]:
        try:
            poll()
            yield from self._until(self.begun, poll)
            self._clock["started"] = time.perf_counter()
            text = TextAssembler(self.request.stop)
            reason: FinishReason | None = None
            for word in self._words(poll):
                said = text.add(self._choose(word)) if word else ""
                if said or not word:
                    yield said
                reason = "stop" if text.stopped else "length" if len(self.tokens) >= self.request.max_tokens else None
                if reason:
                    break
            if self.cancelled.is_set():
                return
            if reason is None:
                reason = "cancelled" if self.stopped.is_set() else "stop"
                self.n_said += reason == "stop"
            if reason != "cancelled" and (rest := text.flush()):
                yield rest
            self._end(reason)
        finally:
            self._model.leave(self)

    @override
    def stop(self) -> None:
        self.stopped.set()

    @override
    def cancel(self) -> None:
        self.cancelled.set()
        self.stopped.set()
        self._model.leave(self)

    def _words(self, poll: Callable[[], None]) -> Iterator[str]:
        """The script's words, until the answer is to end; "" now and then while it waits."""
        if self.stopped.is_set():
            return
        for piece in self._model.script(self._model.text(self.request.tokens)):
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, threading.Event):
                yield from self._until(piece, poll)
            for word in _WORD.findall(piece) if isinstance(piece, str) else [""]:
                poll()
                if self.stopped.is_set():
                    return
                if word:
                    yield word

    def _until(self, event: threading.Event, poll: Callable[[], None]) -> Iterator[str]:
        """Wait until it is set, or until the answer is to end; "" for each silence that is long."""
        silent_since = time.monotonic()
        while not event.wait(_POLL) and not self.stopped.is_set():
            poll()
            if time.monotonic() - silent_since >= _SILENCE:
                silent_since = time.monotonic()
                yield ""

    def _choose(self, word: str) -> bytes:
        """Note the next token; return its bytes."""
        self._clock.setdefault("first_token", time.perf_counter())
        piece = word.encode()
        self.tokens += self._model.vocabulary.tokenize(word)
        self.n_said += 1
        if (n_top := self.request.sampling.n_top) is not None:
            others = tuple((f"?{n}".encode(), -3.0 - n) for n in range(1, n_top))
            self.choices.append(TokenChoice(piece, -0.1, ((piece, -0.1), *others) if n_top else ()))
        return piece

    def _end(self, reason: FinishReason) -> None:
        now = time.perf_counter()
        for mark in ("started", "first_token"):
            self._clock.setdefault(mark, now)
        clock = self._clock
        spans = {
            "queued_ms": clock["started"] - clock["submitted"],
            "prompt_ms": clock["first_token"] - clock["started"],
            "first_token_ms": self.first_token_seconds,
            "generation_ms": now - clock["first_token"],
            "total_ms": now - clock["submitted"],
        }
        timings = {name: round(seconds * 1000, 1) for name, seconds in spans.items()}
        self.finish = Finish(reason, len(self.request.tokens), self.n_cached, self.n_said, timings)


class FakeModel(Model):
    """A loaded model. Any thread may call it; `_lock` protects the slots and what was computed."""

    def __init__(self, settings: LoadSettings, vocabulary: Vocabulary, script: Script, max_waiting: int) -> None:
        self.settings = settings
        self.n_ctx = settings.n_ctx or _DEFAULT_N_CTX
        self.chat_format = ChatFormat(_CHAT_TEMPLATE, "", "", (), longest_token=64)
        self.vocabulary = vocabulary
        self.script = script
        self.counts = Counts()
        self.requests: list[GenerationRequest] = []
        self.prefetches: list[PrefetchRequest] = []
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._running: list[FakeGeneration] = []
        self._waiting: list[FakeGeneration] = []
        self._computed: dict[str, list[tuple[int, ...]]] = {}
        """The tokens of prompts and their answers, by their owner."""

    @override
    def tokenize(self, prompt: Prompt) -> list[int]:
        if prompt.ids:
            self.vocabulary.texts(prompt.ids, "prompt")
            return list(prompt.ids)
        return self.vocabulary.tokenize(prompt.text)

    @override
    def tokenize_all(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        return [self.tokenize(prompt) for prompt in prompts]

    @override
    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        return [text.encode() for text in self.vocabulary.texts(tokens)]

    def text(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens that this model has made."""
        return "".join(self.vocabulary.texts(tokens))

    @override
    def submit_all(self, requests: Sequence[GenerationRequest]) -> Sequence[FakeGeneration]:
        for request in requests:
            _check(request, self.vocabulary)
        with self._lock:
            n_free = self.settings.n_parallel - len(self._running)
            if (n_waiting := len(self._waiting) + len(requests) - max(n_free, 0)) > self._max_waiting:
                what = f"{n_waiting - len(requests)} answers wait for their turn already; try again later"
                raise Unavailable(what, code="too_busy", retry_after=1)
            self.requests += requests
            generations = [FakeGeneration(self, request) for request in requests]
            self._waiting += generations
            self._fill_slots()
        return generations

    @override
    def prefetch(self, request: PrefetchRequest) -> None:
        with self._lock:
            self.prefetches.append(request)
            self._computed.setdefault(request.owner, []).append(request.tokens)

    def position(self, generation: FakeGeneration) -> int:
        """Return which in line a generation is; 0 once it has a slot."""
        with self._lock:
            return self._waiting.index(generation) + 1 if generation in self._waiting else 0

    def load(self) -> tuple[int, int]:
        """Return how many answers are computed and how many wait."""
        with self._lock:
            return len(self._running), len(self._waiting)

    def leave(self, generation: FakeGeneration) -> None:
        """Give back what a generation holds. Calling it again does nothing."""
        with self._lock:
            if generation in self._waiting:
                self._waiting.remove(generation)
            if generation in self._running:
                self._running.remove(generation)
                request = generation.request
                self._computed.setdefault(request.owner, []).append((*request.tokens, *generation.tokens))
                self.counts += _counted(generation)
            self._fill_slots()

    def forget(self, owner: str) -> None:
        """Drop what is computed of an owner's conversations."""
        with self._lock:
            self._computed.pop(owner, None)

    def _fill_slots(self) -> None:
        while self._waiting and len(self._running) < self.settings.n_parallel:
            generation = self._waiting.pop(0)
            generation.n_cached = self._cached(generation.request)
            self._running.append(generation)
            generation.begun.set()

    def _cached(self, request: GenerationRequest) -> int:
        """How many of a prompt's first tokens are computed: its owner's, and of everybody's no more than the head."""
        own = max((_common(request.tokens, known) for known in self._computed.get(request.owner, ())), default=0)
        head = max((_common(request.tokens, known) for known in self._computed.get(EVERYBODY, ())), default=0)
        # The last token is always read, for what follows it.
        return min(max(own, min(head, request.n_head)), len(request.tokens) - 1)


class FakeEmbedder(Embedder):
    """Makes a vector of a text's words: the sum of one for each, of length 1."""

    def __init__(self, settings: LoadSettings, vocabulary: Vocabulary) -> None:
        self.n_ctx = settings.n_ctx or _DEFAULT_N_CTX
        self.chat_format = ChatFormat(_CHAT_TEMPLATE, "", "", (), longest_token=64)
        self._vocabulary = vocabulary

    @override
    def tokenize(self, prompt: Prompt) -> list[int]:
        if prompt.ids:
            self._vocabulary.texts(prompt.ids, "input")
            return list(prompt.ids)
        return self._vocabulary.tokenize(prompt.text)

    @override
    def embed(self, tokens: Sequence[int], poll: Callable[[], None] = lambda: None) -> tuple[list[float], Spent]:
        poll()
        if not tokens:
            raise InvalidRequest("the input holds no tokens", param="input")
        if len(tokens) > self.n_ctx:
            what = f"the input has {len(tokens)} tokens, more than the {self.n_ctx} of the context"
            raise InvalidRequest(what, param="input", code="context_length_exceeded")
        words = [hashlib.sha256(word.encode()).digest()[:_WIDTH] for word in self._vocabulary.texts(tokens)]
        vector = [sum(word[n] - 127.5 for word in words) for n in range(_WIDTH)]
        length = math.hypot(*vector) or 1.0
        return [value / length for value in vector], Spent(len(tokens), cpu_seconds=len(tokens) / 1000)


class FakeBackend(Backend):
    """Loads a model for every setting at once. Any thread may call it; `_lock` protects the tables."""

    def __init__(
        self,
        script: Script = guide,
        cannot_load: Mapping[str, HearthError] | None = None,
        max_waiting: int = 32,
    ) -> None:
        """Models of any file speak by `script`; loading a file named in `cannot_load` raises its error."""
        self.vocabulary = Vocabulary()
        self.forgotten: list[tuple[str, str]] = []
        self.leases = 0
        self._script = script
        self._replies: list[Sequence[Piece]] = []
        self._cannot_load = dict(cannot_load or {})
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._models: dict[LoadSettings, FakeModel] = {}
        self._leased: dict[Path, int] = {}
        self._past = Counts()
        self._broken = self._is_closed = False

    def reply(self, *pieces: Piece) -> None:
        """Have the next answer be made of these pieces, instead of the script's; called twice, the next two."""
        with self._lock:
            self._replies.append(pieces)

    @property
    def requests(self) -> list[GenerationRequest]:
        """What the loaded models were asked to generate."""
        return [request for model in self.models() for request in model.requests]

    @property
    def prefetches(self) -> list[PrefetchRequest]:
        """What the loaded models were asked to read ahead."""
        return [prefetch for model in self.models() for prefetch in model.prefetches]

    def models(self) -> list[FakeModel]:
        """Return the loaded models, in the order of their loading."""
        with self._lock:
            return list(self._models.values())

    @contextmanager
    @override
    def lease(self, settings: LoadSettings, poll: Callable[[], None] = lambda: None) -> Iterator[FakeModel]:
        with self._leasing(settings, poll):
            with self._lock:
                if settings not in self._models:
                    # Whoever changes a profile does not want the file's other settings too.
                    for other in [known for known in self._models if known.file == settings.file]:
                        self._past += self._models.pop(other).counts
                    self._models[settings] = FakeModel(settings, self.vocabulary, self._say, self._max_waiting)
                model = self._models[settings]
            yield model

    @contextmanager
    @override
    def lease_embedder(self, settings: LoadSettings, poll: Callable[[], None] = lambda: None) -> Iterator[FakeEmbedder]:
        with self._leasing(settings, poll):
            yield FakeEmbedder(settings, self.vocabulary)

    @contextmanager
    def _leasing(self, settings: LoadSettings, poll: Callable[[], None]) -> Iterator[None]:
        poll()
        if self._is_closed:
            raise Unavailable("the server is stopping", code="stopping", retry_after=5)
        if error := self._cannot_load.get(settings.file.name):
            self._broken = True
            raise error
        self._broken = False
        with self._lock:
            self._leased[settings.file] = self._leased.get(settings.file, 0) + 1
            self.leases += 1
        try:
            yield
        finally:
            with self._lock:
                self._leased[settings.file] -= 1
                self.leases -= 1

    @override
    def loaded(self) -> list[Path]:
        with self._lock:
            return [settings.file for settings in self._models]

    @override
    def unload(self, file: Path) -> bool:
        with self._lock:
            freed = [settings for settings in self._models if settings.file == file]
            if freed and self._leased.get(file):
                raise Unavailable(f"{file.name} answers just now", param="model", code="model_in_use", retry_after=2)
            for settings in freed:
                self._past += self._models.pop(settings).counts
            return bool(freed)

    @override
    def status(self) -> Status:
        models = self.models()
        loads, counts = [model.load() for model in models], self._past
        for model in models:
            counts += model.counts
        return Status(
            counts=counts,
            slots=sum(model.settings.n_parallel for model in models),
            running=sum(running for running, _ in loads),
            waiting=sum(waiting for _, waiting in loads),
            memory=Room(10**9, 4 * 10**9),
            states_ram=Room(0, 10**9),
            states_disk=Room(0, 4 * 10**9),
            models=[LoadedModel(model.settings.file.name, model.settings.file.stat().st_size) for model in models],
        )

    @override
    def forget(self, owner: str, session: str) -> None:
        self.forgotten.append((owner, session))
        for model in self.models():
            model.forget(owner)

    @override
    def stop(self, owner: str, session: str) -> bool:
        return False

    @override
    def retain(self, sessions: Iterable[tuple[str, str]]) -> None:
        pass

    @override
    def health(self) -> Health:
        return "down" if self._broken or self._is_closed else "ready"

    @override
    def close(self) -> None:
        self._is_closed = True

    def _say(self, prompt: str) -> Iterable[Piece]:
        with self._lock:
            reply = self._replies.pop(0) if self._replies else None
        return self._script(prompt) if reply is None else reply


def endless(prompt: str) -> Iterator[str]:
    """A script without end."""
    yield " On"
    while True:
        yield " and on"


def _check(request: GenerationRequest, vocabulary: Vocabulary) -> None:
    """Raises InvalidRequest for what a model would refuse, and for what this one cannot do."""
    if not request.tokens:
        raise InvalidRequest("the prompt holds no tokens", param="prompt")
    vocabulary.texts([token for token, _ in request.sampling.logit_bias], "logit_bias")
    if request.sampling.json_schema:
        raise InvalidRequest("a scripted answer keeps to no JSON schema", param="response_format")
    assert not request.resume_tokens, "a scripted answer is not gone on with"


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts have in common at their beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _counted(generation: FakeGeneration) -> Counts:
    """What a generation adds to the totals of /status."""
    n_prompt = len(generation.request.tokens)
    has_ended, has_begun = generation.finish is not None, bool(generation.tokens)
    return Counts(
        answers=int(has_ended),
        prompt_tokens=n_prompt - generation.n_cached,
        cached_tokens=generation.n_cached,
        completion_tokens=generation.n_said,
        context_hits=int(generation.n_cached > 0),
        misses=int(generation.n_cached == 0),
        first_tokens=int(has_begun),
        first_token_seconds=generation.first_token_seconds if has_begun else 0.0,
    )
