"""The cluster's members: heartbeats that workers and API nodes renew in Redis, and that end soon after their owners."""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import redis

from services.backend.codec import from_json, to_json
from services.backend.status import Status
from services.cluster.heartbeat import INTERVALS, Intervals
from services.cluster.redis_client import RedisClient
from services.errors import InvalidRequest
from services.models.gguf import GgufInfo
from services.storage.processes import runs

log = logging.getLogger(__name__)

# Seconds for which the heartbeats that were read are fresh enough.
_FRESH = 0.5
# Seconds for which Redis keeps a vocabulary that no worker renews.
_VOCABULARY_KEPT = 7 * 24 * 3600
# The vocabulary of an upstream server, whose tokens are not known here.
TEXT = "text"
C = TypeVar("C", "WorkerHeartbeat", "NodeHeartbeat")


@dataclass(frozen=True)
class ServedModel:
    """A model file that a worker computes with. `vocabulary` is the SHA-256 of its vocabulary."""

    name: str
    vocabulary: str
    mtime: int
    info: GgufInfo


@dataclass(frozen=True)
class WorkerHeartbeat:
    """A worker's host, models and load. `began` is in seconds since 1970."""

    name: str
    host: str
    pid: int
    began: float
    slots: int
    draining: bool
    queues: tuple[str, ...]
    models: tuple[ServedModel, ...]
    status: Status
    upstream: bool = False
    """Whether it passes its requests to an upstream server."""

    def model(self, name: str) -> ServedModel | None:
        """Return the model that it serves by this name; None where it serves none."""
        return next((model for model in self.models if model.name == name), None)


@dataclass(frozen=True)
class NodeHeartbeat:
    """An API node. `answers` are open ones, `waiting` its requests that no worker has begun."""

    name: str
    host: str
    pid: int
    began: float
    url: str
    answers: int
    waiting: int


@dataclass
class _Read:
    at: float = -1e9
    workers: list[WorkerHeartbeat] = field(default_factory=list)
    problem: redis.RedisError | None = None


class Registry:
    """All heartbeats. Any thread may call it; `_lock` lets one at a time read them. Raises what Redis's client raises."""

    def __init__(self, client: RedisClient, intervals: Intervals = INTERVALS) -> None:
        self._client = client
        self.intervals = intervals
        self._redis = client.redis
        self._lock = threading.Lock()
        self._read = _Read()

    def renew(self, heartbeat: WorkerHeartbeat | NodeHeartbeat, process: str = "") -> None:
        """Renew a heartbeat; `process` is a name of the process alone, which no earlier one of the same name had."""
        kind = _kind(type(heartbeat))
        pipe = self._redis.pipeline()
        pipe.set(self._client.key(kind, heartbeat.name), json.dumps(to_json(heartbeat)), ex=self.intervals.gone)
        pipe.sadd(self._client.key(kind), heartbeat.name)
        if process:
            pipe.set(self._client.key("alive", process), 1, ex=self.intervals.gone)
        pipe.execute()

    def leave(self, heartbeat: WorkerHeartbeat | NodeHeartbeat) -> None:
        """Remove a heartbeat."""
        kind = _kind(type(heartbeat))
        self._redis.unlink(self._client.key(kind, heartbeat.name))

    def take_name(self, name: str, heartbeat: type[C]) -> None:
        """Wait until no other process has this name. Raises InvalidRequest where one that lives has it."""
        deadline = time.monotonic() + self.intervals.gone + 2 * self.intervals.node
        kind = _kind(heartbeat)
        while other := next((each for each in self._heartbeats(kind, heartbeat) if each.name == name), None):
            if other.host == socket.gethostname() and not runs(other.pid):
                return
            if time.monotonic() > deadline:
                what = f"the cluster has a {name} already, on {other.host}: NODE_NAME gives this one another name"
                raise InvalidRequest(what)
            time.sleep(0.5)

    def workers(self) -> list[WorkerHeartbeat]:
        """Return the workers, by name."""
        with self._lock:
            if time.monotonic() - self._read.at > _FRESH:
                self._read.at = time.monotonic()
                try:
                    self._read.workers, self._read.problem = self._heartbeats("workers", WorkerHeartbeat), None
                except redis.RedisError as error:
                    # Callers of the same moment do not wait for it too.
                    self._read.problem = error
            if self._read.problem:
                raise self._read.problem
            return self._read.workers

    def nodes(self) -> list[NodeHeartbeat]:
        """Return the API nodes, by name."""
        return self._heartbeats("nodes", NodeHeartbeat)

    def has_node(self, process: str) -> bool:
        """Return whether the API node's process is alive."""
        return bool(self._redis.exists(self._client.key("alive", process)))

    def publish_vocabulary(self, name: str, read_data: Callable[[], bytes]) -> None:
        """Store a model's vocabulary for the API nodes."""
        key = self._client.key("vocabulary", name)
        if not self._redis.expire(key, _VOCABULARY_KEPT):
            self._redis.set(key, zlib.compress(read_data(), 1).hex(), ex=_VOCABULARY_KEPT)

    def fetch_vocabulary(self, name: str, folder: Path) -> Path | None:
        """Return the path of a vocabulary in `folder`, fetched unless it is there; None where Redis has it no more."""
        path = folder / f"{name}.gguf"
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == name:
            return path
        found = self._redis.get(self._client.key("vocabulary", name))
        if found is None:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f".{name}.{threading.get_ident()}.new"
        draft.write_bytes(zlib.decompress(bytes.fromhex(found)))
        draft.replace(path)
        return path

    def _heartbeats(self, kind: str, heartbeat: type[C]) -> list[C]:
        names = sorted(self._redis.smembers(self._client.key(kind)))
        found = self._redis.mget([self._client.key(kind, name) for name in names]) if names else []
        if gone := [name for name, text in zip(names, found, strict=True) if text is None]:
            self._redis.srem(self._client.key(kind), *gone)
        heartbeats = []
        for name, text in zip(names, found, strict=True):
            try:
                if text is not None:
                    heartbeats.append(from_json(heartbeat, json.loads(text)))
            except ValueError:
                log.warning("the heartbeat of %s cannot be read: is it of another version?", name)
        return heartbeats


def _kind(heartbeat: type[WorkerHeartbeat] | type[NodeHeartbeat]) -> str:
    """Return the first part of such heartbeats' names."""
    return "workers" if heartbeat is WorkerHeartbeat else "nodes"


class Liveness:
    """Tells which API nodes are gone for good, as this process has seen it. Any thread may call it."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._missing: dict[str, tuple[float, float]] = {}

    def is_gone(self, node: str) -> bool:
        """Return whether a node's process was missing at each of several calls, over more than the life of a heartbeat.

        While Redis was away no node could renew: then it counts anew. Raises what Redis's client raises.
        """
        now = time.monotonic()
        if self._registry.has_node(node):
            self._missing.pop(node, None)
            return False
        first, last = self._missing.get(node, (now, now))
        if now - last > self._registry.intervals.gone / 2:
            first = now
        self._missing[node] = first, now
        return now - first > self._registry.intervals.gone
