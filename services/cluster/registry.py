"""Who is in the cluster: heartbeats that workers and API nodes renew in Redis, and that are gone soon after them."""

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
from services.cluster.redis_client import RedisClient
from services.errors import InvalidRequest
from services.models.gguf import GgufInfo
from services.storage.processes import runs

log = logging.getLogger(__name__)

# Seconds between two renewals of a heartbeat, and those after which one that was not renewed is gone.
RENEW, GONE = 2.0, 10
# Seconds for which what was read of the roster is good enough.
_FRESH = 0.5
# Seconds for which Redis keeps a vocabulary that no worker renews.
_VOCABULARY_KEPT = 7 * 24 * 3600
# The vocabulary of a server elsewhere, whose tokens are not known here.
TEXT = "text"
C = TypeVar("C", "WorkerHeartbeat", "NodeHeartbeat")


@dataclass(frozen=True)
class ServedModel:
    """A model file that a worker computes with. `vocabulary` is the SHA-256 of what it is tokenized by."""

    name: str
    vocabulary: str
    mtime: int
    info: GgufInfo


@dataclass(frozen=True)
class WorkerHeartbeat:
    """A worker: where it is, what it serves, how busy it is. `began` is in seconds since 1970."""

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
    """Whether it passes its work to another server."""

    def model(self, name: str) -> ServedModel | None:
        """What it serves by this name."""
        return next((model for model in self.models if model.name == name), None)


@dataclass(frozen=True)
class NodeHeartbeat:
    """An API node, and how many of its requests no worker has begun yet."""

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

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._redis = client.redis
        self._lock = threading.Lock()
        self._read = _Read()

    def renew(self, heartbeat: WorkerHeartbeat | NodeHeartbeat, life: str = "") -> None:
        """Say that this one is there; `life` is what this process is known by, and none before it with its name."""
        kind = _kind(type(heartbeat))
        pipe = self._redis.pipeline()
        pipe.set(self._client.key(kind, heartbeat.name), json.dumps(to_json(heartbeat)), ex=GONE)
        pipe.sadd(self._client.key(kind), heartbeat.name)
        if life:
            pipe.set(self._client.key("alive", life), 1, ex=GONE)
        pipe.execute()

    def leave(self, heartbeat: WorkerHeartbeat | NodeHeartbeat) -> None:
        """Say that this one is no more."""
        kind = _kind(type(heartbeat))
        self._redis.unlink(self._client.key(kind, heartbeat.name))

    def take_name(self, name: str, heartbeat: type[C]) -> None:
        """Wait until no other process has this name. Raises InvalidRequest where one that lives has it."""
        deadline = time.monotonic() + GONE + 2 * RENEW
        kind = _kind(heartbeat)
        while other := next((each for each in self._heartbeats(kind, heartbeat) if each.name == name), None):
            if other.host == socket.gethostname() and not runs(other.pid):
                return
            if time.monotonic() > deadline:
                what = f"the cluster has a {name} already, on {other.host}: NODE_NAME gives this one another name"
                raise InvalidRequest(what)
            time.sleep(0.5)

    def workers(self) -> list[WorkerHeartbeat]:
        """The workers that are there, by name."""
        with self._lock:
            if time.monotonic() - self._read.at > _FRESH:
                self._read.at = time.monotonic()
                try:
                    self._read.workers, self._read.problem = self._heartbeats("workers", WorkerHeartbeat), None
                except redis.RedisError as error:
                    # Whoever asks at the same time does not wait for it too.
                    self._read.problem = error
            if self._read.problem:
                raise self._read.problem
            return self._read.workers

    def nodes(self) -> list[NodeHeartbeat]:
        """The API nodes that are there, by name."""
        return self._heartbeats("nodes", NodeHeartbeat)

    def has_node(self, life: str) -> bool:
        """Whether the API node's process is there."""
        return bool(self._redis.exists(self._client.key("alive", life)))

    def publish_vocabulary(self, name: str, read_data: Callable[[], bytes]) -> None:
        """Keep what a model is tokenized by, for the nodes that do not have it."""
        key = self._client.key("vocabulary", name)
        if not self._redis.expire(key, _VOCABULARY_KEPT):
            self._redis.set(key, zlib.compress(read_data(), 1).hex(), ex=_VOCABULARY_KEPT)

    def fetch_vocabulary(self, name: str, folder: Path) -> Path | None:
        """The file in `folder` that a vocabulary is in, fetched where it is not there; None where Redis has it no more."""
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
    """What the names of such heartbeats begin with."""
    return "workers" if heartbeat is WorkerHeartbeat else "nodes"


class Liveness:
    """Which API nodes are gone for good, as this process has seen it. Any thread may call it."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._missing: dict[str, tuple[float, float]] = {}

    def is_gone(self, node: str) -> bool:
        """Whether a node's process was missing at each of several looks, which go back for longer than a heartbeat lives.

        While Redis was away nobody could renew: then it counts anew. Raises what Redis's client raises.
        """
        now = time.monotonic()
        if self._registry.has_node(node):
            self._missing.pop(node, None)
            return False
        first, last = self._missing.get(node, (now, now))
        if now - last > GONE / 2:
            first = now
        self._missing[node] = first, now
        return now - first > GONE
