"""The stores of a cluster's API nodes, in Redis, so that any node serves any caller."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from auth.keys import MAX_KEYS, KeyStore
from auth.quotas import Quotas, check_charged
from auth.rate_limits import Meter
from services.cluster.heartbeat import Heartbeat, Intervals
from services.cluster.redis_client import RedisClient
from services.cluster.registry import Liveness, Registry
from services.cluster.stores.files import ClusterFiles
from services.cluster.stores.in_flight import RedisInFlight
from services.cluster.stores.jobs import RedisJobTable
from services.cluster.stores.last_use import RedisLastUse
from services.cluster.stores.locks import RedisSessionLocks
from services.cluster.stores.profiles import ClusterProfiles
from services.cluster.stores.responses import RedisResponseTable
from services.cluster.stores.sessions import RedisSessionTable
from services.cluster.stores.table import RedisTable
from services.cluster.stores.unsaved import RedisUnsavedConversations
from services.cluster.stores.usage import RedisUsage
from services.documents.library import Library
from services.documents.mirror import TABLE, Mirror
from services.models.profile import Chosen
from services.sessions.assistants import ASSISTANTS, Assistants, check_assistants
from services.sessions.service import Sessions
from services.settings import Settings
from services.stores import Stores


def cluster_stores(
    settings: Settings,
    client: RedisClient,
    node: str,
    registry: Registry,
    files: ClusterFiles,
    intervals: Intervals,
    preferred: Chosen | None = None,
) -> tuple[Stores, list[Heartbeat]]:
    """Open the stores of the API node's process `node`; return them, and the heartbeats that renew what it holds in Redis.

    Its profiles are in a file of its own, `preferred` the one to begin with. Raises DamagedFile, Unavailable.
    """
    keys, usage, liveness = cluster_keys(client, settings.max_keys), RedisUsage(client), Liveness(registry)
    locks, in_flight, jobs, responses = (
        RedisSessionLocks(client, node, liveness),
        RedisInFlight(client),
        RedisJobTable(client, node, liveness),
        RedisResponseTable(client),
    )
    sessions = Sessions(Path(), RedisSessionTable(client), locks, RedisUnsavedConversations(client))
    charged = RedisTable(client, Path("charged.json"), check_charged)
    documents = None
    if settings.documents:
        mirror = Mirror(RedisTable(client, TABLE), settings.documents)
        documents = Library(settings.data, settings.documents, mirror, keys.is_usable)
    stores = Stores(
        profiles=ClusterProfiles(settings.data / "config.json", client, preferred),
        files=files,
        keys=keys,
        sessions=sessions,
        usage=usage,
        meter=Meter(keys, usage, client.url, in_flight, client.key("limits")),
        jobs=jobs,
        responses=responses,
        quotas=Quotas(
            keys,
            sessions,
            jobs,
            responses,
            charged,
            settings.key_sessions,
            settings.key_storage_mb,
            documents.files if documents else None,
        ),
        documents=documents,
        assistants=Assistants(RedisTable(client, Path(ASSISTANTS), check_assistants), keys.is_usable),
    )
    return stores, [
        Heartbeat("session locks", intervals.locks, locks.renew),
        Heartbeat("tickets", intervals.tickets, in_flight.renew),
        Heartbeat("claims", intervals.claims, jobs.renew),
    ]


def cluster_keys(client: RedisClient, max_keys: int = MAX_KEYS) -> KeyStore:
    """Open the cluster's keys, of which there may be `max_keys`. Raises DamagedFile, Unavailable."""
    return KeyStore(Path("api_keys.json"), partial(RedisTable, client), max_keys, RedisLastUse(client))
