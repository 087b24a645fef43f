"""/metrics: the server's load and its counters, in Prometheus's format."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from flask import Response, request
from flask_restful import Resource
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from typing_extensions import override

from auth.usage import UsageTable, Used
from services.answers.service import Answers
from services.api.http.schemas import replies, spec
from services.backend.types import Finish
from services.errors import HearthError

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_KINDS = {kind: f"{kind}_tokens" for kind in ("prompt", "cached", "completion", "draft")}
_SPECULATION = {"drafted": "drafted_tokens", "accepted": "accepted_tokens"}
_TIERS = {"context": "context_hits", "ram": "ram_hits", "disk": "disk_hits", "none": "misses"}


class Metrics:
    """The counters and histograms. Any thread may call it: the library's objects lock themselves."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        named: dict[str, Any] = {"registry": self.registry}
        self._requests = Counter("hearth_requests", "Requests, by route and status", ["method", "route", "status"], **named)
        self._seconds = Histogram(
            "hearth_request_seconds", "Seconds until a reply begins", ["route"], buckets=_SECONDS, **named
        )
        self._first = Histogram("hearth_first_token_seconds", "Seconds until the first token", buckets=_SECONDS, **named)
        self._answer = Histogram("hearth_answer_seconds", "Seconds until the last token", buckets=_SECONDS, **named)

    def note_request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that has its reply, or the beginning of one; `seconds` is how long that took."""
        # An unknown method is the client's invention, and would make a label of its own.
        method = request.method if request.method in ("GET", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS") else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def note_answer(self, finish: Finish) -> None:
        """Count an answer that has ended."""
        self._first.observe(finish.timings.get("first_token_ms", 0.0) / 1000)
        self._answer.observe(finish.timings.get("total_ms", 0.0) / 1000)


class Now(Collector):
    """The measures that are taken when Prometheus reads them."""

    def __init__(self, answers: Answers, usage: UsageTable) -> None:
        self._answers = answers
        self._usage = usage

    @override
    def collect(self) -> Iterable[Metric]:
        status = self._answers.models.status()
        counts = status.counts
        yield _gauge("hearth_ready", "1 where an answer can be had", self._answers.models.health() == "ready")
        for name in ("running", "waiting", "slots"):
            yield _gauge(f"hearth_answers_{name}", f"Answers: {name}", getattr(status, name))
        yield _gauge("hearth_models_loaded", "Models in memory", len(status.models))
        yield _gauge("hearth_memory_bytes", "Memory of the server and its engine", status.memory.used)
        yield _counters("hearth_tokens", "Tokens, by kind", "kind", {k: getattr(counts, n) for k, n in _KINDS.items()})
        drafts = {kind: getattr(counts, name) for kind, name in _SPECULATION.items()}
        yield _counters(
            "hearth_speculation_tokens", "Tokens that were computed ahead, and those that came true", "kind", drafts
        )
        hits = {tier: getattr(counts, name) for tier, name in _TIERS.items()}
        yield _counters("hearth_cache_hits", "Prompts, by where their computed beginning was", "tier", hits)
        states = GaugeMetricFamily("hearth_state_bytes", "Computed conversations", labels=["tier"])
        limits = GaugeMetricFamily("hearth_state_limit_bytes", "What they may take", labels=["tier"])
        for tier, room in (("ram", status.states_ram), ("disk", status.states_disk)):
            states.add_metric([tier], room.used)
            limits.add_metric([tier], room.limit)
        yield states
        yield limits
        yield from self._of_keys()

    def _of_keys(self) -> Iterable[Metric]:
        try:
            totals = self._usage.totals()
        except HearthError:
            return
        for name in (field.name for field in fields(Used)):
            told = {key: float(getattr(used, name)) for key, used in totals.items()}
            yield _counters(f"hearth_key_{name}", f"By key id, since ever: {name}", "key", told)


class MetricsResource(Resource):
    """The server's metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    @spec.validate(resp=replies(None, text="text/plain"))
    def get(self) -> Any:
        """Tell everything that can be counted, in Prometheus's text format: requests, times, tokens, states, keys by id."""
        return Response(generate_latest(self._metrics.registry), content_type=CONTENT_TYPE_LATEST)


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(name, what, value=float(value))


def _counters(name: str, what: str, label: str, values: dict[str, float]) -> Metric:
    family = CounterMetricFamily(name, what, labels=[label])
    for value in values:
        family.add_metric([value], values[value])
    return family
