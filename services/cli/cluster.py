"""The commands of a cluster: `main.py worker`, `main.py migrate` and `main.py flower`."""

from __future__ import annotations

import os
from contextlib import ExitStack

from services.cli.data_lock import lock_data
from services.cli.parser import Command
from services.cli.serve import make_engine
from services.cluster.settings import ClusterSettings, read_cluster
from services.errors import InvalidRequest


def in_cluster(command: Command) -> int:
    """Run a command of the cluster that the environment names; return the exit status. Raises HearthError."""
    if not (cluster := read_cluster(os.environ)):
        what = "there is no cluster: set CELERY_BROKER_URL and CELERY_RESULT_BACKEND, or write them into .env"
        raise InvalidRequest(what)
    if command.name == "flower":
        from services.cluster.flower import run_flower

        return run_flower(cluster, command.settings.host, command.flags.get("port", "5555"))
    data = command.settings.data
    with ExitStack() as closing:
        data.mkdir(parents=True, exist_ok=True)
        if not lock_data(data, closing):
            hint = "--data gives this worker another folder" if command.name == "worker" else "stop it first"
            raise InvalidRequest(f"a server or a worker works on {data}: {hint}")
        return _worker(cluster, command) if command.name == "worker" else _migrate(cluster, command)


def _worker(cluster: ClusterSettings, command: Command) -> int:
    """Compute until SIGTERM or Ctrl+C, by an engine here or the server that the cluster's settings name."""
    from services.cluster.worker.upstream import UpstreamBackend
    from services.cluster.worker.worker import Worker

    settings = command.settings
    backend = UpstreamBackend(cluster.upstream, cluster.upstream_key) if cluster.upstream else make_engine(settings)
    try:
        return Worker(cluster, backend, settings, command.names).run()
    finally:
        backend.close()


def _migrate(cluster: ClusterSettings, command: Command) -> int:
    """Copy sessions, keys, usage and jobs from the data folder into the cluster, or back, and print what was copied."""
    from services.cluster.redis_client import RedisClient
    from services.cluster.stores import migrate as migration

    run = migration.migrate_back if command.back else migration.migrate
    copied = run(command.settings, RedisClient(cluster), command.replace)
    for line in migration.report(copied):
        print(line)
    return 0 if copied.is_whole else 1
