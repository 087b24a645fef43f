"""The keys and their usage: of this machine's server, or of the cluster that it is in."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from auth.identity import Scope, Terms
from auth.keys import KeyStore
from auth.usage import UsageStore, UsageTable
from services.cluster.settings import read_cluster
from services.settings import Settings
from services.storage.database import NAME
from services.storage.processes import runs


def open_keys(settings: Settings, environ: Mapping[str, str]) -> KeyStore:
    """Open the keys of the server of these settings, or of the cluster that the environment names. Raises HearthError."""
    if cluster := read_cluster(environ):
        from services.cluster.redis_client import RedisClient
        from services.cluster.stores.stores import cluster_keys

        return cluster_keys(RedisClient(cluster), settings.max_keys)
    settings.data.mkdir(parents=True, exist_ok=True)
    return KeyStore(settings.data / "api_keys.json", max_keys=settings.max_keys)


@contextmanager
def passing_key(settings: Settings, environ: Mapping[str, str], purpose: str, scopes: Sequence[Scope]) -> Iterator[str]:
    """Give a key for the duration of the block, named after its purpose and this process. Raises HearthError.

    Keys that killed processes have left are revoked.
    """
    keys = open_keys(settings, environ)
    for key in keys.list():
        found = re.fullmatch(rf"{re.escape(purpose)} of process (\d+)", key["name"] or "")
        if found and not runs(int(found[1])):
            keys.revoke(key["id"])
    minted = keys.mint(Terms(name=f"{purpose} of process {os.getpid()}", scopes=list(scopes)))
    try:
        yield minted.key
    finally:
        keys.revoke(minted.id)


def open_usage(settings: Settings, environ: Mapping[str, str]) -> UsageTable:
    """Open the usage of the same. Raises HearthError."""
    if cluster := read_cluster(environ):
        from services.cluster.redis_client import RedisClient
        from services.cluster.stores.usage import RedisUsage

        return RedisUsage(RedisClient(cluster))
    return UsageStore(settings.data / NAME)
