"""The backend of a worker that computes nothing itself: an upstream server with OpenAI's API (INNER_LLM_URL).

The upstream has a tokenizer of its own, so it is sent text: in this cluster each character counts as a token.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import httpx2
from typing_extensions import override

from services.backend.delivery import Delivery
from services.backend.protocols import Backend, Embedder, Model
from services.backend.status import Counts, LoadedModel, Room, Status
from services.backend.thoughts import ThoughtTracker
from services.backend.types import (
    Finish,
    FinishReason,
    GenerationRequest,
    Health,
    LoadSettings,
    PrefetchRequest,
    Spent,
    TokenChoice,
)
from services.cluster.text_tokens import TextTokenizer
from services.cluster.worker.upstream_body import completion_body
from services.errors import EngineFailure, HearthError, InvalidRequest, Unavailable
from services.models.files import CheckedModel, ModelFile, ModelFiles
from services.models.gguf import GgufInfo

log = logging.getLogger(__name__)

# Seconds to connect in, and those for which the upstream may send nothing.
_CONNECT, _SILENCE = 5.0, 300.0
# Seconds for which its list of models is fresh enough.
_LISTED = 30.0


class NamedFiles(ModelFiles):
    """Models that are only names here: the upstream has them."""

    info = GgufInfo(None, "elsewhere", 0, "", None, None, 0)

    def __init__(self) -> None:
        super().__init__(Path())

    @override
    def list(self) -> list[ModelFile]:
        return []

    @override
    def check(self, name: str) -> CheckedModel:
        return CheckedModel(name, Path(name), (0, 0, 0), self.info)

    @override
    def check_adapter(self, name: str) -> CheckedModel:
        """Raise InvalidRequest: the upstream has none of our adapters."""
        raise InvalidRequest(f"{name}: a server elsewhere applies no adapters", param="lora")


class UpstreamGeneration(Delivery):
    """One request to the upstream, which a thread of its own reads once it is started.

    Its text is text alone: an upstream tells nothing of special tokens. About as many tokens come as pieces of text.
    """

    def __init__(self, backend: UpstreamBackend, model: str, request: GenerationRequest) -> None:
        super().__init__()
        self._backend = backend
        self._request = request
        self._model = model
        self._tracker = ThoughtTracker(request.thoughts) if request.thoughts else None
        self._budget = request.thoughts.budget if request.thoughts else None
        self._n_pieces = self._n_thoughts = 0
        self._usage: Mapping[str, Any] = {}
        self._first: float | None = None
        self._stopped = threading.Event()
        self._cancelled = threading.Event()

    def start(self) -> None:
        """Send the request; once only."""
        threading.Thread(target=self._read, name="upstream", daemon=True).start()

    @override
    def stop(self) -> None:
        self._stopped.set()

    @override
    def stop_thinking(self) -> None:
        self._budget = 0

    @override
    def cancel(self) -> None:
        self._cancelled.set()

    def _read(self) -> None:
        """The thread that reads the answer."""
        began = time.perf_counter()
        resumed = "".join(map(chr, self._request.resume_tokens))
        if undelivered := resumed[self._request.delivered :]:
            # An earlier attempt had it, and did not deliver it.
            self.put(undelivered)
        if self._tracker:
            self._tracker.add(resumed.encode("utf-8", "replace"), False)
        try:
            reason = self._read_all() if self._request.max_tokens > 0 else "length"
            if reason:
                self._end(reason, began)
        except HearthError as error:
            self.put(error)
        except Exception as error:
            log.warning("the server at INNER_LLM_URL: %s", error)
            self.put(_away(str(error)))

    def _read_all(self) -> FinishReason | None:
        """Read the answer, asking again behind a thought that is closed; return why it ended, None if it is cancelled."""
        while True:
            if self._has_to_close():
                self._close()
            told = (*self._request.resume_tokens, *self.tokens)
            with self._backend.stream(self._model, replace(self._request, resume_tokens=told)) as events:
                reason = self._read_stream(events)
            if reason != "thought":
                return reason

    def _read_stream(self, events: Iterator[dict[str, Any]]) -> Literal["thought"] | FinishReason | None:
        """Read one reply of the upstream; return "thought" where an open thought has to be closed."""
        reason: Any = "stop"
        for event in events:
            if self._cancelled.is_set():
                return None
            self._usage = event.get("usage") or self._usage
            for choice in event.get("choices", ()):
                reason = choice.get("finish_reason") or reason
                self._take(choice.get("text") or "", choice.get("logprobs"))
            if self._stopped.is_set():
                return "cancelled"
            if self._has_to_close():
                return "thought"
        return "length" if reason == "length" else "stop"

    def _take(self, text: str, logprobs: Mapping[str, Any] | None) -> None:
        """Deliver a piece of the answer."""
        if not text:
            return
        self._first = self._first or time.perf_counter()
        self._n_pieces += 1
        if self._tracker:
            self._n_thoughts += self._tracker.is_open
            self._tracker.add(text.encode("utf-8", "replace"), False)
        if logprobs and self._request.sampling.n_top is not None:
            self.choices += _choices(logprobs)
        self.tokens += map(ord, text)
        self._spent = Spent(len(self._request.tokens), 0, self._n_pieces)
        self.put(text)

    def _has_to_close(self) -> bool:
        is_open = self._tracker is not None and self._tracker.is_open
        return is_open and self._budget is not None and self._n_thoughts >= self._budget

    def _close(self) -> None:
        """Write the end of the open thought in the model's place."""
        thoughts = self._request.thoughts
        if thoughts and self._tracker:
            self._take(thoughts.closing or thoughts.ends, None)
            self._tracker.close()

    def _end(self, reason: FinishReason, began: float) -> None:
        usage = self._usage
        n_prompt = int(usage.get("prompt_tokens") or len(self._request.tokens))
        n_completion = int(usage.get("completion_tokens") or self._n_pieces)
        cached = int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        n_thoughts = int((usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or self._n_thoughts)
        self._spent = Spent(n_prompt, cached, n_completion)
        ended = time.perf_counter()
        first = self._first or ended
        spans = {"first_token_ms": first - began, "generation_ms": ended - first, "total_ms": ended - began}
        timings = {name: round(1000 * seconds, 1) for name, seconds in spans.items()}
        self.put(Finish(reason, n_prompt, cached, n_completion, n_thoughts, {"queued_ms": 0.0, **timings}))


class UpstreamModel(TextTokenizer, Model, Embedder):
    """One of the upstream's models. Any thread may call it."""

    def __init__(self, backend: UpstreamBackend, model: str) -> None:
        super().__init__()
        self.n_ctx = 0
        self.ranks = False
        self._backend = backend
        self._model = model

    @override
    def submit_all(self, requests: Sequence[GenerationRequest]) -> list[UpstreamGeneration]:
        generations = [UpstreamGeneration(self._backend, self._model, request) for request in requests]
        for generation in generations:
            generation.start()
        return generations

    @override
    def prefetch(self, request: PrefetchRequest) -> bool:
        # The upstream has no such request.
        return False

    @override
    def tokenize_pairs(self, query: str, documents: Sequence[str]) -> list[list[int]]:
        raise InvalidRequest("model: an upstream server's models rank no texts", param="model")

    @override
    def embed(
        self, texts: Sequence[Sequence[int]], poll: Callable[[], None] = lambda: None
    ) -> tuple[list[list[float]], Spent]:
        # A request cannot be broken off.
        poll()
        body = {"model": self._backend.name_of(self._model), "input": [self.text(tokens) for tokens in texts]}
        reply = self._backend.post("embeddings", body)
        data = sorted(reply["data"], key=lambda each: int(each.get("index", 0)))
        if len(data) != len(texts):
            raise EngineFailure(f"the upstream server has made {len(data)} vectors of {len(texts)} texts")
        vectors = [[float(value) for value in each["embedding"]] for each in data]
        return vectors, Spent(int(reply.get("usage", {}).get("prompt_tokens", sum(map(len, texts)))))


class UpstreamBackend(Backend):
    """The upstream server. Any thread may call it; `_lock` protects the list of its models."""

    def __init__(self, url: str, key: str = "") -> None:
        """`url` is that of its API, with or without its /v1."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = httpx2.Timeout(_SILENCE, connect=_CONNECT)
        base = url if url.rstrip("/").endswith("/v1") else f"{url.rstrip('/')}/v1"
        self._http = httpx2.Client(base_url=f"{base}/", headers=headers, timeout=timeout)
        self._lock = threading.Lock()
        self._models: list[str] = []
        self._listed = -_LISTED

    @override
    @contextmanager
    def lease(self, settings: LoadSettings, _poll: Callable[[], None] = lambda: None) -> Iterator[UpstreamModel]:
        # Nothing is loaded here.
        yield UpstreamModel(self, settings.file.as_posix())

    @override
    @contextmanager
    def lease_embedder(self, settings: LoadSettings, _poll: Callable[[], None] = lambda: None) -> Iterator[UpstreamModel]:
        yield UpstreamModel(self, settings.file.as_posix())

    def name_of(self, model: str) -> str:
        """Return the upstream's name of a model: the same, or without .gguf; else its first model. Raises Unavailable."""
        names = self._names()
        stem = model.removesuffix(".gguf")
        found = [name for name in names if name in (model, stem) or name.rpartition("/")[2] in (model, stem)]
        if not names:
            raise _away("it has no models")
        return (found or names)[0]

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Send one request, and return the reply's JSON. Raises Unavailable, InvalidRequest."""
        try:
            reply = self._http.post(path, json=body)
            _check(reply)
            return reply.json()
        except (httpx2.HTTPError, ValueError) as error:
            raise _away(str(error)) from error

    @contextmanager
    def stream(self, model: str, request: GenerationRequest) -> Iterator[Iterator[dict[str, Any]]]:
        """Stream the events of one completion. Raises Unavailable, InvalidRequest."""
        body = completion_body(self.name_of(model), request)
        try:
            with self._http.stream("POST", "completions", json=body) as reply:
                if reply.status_code >= 400:
                    reply.read()
                _check(reply)
                yield _events(reply.iter_lines())
        except httpx2.HTTPError as error:
            raise _away(str(error)) from error

    def _names(self) -> list[str]:
        with self._lock:
            if time.monotonic() - self._listed > _LISTED:
                try:
                    reply = self._http.get("models", timeout=_CONNECT)
                    _check(reply)
                    self._models = [str(model["id"]) for model in reply.json()["data"]]
                    self._listed = time.monotonic()
                except (httpx2.HTTPError, ValueError, KeyError, TypeError) as error:
                    raise _away(str(error)) from error
            return self._models

    @override
    def loaded(self) -> list[Path]:
        return []

    @override
    def unload(self, _file: Path) -> bool:
        # The upstream decides.
        return False

    @override
    def status(self) -> Status:
        none = Room(0, 0)
        return Status(Counts(), 0, 0, 0, none, none, none, [LoadedModel(name, 0) for name in self._models])

    @override
    def forget(self, owner: str, session: str) -> None:
        # No state is kept.
        pass

    @override
    def stop(self, owner: str, session: str, thinking: bool = False) -> bool:
        return False

    @override
    def retain(self, sessions: Iterable[tuple[str, str]]) -> None:
        # No state is kept.
        pass

    @override
    def health(self) -> Health:
        return "ready"

    @override
    def close(self) -> None:
        self._http.close()


def _events(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Parse a stream's events, up to its end. Raises Unavailable for an error event, and where the end is missing."""
    for line in lines:
        data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
        if data == "[DONE]":
            return
        if data:
            event = json.loads(data)
            if "error" in event:
                raise _away(str(event["error"])[:500])
            yield event
    raise _away("it ended its answer in the middle")


def _choices(logprobs: Mapping[str, Any]) -> Iterator[TokenChoice]:
    """Yield the choices of a piece of an answer, from OpenAI's lists of completions."""
    tokens, values = logprobs.get("tokens") or (), logprobs.get("token_logprobs") or ()
    tops = logprobs.get("top_logprobs") or [None] * len(tokens)
    for token, value, top in zip(tokens, values, tops, strict=False):
        likeliest = tuple((text.encode(), float(each)) for text, each in (top or {}).items())
        yield TokenChoice(str(token).encode(), float(value), likeliest)


def _check(reply: httpx2.Response) -> None:
    if reply.status_code < 400:
        return
    text = reply.text[:500]
    if reply.status_code in (400, 404, 413, 422):
        raise InvalidRequest(f"the server at INNER_LLM_URL refuses this: {text}", code="inner_refused")
    raise _away(f"status {reply.status_code}: {text}")


def _away(why: str) -> Unavailable:
    what = f"the server at INNER_LLM_URL does not answer: {why}"
    return Unavailable(what, code="inner_unavailable", retry_after=5)
