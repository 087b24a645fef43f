"""An API node: a server whose answers workers compute, and whose data are in the cluster's Redis."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from services.cluster.broker import Broker
from services.cluster.heartbeat import INTERVALS, Heartbeat, Intervals
from services.cluster.node.backend import ClusterBackend
from services.cluster.node.overview import Overview
from services.cluster.node.vocabularies import Vocabularies
from services.cluster.redis_client import RedisClient, away
from services.cluster.registry import NodeHeartbeat, Registry
from services.cluster.routing import Routing
from services.cluster.settings import ClusterSettings
from services.cluster.stores.files import ClusterFiles
from services.cluster.stores.stores import cluster_stores
from services.models.profile import Chosen
from services.settings import Settings

log = logging.getLogger(__name__)


class Node:
    """One API node. While it runs, threads of its own renew its heartbeat, and its locks, tickets and claims."""

    def __init__(
        self,
        cluster: ClusterSettings,
        settings: Settings,
        preferred: Chosen | None = None,
        intervals: Intervals = INTERVALS,
    ) -> None:
        """Raises Unavailable where Redis cannot be reached, DamagedFile."""
        self._name = cluster.name
        # A process that starts anew under the same name is another.
        self._process = f"{cluster.name}~{secrets.token_hex(4)}"
        self._client = RedisClient(cluster)
        self._registry = Registry(self._client, intervals)
        self._check()
        vocabularies = Vocabularies(self._registry, settings.data / "vocabularies")
        broker = Broker(cluster)
        files = ClusterFiles(self._registry, settings.models)
        self.backend = ClusterBackend(self._process, self._client, broker, files, vocabularies)
        self.overview = Overview(self._registry, Routing(self._client), broker)
        self.stores, self._heartbeats = cluster_stores(
            settings, self._client, self._process, self._registry, self.backend.files, intervals, preferred
        )
        self._intervals = intervals
        self._began = time.time()
        self._renewed: NodeHeartbeat | None = None

    def _check(self) -> None:
        """Raise Unavailable where Redis is away, InvalidRequest where it refuses us or another process has this name."""
        if not self._client.is_there():
            raise away()
        self._registry.take_name(self._name, NodeHeartbeat)

    def announce(self, url: str, n_open: Callable[[], int]) -> None:
        """Begin to renew its heartbeat, which names `url`; `n_open` returns the number of open answers."""

        def renew() -> None:
            heartbeat = NodeHeartbeat(
                self._name, socket.gethostname(), os.getpid(), self._began, url, n_open(), self.backend.n_waiting
            )
            self._registry.renew(heartbeat, self._process)
            self._renewed = heartbeat
            self.backend.forget_read()

        heartbeat = Heartbeat("heartbeat", self._intervals.node, renew)
        self._heartbeats.append(heartbeat)
        heartbeat.start()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Renew what it holds in Redis for as long as the block runs; then close its backend, and leave the cluster."""
        for heartbeat in self._heartbeats:
            heartbeat.start()
        try:
            yield
        finally:
            for heartbeat in self._heartbeats:
                heartbeat.stop()
            self.backend.close()
            try:
                if self._renewed:
                    self._registry.leave(self._renewed)
            except Exception as error:
                log.debug("the heartbeat stays until it ends by itself: %s", error)
