"""An API node: a server whose answers are computed by workers, and whose data are the cluster's."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from services.cluster.broker import Broker
from services.cluster.node.backend import ClusterBackend
from services.cluster.node.overview import Overview
from services.cluster.node.vocabularies import Vocabularies
from services.cluster.redis_client import RedisClient, away, is_away
from services.cluster.registry import RENEW, NodeHeartbeat, Registry
from services.cluster.routing import Routing
from services.cluster.settings import ClusterSettings
from services.cluster.stores.files import ClusterFiles
from services.cluster.stores.stores import cluster_stores
from services.models.profile import Chosen
from services.settings import Settings

log = logging.getLogger(__name__)


class Node:
    """One API node. A thread of its own renews its heartbeat."""

    def __init__(self, cluster: ClusterSettings, settings: Settings, preferred: Chosen | None = None) -> None:
        """Raises Unavailable where Redis cannot be reached, DamagedFile."""
        self._name = cluster.name
        # Whoever starts anew under the same name is another.
        self._life = f"{cluster.name}~{secrets.token_hex(4)}"
        self._client = RedisClient(cluster)
        self._registry = Registry(self._client)
        self._check()
        vocabularies = Vocabularies(self._registry, settings.data / "vocabularies")
        broker = Broker(cluster)
        files = ClusterFiles(self._registry, settings.models)
        self.backend = ClusterBackend(self._life, self._client, broker, files, vocabularies)
        self.overview = Overview(self._registry, Routing(self._client), broker)
        self.stores = cluster_stores(settings, self._client, self._life, self._registry, self.backend.files, preferred)
        self._began = time.time()
        self._over = threading.Event()
        self._heartbeat: NodeHeartbeat | None = None

    def _check(self) -> None:
        """Raises Unavailable where Redis is away, InvalidRequest where it refuses us or another has this name."""
        if not self._client.is_there():
            raise away()
        self._registry.take_name(self._name, NodeHeartbeat)

    def announce(self, url: str, n_open: Callable[[], int]) -> None:
        """Let the cluster know where it is, and how many answers are open, from now on."""

        def renew() -> None:
            while True:
                heartbeat = NodeHeartbeat(
                    self._name, socket.gethostname(), os.getpid(), self._began, url, n_open(), self.backend.n_waiting
                )
                try:
                    self._registry.renew(heartbeat, self._life)
                    self._heartbeat = heartbeat
                    self.backend.settle()
                except Exception as error:
                    if not is_away(error):
                        log.exception("the node's heartbeat could not be renewed")
                if self._over.wait(RENEW):
                    return

        threading.Thread(target=renew, name="heartbeat", daemon=True).start()

    @contextmanager
    def running(self) -> Iterator[None]:
        """For as long as it serves."""
        try:
            yield
        finally:
            self._over.set()
            self.backend.close()
            try:
                if self._heartbeat:
                    self._registry.leave(self._heartbeat)
            except Exception as error:
                log.debug("nobody can be told: %s", error)
