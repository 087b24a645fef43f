"""The broker: Celery over RabbitMQ, its queues, and how a task is sent.

Each model has a queue, which every worker that serves the model takes from; each worker has one of its own too, for what
only it has computed the beginning of. What a worker does not take from its own in time goes to the model's.
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
# RabbitMQ advises no more priorities than these.
HIGHEST = 10
# Milliseconds in which a worker that was free takes what is in its own queue.
_TAKEN_IN = 1500
# Milliseconds after which the queue of a worker that is gone is removed.
_QUEUE_KEPT = 3_600_000
# Seconds to connect in, and those between two signs of life.
_CONNECT, _HEARTBEAT = 4.0, 10
# How often, and for how long, a node tries to send while the broker is away: about three seconds in all.
_RETRIES = {"max_retries": 6, "interval_start": 0.1, "interval_step": 0.2, "interval_max": 0.6}
# Seconds in which the broker says that it has a task safely.
_CONFIRMED_IN = 10.0


def make_celery(settings: ClusterSettings) -> Celery:
    """Celery, set up for this cluster. Messages are JSON: any other is refused."""
    app = Celery("hearth", broker=settings.broker, backend="disabled://", set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        # What comes of a task goes through the streams.
        task_ignore_result=True,
        task_default_queue=f"{settings.queue}.none",
        broker_connection_timeout=_CONNECT,
        broker_heartbeat=_HEARTBEAT,
        broker_pool_limit=64,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={"confirm_publish": True},
        # A task is taken only where there is a slot for it, and is the broker's until it is done.
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
    """The queue of a model: of two files of one name that are tokenized differently, each has its own."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", model.name)[:150]
    return _queue(f"{settings.queue}.{name}.{model.vocabulary[:8]}", Exchange(""), {})


def worker_queue(settings: ClusterSettings, worker: str) -> Queue:
    """A worker's own queue. A task is routed to it by its model's queue, where it goes when it is not taken in time."""
    name = f"{settings.queue}.at.{worker}"
    late = {"x-message-ttl": _TAKEN_IN, "x-dead-letter-exchange": "", "x-expires": _QUEUE_KEPT}
    return _queue(name, Exchange(name, type="fanout", durable=True, auto_delete=True), late)


def _queue(name: str, exchange: Exchange, arguments: dict[str, Any]) -> Queue:
    return Queue(name, exchange, routing_key=name, queue_arguments={"x-max-priority": HIGHEST, **arguments})


class Broker:
    """How tasks are sent. Any thread may call it."""

    def __init__(self, settings: ClusterSettings) -> None:
        self._settings = settings
        self._celery = make_celery(settings)

    def send(self, task: str, id_: str, arguments: Sequence[Any], model: ServedModel, worker: str, priority: int) -> None:
        """Have a task done by a worker that serves `model`, by the one called `worker` ("": any) if it takes it at once.

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
                # What people write is nobody's to see who looks at the queues.
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
        """How many tasks wait in each of these queues, which are there; None where the broker is away."""
        try:
            with self._celery.connection_for_read() as connection:
                channel = connection.default_channel
                return {name: int(channel.queue_declare(name, passive=True).message_count) for name in queues}
        except (BrokerError, KombuError, OSError, AMQPError):
            return None

    def close(self) -> None:
        """Let go of the connections."""
        self._celery.close()
