"""The state of a cluster, for GET /cluster."""

from __future__ import annotations

from typing import Any

from services.cluster.broker import Broker
from services.cluster.redis_client import reached
from services.cluster.registry import NodeHeartbeat, Registry, WorkerHeartbeat
from services.cluster.routing import Routing


class Overview:
    """The nodes, the workers, and the queues between them. Any thread may call it."""

    def __init__(self, registry: Registry, routing: Routing, broker: Broker) -> None:
        self._registry = registry
        self._routing = routing
        self._broker = broker

    def __call__(self) -> dict[str, Any]:
        """Return the nodes, workers and queues. Raises Unavailable where Redis is away; a broker that is away is "down"."""
        with reached():
            workers, nodes = self._registry.workers(), self._registry.nodes()
            busy = {worker.name: self._routing.busy(worker.name) for worker in workers}
        queues = sorted({queue for worker in workers for queue in worker.queues})
        waiting = self._broker.waiting(queues)
        return {
            "broker": "down" if waiting is None else "ready",
            "nodes": [_node(node) for node in nodes],
            "workers": [_worker(worker, busy[worker.name]) for worker in workers],
            "queues": [
                {
                    "name": queue,
                    "waiting": None if waiting is None else waiting[queue],
                    "workers": [worker.name for worker in workers if queue in worker.queues],
                }
                for queue in queues
            ],
        }


def _node(node: NodeHeartbeat) -> dict[str, Any]:
    return {name: getattr(node, name) for name in ("name", "host", "pid", "began", "url", "answers", "waiting")}


def _worker(worker: WorkerHeartbeat, busy: int) -> dict[str, Any]:
    return {
        **{name: getattr(worker, name) for name in ("name", "host", "pid", "began", "slots")},
        "busy": busy,
        "state": "draining" if worker.draining else "ready",
        "elsewhere": worker.upstream,
        "models": sorted(model.name for model in worker.models),
        "loaded": sorted(model.file for model in worker.status.models),
        "answers": worker.status.counts.answers,
        "memory": worker.status.memory.used,
    }
