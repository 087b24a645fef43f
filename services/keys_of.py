"""The keys, and who used how much: of this machine's server, or of the cluster that it is in."""

from __future__ import annotations

from collections.abc import Mapping

from auth.keys import KeyStore
from auth.usage import Usage, UsageStore
from services.cluster.settings import read_cluster
from services.settings import Settings


def open_keys(settings: Settings, environ: Mapping[str, str]) -> KeyStore:
    """The keys of the server of these settings, or of the cluster that the environment names. Raises HearthError."""
    if cluster := read_cluster(environ):
        from services.cluster.link import Link
        from services.cluster.stores import cluster_keys

        return cluster_keys(Link(cluster))
    settings.data.mkdir(parents=True, exist_ok=True)
    return KeyStore(settings.data / "api_keys.json")


def open_usage(settings: Settings, environ: Mapping[str, str]) -> Usage:
    """Likewise, who used how much."""
    if cluster := read_cluster(environ):
        from services.cluster.link import Link
        from services.cluster.usage import RedisUsage

        return RedisUsage(Link(cluster))
    return UsageStore(settings.data / "usage.sqlite")
