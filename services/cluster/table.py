"""A JSON object in Redis, in the place of a file: each entry is a field of a hash, and a number grows with each change."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from services.cluster.link import Link, reached
from services.errors import DamagedFile, Unavailable
from services.json_file import Check, JsonObject, Misfit

# Seconds that a writer may take, and that the next waits for it.
_WRITING = 10.0


class RedisTable:
    """See `JsonTable`. Any thread may call it; `_turn` protects the copy. All raise Unavailable where Redis is away."""

    def __init__(self, link: Link, path: Path, check: Check | None = None, *, private: bool = True) -> None:
        """`path` is that of the file in whose place it stands: the table is called by its name. All of it is private."""
        self._link = link
        self._path = Path("redis") / path.stem
        self._check = check
        self._key = link.key("table", f"{{{path.stem}}}")
        self._version_key = f"{self._key}:version"
        self._turn = threading.Lock()
        self._seen: str | None = "never"
        self._data: JsonObject = {}

    def read(self) -> JsonObject:
        """See `JsonTable.read`. Raises DamagedFile where somebody has written there what does not belong."""
        with reached():
            version = self._link.redis.get(self._version_key)
            with self._turn:
                if version == self._seen:
                    return self._data
            pipe = self._link.redis.pipeline()
            pipe.get(self._version_key)
            pipe.hgetall(self._key)
            version, fields = pipe.execute()
        data = self._parsed(fields)
        with self._turn:
            self._seen, self._data = version, data
        return data

    @contextmanager
    def edit(self) -> Iterator[JsonObject]:
        """See `JsonTable.edit`."""
        with reached(), self._link.redis.lock(f"{self._key}:lock", timeout=_WRITING, blocking_timeout=_WRITING):
            before = self.read()
            data = dict(before)
            yield data
            changed = {name: json.dumps(value) for name, value in data.items() if before.get(name) != value}
            gone = before.keys() - data.keys()
            if not changed and not gone:
                return
            try:
                with self._link.redis.pipeline() as pipe:
                    # A writer that took too long has lost its lock.
                    pipe.watch(self._version_key)
                    if pipe.get(self._version_key) != self._seen:
                        raise redis.WatchError
                    pipe.multi()
                    if changed:
                        pipe.hset(self._key, mapping=changed)
                    if gone:
                        pipe.hdel(self._key, *gone)
                    pipe.incr(self._version_key)
                    pipe.execute()
            except redis.WatchError:
                raise Unavailable("somebody else has changed it meanwhile; try again", code="busy", retry_after=1) from None

    def clear(self) -> None:
        """See `JsonTable.clear`."""
        with self.edit() as data:
            data.clear()

    def _parsed(self, fields: dict[str, str]) -> JsonObject:
        try:
            data = {name: json.loads(text) for name, text in fields.items()}
            if self._check:
                self._check(data)
        except ValueError as error:
            where = error.path[0] if isinstance(error, Misfit) and error.path else ""
            raise DamagedFile(self._path, f"{where}: {error}" if where else str(error)) from None
        return data
