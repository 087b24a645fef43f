"""JSON objects in Redis, instead of files: each entry is a field of a hash; a version grows with each change."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redis
from typing_extensions import override

from services.cluster.redis_client import RedisClient, reached
from services.errors import DamagedFile, Unavailable
from services.storage.json_file import Check, JsonObject, JsonTable, SchemaError

# Seconds that a writer may take, and that the next one waits for it.
_WRITING = 10.0


class RedisTable(JsonTable):
    """One hash in Redis. Any thread may call it; `_lock` protects the copy. All raise Unavailable where Redis is away."""

    def __init__(self, client: RedisClient, path: Path, check: Check | None = None, *, private: bool = True) -> None:
        """`path` is that of the file in whose place it stands, which names the hash. Redis is private."""
        self._client = client
        self._path = Path("redis") / path.stem
        self._check = check
        self._key = client.key("table", f"{{{path.stem}}}")
        self._version_key = f"{self._key}:version"
        self._lock = threading.Lock()
        self._seen: str | None = "never"
        self._data: JsonObject = {}

    @override
    def read(self) -> JsonObject:
        """Return the object. Raises DamagedFile where `check` refuses it."""
        with reached():
            version = self._client.redis.get(self._version_key)
            with self._lock:
                if version == self._seen:
                    return self._data
        return self._load()[1]

    @override
    @contextmanager
    def edit(self) -> Iterator[JsonObject]:
        lock = self._client.redis.lock(f"{self._key}:lock", timeout=_WRITING, blocking_timeout=_WRITING, sleep=0.02)
        with reached():
            if not lock.acquire():
                raise _busy()
        try:
            version, before = self._load()
            data = dict(before)
            yield data
            changed = {name: json.dumps(value) for name, value in data.items() if before.get(name) != value}
            self._store(version, changed, before.keys() - data.keys())
        finally:
            # It may have timed out, as it does where Redis is away.
            with suppress(redis.RedisError):
                lock.release()

    def _store(self, version: str | None, changed: Mapping[str, str], gone: Collection[str]) -> None:
        if not changed and not gone:
            return
        try:
            with reached(), self._client.redis.pipeline() as pipe:
                # The lock may have timed out, and another writer come.
                pipe.watch(self._version_key)
                if pipe.get(self._version_key) != version:
                    raise _busy()
                pipe.multi()
                if changed:
                    pipe.hset(self._key, mapping=changed)
                if gone:
                    pipe.hdel(self._key, *gone)
                pipe.incr(self._version_key)
                pipe.execute()
        except redis.WatchError:
            raise _busy() from None

    @override
    def clear(self) -> None:
        with reached():
            self._client.redis.unlink(self._key)
            self._client.redis.incr(self._version_key)

    def _load(self) -> tuple[str | None, JsonObject]:
        with reached():
            pipe = self._client.redis.pipeline()
            pipe.get(self._version_key)
            pipe.hgetall(self._key)
            version, fields = pipe.execute()
        data = self._parsed(fields)
        with self._lock:
            self._seen, self._data = version, data
        return version, data

    def _parsed(self, fields: dict[str, str]) -> JsonObject:
        try:
            # A hash keeps no order.
            data = {name: json.loads(fields[name]) for name in sorted(fields)}
            data = dict(sorted(data.items(), key=_age))
            if self._check:
                self._check(data)
        except ValueError as error:
            where = error.path[0] if isinstance(error, SchemaError) and error.path else ""
            raise DamagedFile(self._path, f"{where}: {error}" if where else str(error)) from None
        return data


def _busy() -> Unavailable:
    return Unavailable("somebody else is changing it; try again", code="busy", retry_after=1)


def _age(entry: tuple[str, Any]) -> str:
    """Return when an entry was made (ISO 8601); "" where it has no such time."""
    return str(entry[1].get("created", "")) if isinstance(entry[1], dict) else ""
