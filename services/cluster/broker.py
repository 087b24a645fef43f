"""The broker: Celery over RabbitMQ, its queues, and how a task is sent.

Each model has a queue, from which all of its workers take tasks; each worker has one of its own too, for conversations
whose state it has. A task that a worker does not take from its own queue in time goes to the model's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from amqp import AMQPError
from amqp.exceptions import MessageNacked
from celery import Celery
from kombu import Exchange, Queue
from kombu.exceptions import KombuError
from kombu.exceptions import OperationalError as BrokerError

from services.cluster.registry import ServedModel
from services.cluster.settings import ClusterSettings
from services.cluster.streams import KEPT
from services.errors import Unavailable

GENERATE, CALL = "hearth.generate", "hearth.call"
# The number of priorities; RabbitMQ advises no more.
HIGHEST = 10
# Milliseconds in which a worker with a free slot takes a task from its own queue.
_TAKEN_IN = 1500
# Milliseconds after which the queue of a worker that is gone is removed.
_QUEUE_KEPT = 3_600_000
# Seconds to connect in, and between two heartbeats.
_CONNECT, _HEARTBEAT = 4.0, 10
# How often, and for how long, a node tries to send while the broker is away: about three seconds in all.
_RETRIES = {"max_retries": 6, "interval_start": 0.1, "interval_step": 0.2, "interval_max": 0.6}
# Seconds in which the broker confirms that it has stored a task.
_CONFIRMED_IN = 10.0


def make_celery(settings: ClusterSettings) -> Celery:
    """Celery, set up for this cluster. Messages are JSON: any other is refused."""
    app = Celery("hearth", broker=settings.broker, backend="disabled://", set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        # Results go through the streams.
        task_ignore_result=True,
        task_default_queue=f"{settings.queue}.none",
        broker_connection_timeout=_CONNECT,
        broker_heartbeat=_HEARTBEAT,
        broker_pool_limit=64,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={"confirm_publish": True},
        # A worker takes a task when it has a slot for it; the broker keeps the task until it is done.
        worker_prefetch_multiplier=1,
        task_acks_late=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        worker_send_task_events=True,
        worker_redirect_stdouts=False,
        control_exchange=f"{settings.queue}.control",
        event_exchange=f"{settings.queue}.events",
        event_queue_prefix=f"{settings.queue}.events",
    )
    return app


def model_queue(settings: ClusterSettings, model: ServedModel) -> Queue:
    """Return the queue of a model: two files of one name with different vocabularies have two queues."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", model.name)[:150]
    return _queue(f"{settings.queue}.{name}.{model.vocabulary[:8]}", Exchange(""), {})


def worker_queue(settings: ClusterSettings, worker: str) -> Queue:
    """Return a worker's own queue. A task's routing key is its model's queue, where it goes if it is not taken in time."""
    name = f"{settings.queue}.at.{worker}"
    late = {"x-message-ttl": _TAKEN_IN, "x-dead-letter-exchange": "", "x-expires": _QUEUE_KEPT}
    return _queue(name, Exchange(name, type="fanout", durable=True, auto_delete=True), late)


def _queue(name: str, exchange: Exchange, arguments: dict[str, Any]) -> Queue:
    return Queue(name, exchange, routing_key=name, queue_arguments={"x-max-priority": HIGHEST, **arguments})


class Broker:
    """Sends tasks. Any thread may call it."""

    def __init__(self, settings: ClusterSettings) -> None:
        self._settings = settings
        self._celery = make_celery(settings)

    def send(self, task: str, id_: str, arguments: Sequence[Any], model: ServedModel, worker: str, priority: int) -> None:
        """Send a task to a worker that serves `model`: to `worker` ("": any) if that takes it at once.

        Raises Unavailable where the broker does not take it.
        """
        common = model_queue(self._settings, model)
        way: dict[str, Any] = {"queue": common}
        if worker:
            own = worker_queue(self._settings, worker)
            way = {"exchange": own.exchange.name, "routing_key": common.name, "declare": [common, own]}
        try:
            self._celery.send_task(
                task,
                arguments,
                task_id=id_,
                priority=priority,
                # Monitors of the queues are not to show people's words.
                argsrepr="…",
                kwargsrepr="",
                retry=True,
                retry_policy=_RETRIES,
                confirm_timeout=_CONFIRMED_IN,
                expiration=KEPT,
                ignore_result=True,
                **way,
            )
        except (BrokerError, KombuError, OSError, AMQPError, MessageNacked) as error:
            raise Unavailable(
                "the cluster's broker cannot be reached; nothing was lost, and asking again is safe",
                code="broker_unavailable",
                retry_after=5,
            ) from error

    def waiting(self, queues: Sequence[str]) -> dict[str, int] | None:
        """Return the number of tasks in each of these existing queues; None where the broker is away."""
        try:
            with self._celery.connection_for_read() as connection:
                channel = connection.default_channel
                return {name: int(channel.queue_declare(name, passive=True).message_count) for name in queues}
        except (BrokerError, KombuError, OSError, AMQPError):
            return None

    def close(self) -> None:
        """Close the connections."""
        self._celery.close()
