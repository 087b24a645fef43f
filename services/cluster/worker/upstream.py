"""The backend of a worker that computes nothing itself: an upstream server with OpenAI's API (INNER_LLM_URL).

The upstream has a tokenizer of its own, so it is sent text: in this cluster each character counts as a token.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from typing_extensions import override

from services.backend.delivery import Delivery
from services.backend.protocols import Backend, Embedder, Model
from services.backend.status import Counts, LoadedModel, Room, Status
from services.backend.types import Finish, GenerationRequest, Health, LoadSettings, PrefetchRequest, Spent
from services.cluster.text_tokens import TextTokenizer
from services.errors import HearthError, InvalidRequest, Unavailable
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
        return CheckedModel(name, Path(name), (0, 0, 0))

    @override
    def check_adapter(self, name: str) -> CheckedModel:
        """Raise InvalidRequest: the upstream has none of our adapters."""
        raise InvalidRequest(f"{name}: a server elsewhere applies no adapters", param="lora")


class UpstreamGeneration(Delivery):
    """One request to the upstream, which a thread of its own reads once it is started."""

    def __init__(self, backend: UpstreamBackend, model: str, request: GenerationRequest) -> None:
        super().__init__()
        self._backend = backend
        self._request = request
        self._model = model
        self._stopped = threading.Event()
        self._cancelled = threading.Event()

    def start(self) -> None:
        """Send the request; once only."""
        threading.Thread(target=self._read, name="upstream", daemon=True).start()

    @override
    def stop(self) -> None:
        self._stopped.set()

    @override
    def cancel(self) -> None:
        self._cancelled.set()

    def _read(self) -> None:
        began, first, n_chunks, usage = time.perf_counter(), None, 0, None
        reason: Any = "stop"
        if undelivered := "".join(map(chr, self._request.resume_tokens))[self._request.delivered :]:
            # An earlier attempt had it, and did not deliver it.
            self.put(undelivered)
        try:
            with self._backend.stream(self._model, self._request) as lines:
                for event in lines:
                    if self._cancelled.is_set():
                        return
                    usage = event.get("usage") or usage
                    for choice in event.get("choices", ()):
                        reason = choice.get("finish_reason") or reason
                        if text := choice.get("text"):
                            first = first or time.perf_counter()
                            n_chunks += 1
                            self.tokens += map(ord, text)
                            self._spent = Spent(len(self._request.tokens), 0, n_chunks)
                            self.put(text)
                    if self._stopped.is_set():
                        reason = "cancelled"
                        break
            usage = usage or {}
            n_prompt = int(usage.get("prompt_tokens") or len(self._request.tokens))
            n_completion = int(usage.get("completion_tokens") or n_chunks)
            cached = int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
            self._spent = Spent(n_prompt, cached, n_completion)
            reason = reason if reason in ("stop", "length", "cancelled") else "stop"
            first = first or time.perf_counter()
            ended = time.perf_counter()
            spans = {"first_token_ms": first - began, "generation_ms": ended - first, "total_ms": ended - began}
            timings = {name: round(1000 * seconds, 1) for name, seconds in spans.items()}
            self.put(Finish(reason, n_prompt, cached, n_completion, {"queued_ms": 0.0, **timings}))
        except HearthError as error:
            self.put(error)
        except Exception as error:
            log.warning("the server at INNER_LLM_URL: %s", error)
            self.put(_away(str(error)))


class UpstreamModel(TextTokenizer, Model, Embedder):
    """One of the upstream's models. Any thread may call it."""

    def __init__(self, backend: UpstreamBackend, model: str) -> None:
        super().__init__()
        self.n_ctx = 0
        self._backend = backend
        self._model = model

    @override
    def submit_all(self, requests: Sequence[GenerationRequest]) -> list[UpstreamGeneration]:
        generations = [UpstreamGeneration(self._backend, self._model, request) for request in requests]
        for generation in generations:
            generation.start()
        return generations

    @override
    def prefetch(self, request: PrefetchRequest) -> None:
        # The upstream has no such request.
        pass

    @override
    def embed(self, tokens: Sequence[int], poll: Callable[[], None] = lambda: None) -> tuple[list[float], Spent]:
        # A request cannot be broken off.
        poll()
        body = {"model": self._backend.name_of(self._model), "input": self.text(tokens)}
        reply = self._backend.post("embeddings", body)
        vector = [float(value) for value in reply["data"][0]["embedding"]]
        return vector, Spent(int(reply.get("usage", {}).get("prompt_tokens", len(tokens))))


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
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self.name_of(model),
            "prompt": "".join(map(chr, (*request.tokens, *request.resume_tokens))),
            # The text so far counts, roughly.
            "max_tokens": max(request.max_tokens - len(request.resume_tokens) // 4, 1),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"stop": list(request.stop)} if request.stop else {}),
            **({"seed": sampling.seed} if sampling.seed is not None else {}),
        }
        if sampling.json_schema:
            schema = {"name": "answer", "schema": json.loads(sampling.json_schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
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
    def stop(self, _owner: str, _session: str) -> bool:
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
