"""What the command line does in a cluster beside serving."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.backend.protocols import Backend
from services.cluster.flower import run_flower
from services.cluster.redis_client import RedisClient
from services.cluster.settings import ClusterSettings
from services.cluster.stores import migrate as migration
from services.cluster.worker.upstream import UpstreamBackend
from services.cluster.worker.worker import Worker
from services.settings import Settings


def worker(cluster: ClusterSettings, settings: Settings, names: Sequence[str], make_engine: Callable[[], Backend]) -> int:
    """Work until SIGTERM or Ctrl+C: for the models of the profiles `names`, or all of the models folder.

    `make_engine` makes what computes, unless another server does. Raises HearthError where it cannot start.
    """
    backend = UpstreamBackend(cluster.upstream, cluster.upstream_key) if cluster.upstream else make_engine()
    try:
        return Worker(cluster, backend, settings, names).run()
    finally:
        backend.close()


def migrate(cluster: ClusterSettings, settings: Settings, back: bool, replace: bool) -> int:
    """Copy sessions, keys, usage and jobs from the data folder into the cluster, or `back`, and say what came of it.

    Raises HearthError where that cannot be; what was copied by then is.
    """
    run = migration.migrate_back if back else migration.migrate
    copied = run(settings, RedisClient(cluster), replace)
    for line in migration.told(copied):
        print(line)
    return 0 if copied.is_whole else 1


def flower(cluster: ClusterSettings, host: str, port: str) -> int:
    """Serve Flower, Celery's own page. Raises InvalidRequest where everybody could reach it."""
    return run_flower(cluster, host, port)
