"""A backend in memory: its models say what a script tells them, and keep every promise of services/backend/protocols.py.

A token is a word with the space before it, a single character, or a special token. An answer is computed by the thread that
reads it, token by token, so that a test decides when it goes on. Where a thought is to end, its closing tokens replace the
rest of it. A constraint is kept by what the script says, or else the answer counts as cut.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from typing_extensions import override

from services.backend.protocols import Backend, Embedder, Generation, Model
from services.backend.special_text import special_pattern
from services.backend.status import Counts, LoadedModel, Room, Status
from services.backend.thoughts import Parts, ThoughtTracker
from services.backend.types import (
    EVERYBODY,
    ChatFormat,
    Constraint,
    Finish,
    FinishReason,
    GenerationRequest,
    Health,
    LoadSettings,
    Mark,
    PrefetchRequest,
    Prompt,
    Spent,
    Thoughts,
    TokenChoice,
)
from services.engine.loop.text import TextAssembler
from services.errors import HearthError, InvalidRequest, Unavailable
from tests.support.fake_guide import guide

# What an answer is made of: text; a special token (`Mark`); an event that it waits for; an error that breaks it off.
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

    def __init__(self, specials: Sequence[str] = ()) -> None:
        """`specials` are the texts of its special tokens."""
        self.specials = tuple(sorted(specials, key=len, reverse=True))
        self._special = special_pattern(specials)
        self._lock = threading.Lock()
        self._words: list[str] = []
        self._ids: dict[str, int] = {}

    def tokenize(self, text: str, typed: Sequence[tuple[int, int]] = ()) -> list[int]:
        """Return the token ids of a text; in the spans `typed` there are no special tokens."""
        with self._lock:
            return [self._id(word) for word in self.words(text, typed)]

    def words(self, text: str, typed: Sequence[tuple[int, int]] = ()) -> list[str]:
        """Return the text of each token of a text; in the spans `typed` there are no special tokens."""
        if isinstance(text, Mark):
            return [text]
        words: list[str] = []
        done = 0
        for match in self._special.finditer(text):
            if not any(start < match.end() and match.start() < end for start, end in typed):
                words += [*_WORD.findall(text[done : match.start()]), Mark(match[0])]
                done = match.end()
        return words + _WORD.findall(text[done:])

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
        self.n_choices = 0
        self.prompt_choices: list[TokenChoice] = []
        self.request = request
        self.begun = threading.Event()
        self.stopped = threading.Event()
        self._text: TextAssembler | None = None
        self.cancelled = threading.Event()
        self.thinks_no_more = threading.Event()
        self.n_cached = 0
        self.n_said = 0
        """The tokens said so far, the one that ends an answer included."""
        self.n_thoughts = 0
        """Of these, the tokens of thoughts."""
        self._model = model
        self._tracker = ThoughtTracker(request.thoughts, model.header_end(request.thoughts)) if request.thoughts else None
        self._content: list[str] = []
        """What was said outside of thoughts, without special tokens."""
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
            if self.request.prompt_logprobs:
                words = self._model.vocabulary.texts(self.request.tokens[1:])
                self.prompt_choices = [TokenChoice(word.encode(), -0.5, ((word.encode(), -0.5),)) for word in words]
            reason = yield from self._say(poll)
            if not self.cancelled.is_set():
                self._end(reason)
        finally:
            self._model.leave(self)

    @override
    def stop(self) -> None:
        self.stopped.set()

    @override
    def stop_thinking(self) -> None:
        self.thinks_no_more.set()

    @override
    def cancel(self) -> None:
        self.cancelled.set()
        self.stopped.set()
        self._model.leave(self)

    def _say(self, poll: Callable[[], None]) -> Generator[str, None, FinishReason]:
        """Yield the answer's pieces, and "" now and then while it waits; return why it ended."""
        request = self.request
        text = self._text = TextAssembler(request.stop, request.marks)
        reason: FinishReason | None = None if request.max_tokens > 0 else "length"
        for word in self._steered(self._words(poll)) if reason is None else ():
            pieces = self._choose(text, word) if word else [""]
            self.n_choices = len(self.choices)
            yield from pieces
            reason = "stop" if text.stopped else "length" if len(self.tokens) >= request.max_tokens else None
            if reason:
                break
        if self.cancelled.is_set():
            return "cancelled"
        if reason is None:
            reason = "cancelled" if self.stopped.is_set() else "stop"
            self.n_said += reason == "stop"
        if reason != "cancelled":
            yield from text.flush()
        return "length" if reason == "stop" and self._is_cut() else reason

    def _is_cut(self) -> bool:
        """Whether what was said outside of thoughts falls short of the request's constraint."""
        constraint = self.request.sampling.constraint
        return constraint is not None and not constraint.triggers and not _fits("".join(self._content), constraint)

    def _steered(self, words: Iterator[str]) -> Iterator[str]:
        """Yield the words, with the closing tokens in place of the rest of a thought that is to end."""
        thoughts, tracker = self.request.thoughts, self._tracker
        if thoughts is None or tracker is None:
            yield from words
            return
        vocabulary = self._model.vocabulary
        closing = vocabulary.words(thoughts.closing or thoughts.ends)
        for word in words:
            is_used_up = thoughts.budget is not None and self.n_thoughts >= thoughts.budget
            if not (tracker.is_open and (is_used_up or self.thinks_no_more.is_set())):
                yield word
                continue
            for each in closing:
                yield from vocabulary.words(each) if each in vocabulary.specials else [each]
            tracker.close()
            _skip_thought(replace(thoughts, is_open=True), word, words)

    def _words(self, poll: Callable[[], None]) -> Iterator[str]:
        """The script's words, until the answer is to end; "" now and then while it waits."""
        if self.stopped.is_set():
            return
        for piece in self._model.script(self._model.text(self.request.tokens)):
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, threading.Event):
                yield from self._until(piece, poll)
            for word in self._model.vocabulary.words(piece) if isinstance(piece, str) else [""]:
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

    def _choose(self, text: TextAssembler, word: str) -> list[str]:
        """Note the next token; return the pieces of the answer that it completes."""
        self._clock.setdefault("first_token", time.perf_counter())
        piece, mark = word.encode(), word if isinstance(word, Mark) else None
        self.tokens += self._model.vocabulary.tokenize(word)
        self.n_said += 1
        if (n_top := self.request.sampling.n_top) is not None:
            others = tuple((f"?{n}".encode(), -3.0 - n) for n in range(1, n_top))
            self.choices.append(TokenChoice(piece, -0.1, ((piece, -0.1), *others) if n_top else ()))
        parts: Parts = ((piece, False),)
        if self._tracker:
            self.n_thoughts += self._tracker.is_open
            parts = self._tracker.add(piece, mark is not None)
        pieces = []
        for part, is_thought in parts:
            if not mark and not is_thought:
                self._content.append(part.decode())
            pieces += text.add(b"" if mark else part, mark, not is_thought)
        return pieces

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
        counts = len(self.request.tokens), self.n_cached, self.n_said, self.n_thoughts
        stop_string = self._text.stop_string if self._text else ""
        self.finish = Finish(reason, *counts, timings, stop_string=stop_string)


