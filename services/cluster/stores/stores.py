"""What a cluster's API nodes keep: in Redis, so that any node serves any caller."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import cast

from auth.keys import MAX_KEYS, KeyStore
from auth.quotas import Quotas, check_charged
from auth.rate_limits import Meter
from services.cluster.redis_client import RedisClient
from services.cluster.registry import Liveness, Registry
from services.cluster.stores.files import ClusterFiles
from services.cluster.stores.in_flight import RedisInFlight
from services.cluster.stores.jobs import RedisJobTable
from services.cluster.stores.locks import RedisSessionLocks
from services.cluster.stores.profiles import ClusterProfiles
from services.cluster.stores.sessions import RedisSessionTable
from services.cluster.stores.table import RedisTable
from services.cluster.stores.unsaved import RedisUnsavedConversations
from services.cluster.stores.usage import RedisUsage
from services.models.files import ModelFiles
from services.models.profile import Chosen
from services.sessions.service import Sessions
from services.settings import Settings
from services.stores import Stores


def cluster_stores(
    settings: Settings,
    client: RedisClient,
    node: str,
    registry: Registry,
    files: ClusterFiles,
    preferred: Chosen | None = None,
) -> Stores:
    """Those of the API node called so, whose profiles are in a file of its own. Raises DamagedFile, Unavailable."""
    keys, usage, liveness = cluster_keys(client, settings.max_keys), RedisUsage(client), Liveness(registry)
    locks, unsaved = RedisSessionLocks(client, node, liveness), RedisUnsavedConversations(client)
    sessions = Sessions(Path(), RedisSessionTable(client), locks, unsaved)
    jobs, charged = RedisJobTable(client, node, liveness), RedisTable(client, Path("charged.json"), check_charged)
    return Stores(
        profiles=ClusterProfiles(settings.data / "config.json", client, preferred),
        # What it is asked is the same.
        files=cast(ModelFiles, files),
        keys=keys,
        sessions=sessions,
        usage=usage,
        meter=Meter(keys, usage, client.url, RedisInFlight(client), client.key("limits")),
        jobs=jobs,
        quotas=Quotas(keys, sessions, jobs, charged, settings.key_sessions, settings.key_storage_mb),
    )


def cluster_keys(client: RedisClient, max_keys: int = MAX_KEYS) -> KeyStore:
    """The cluster's keys, of which there may be `max_keys`. Raises DamagedFile, Unavailable."""
    return KeyStore(Path("api_keys.json"), partial(RedisTable, client), max_keys)
