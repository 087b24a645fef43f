"""The times of the last use of a cluster's keys, in Redis."""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping
from datetime import datetime
from pathlib import Path

from typing_extensions import override

from auth.key_use import LastUse
from services.cluster.redis_client import RedisClient
from services.cluster.stores.table import RedisTable
from services.errors import DamagedFile
from services.storage.json_file import JsonObject, SchemaError

log = logging.getLogger(__name__)


class RedisLastUse(LastUse):
    """The table in Redis. All raise Unavailable where Redis is away."""

    def __init__(self, client: RedisClient) -> None:
        self._table = RedisTable(client, Path("key_use.json"), _check)

    @override
    def read(self) -> Mapping[str, str]:
        return self._table.read()

    @override
    def write(self, used: Mapping[str, str], known: Container[str]) -> None:
        try:
            self._write(used, known)
        except DamagedFile as error:
            log.warning("when keys were last used is written anew: %s", error.message)
            self._table.clear()
            self._write(used, known)

    @override
    def close(self) -> None:
        pass

    def _write(self, used: Mapping[str, str], known: Container[str]) -> None:
        with self._table.edit() as data:
            for id_, time in used.items():
                data[id_] = max(time, data.get(id_, time))
            for id_ in [id_ for id_ in data if id_ not in known]:
                del data[id_]


def _check(data: JsonObject) -> None:
    for id_, time in data.items():
        try:
            good = datetime.fromisoformat(time).utcoffset() is not None
        except (TypeError, ValueError):
            good = False
        if not good:
            raise SchemaError((id_,), f'"{id_}" should be a time')