class FakeModel(Model):
    """A loaded model. Any thread may call it; `_lock` protects the slots and what was computed."""

    def __init__(
        self,
        settings: LoadSettings,
        vocabulary: Vocabulary,
        script: Script,
        max_waiting: int,
        template: str = _CHAT_TEMPLATE,
        refusal: Callable[[], HearthError | None] = lambda: None,
    ) -> None:
        """`refusal` gives the error with which a request with a constraint is refused."""
        self.settings = settings
        self.n_ctx = settings.n_ctx or _DEFAULT_N_CTX
        self.chat_format = ChatFormat(template, "", "", vocabulary.specials, longest_token=64)
        self.vocabulary = vocabulary
        self.script = script
        self.counts = Counts()
        self.requests: list[GenerationRequest] = []
        self.prefetches: list[PrefetchRequest] = []
        self._max_waiting = max_waiting
        self._refusal = refusal
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
        if prompt.infill:
            raise InvalidRequest(f"{prompt.infill.param}: there are no tokens", param=prompt.infill.param, code="no_infill")
        return self.vocabulary.tokenize(prompt.text, prompt.typed)

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
            if request.sampling.constraint and (refused := self._refusal()):
                raise refused
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
    def prefetch(self, request: PrefetchRequest) -> bool:
        with self._lock:
            self.prefetches.append(request)
            self._computed.setdefault(request.owner, []).append(request.tokens)
        return True

    def header_end(self, thoughts: Thoughts) -> str:
        """Return the special token that ends the header with which a thought begins; "" if a thought has none."""
        words = self.vocabulary.words(thoughts.begins)
        marks = [isinstance(word, Mark) for word in words]
        return words[-1] if marks and marks[0] and marks[-1] and not all(marks) else ""

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
        self.ranks = False

    @override
    def tokenize_all(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        for prompt in prompts:
            self._vocabulary.texts(prompt.ids, "input")
        return [list(prompt.ids) or self._vocabulary.tokenize(prompt.text) for prompt in prompts]

    @override
    def tokenize_pairs(self, query: str, documents: Sequence[str]) -> list[list[int]]:
        return [self._vocabulary.tokenize(f"{query} {document}") for document in documents]

    @override
    def embed(
        self, texts: Sequence[Sequence[int]], poll: Callable[[], None] = lambda: None
    ) -> tuple[list[list[float]], Spent]:
        n_tokens = sum(map(len, texts))
        return [self._embed(tokens, poll) for tokens in texts], Spent(n_tokens, cpu_seconds=n_tokens / 1000)

    def _embed(self, tokens: Sequence[int], poll: Callable[[], None]) -> list[float]:
        poll()
        if not tokens:
            raise InvalidRequest("the input holds no tokens", param="input")
        if len(tokens) > self.n_ctx:
            what = f"the input has {len(tokens)} tokens, more than the {self.n_ctx} of the context"
            raise InvalidRequest(what, param="input", code="context_length_exceeded")
        words = [hashlib.sha256(word.encode()).digest()[:_WIDTH] for word in self._vocabulary.texts(tokens)]
        vector = [sum(word[n] - 127.5 for word in words) for n in range(_WIDTH)]
        length = math.hypot(*vector) or 1.0
        return [value / length for value in vector]


class FakeBackend(Backend):
    """Loads a model for every setting at once. Any thread may call it; `_lock` protects the tables."""

    def __init__(
        self,
        script: Script = guide,
        cannot_load: Mapping[str, HearthError] | None = None,
        max_waiting: int = 32,
        specials: Sequence[str] = (),
        template: str = _CHAT_TEMPLATE,
    ) -> None:
        """Models of any file speak by `script`; loading a file named in `cannot_load` raises its error.

        `specials` are the texts of their special tokens, which come as `Mark` where a script says them; `template` is their
        chat template.
        """
        self.vocabulary = Vocabulary(specials)
        self.refused: HearthError | None = None
        """The error with which a request with a constraint is refused; None: it is not."""
        self._template = template
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
                    self._models[settings] = FakeModel(
                        settings, self.vocabulary, self._say, self._max_waiting, self._template, lambda: self.refused
                    )
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
    def stop(self, owner: str, session: str, thinking: bool = False) -> bool:
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
    constraint = request.sampling.constraint
    if constraint and constraint.kind == "json_schema" and not isinstance(_parsed(constraint.source), dict | bool):
        raise InvalidRequest("the JSON schema is none", param="response_format", code="bad_schema")
    assert not request.resume_tokens, "a scripted answer is not gone on with"


def _fits(text: str, constraint: Constraint) -> bool:
    """Whether a text is JSON, or matches the regular expression; no grammar is looked at."""
    if constraint.kind == "regex":
        return re.fullmatch(constraint.source, text) is not None
    return constraint.kind != "json_schema" or not isinstance(_parsed(text), ValueError)


def _parsed(text: str) -> object:
    """The value of a JSON text, or the error that it is none."""
    try:
        return json.loads(text)
    except ValueError as error:
        return error


def _skip_thought(thoughts: Thoughts, word: str, words: Iterator[str]) -> None:
    """Leave out the rest of a thought, which begins with `word`."""
    rest = ThoughtTracker(thoughts)
    rest.add(word.encode(), isinstance(word, Mark))
    while rest.is_open and (left := next(words, None)) is not None:
        rest.add(left.encode(), isinstance(left, Mark))


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
