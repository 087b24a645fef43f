"""`main.py worker`: the engine of this machine at work for a cluster, as a Celery worker."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from celery import Celery
from celery.exceptions import Reject
from celery.signals import worker_ready, worker_shutting_down

from services.backend.protocols import Backend
from services.backend.status import Counts, Room, Status
from services.cluster.broker import CALL, GENERATE, make_celery, model_queue, worker_queue
from services.cluster.heartbeat import INTERVALS, Heartbeat, Intervals
from services.cluster.orders import CHANNEL
from services.cluster.redis_client import RedisClient, is_away
from services.cluster.registry import TEXT, Registry, ServedModel, WorkerHeartbeat
from services.cluster.routing import Routing
from services.cluster.settings import ClusterSettings
from services.cluster.stores.responses import RedisResponseTable
from services.cluster.stores.sessions import RedisSessionTable
from services.cluster.stores.table import RedisTable
from services.cluster.worker.checksums import Checksums
from services.cluster.worker.upstream import NamedFiles
from services.cluster.worker.work import GiveBack, TaskRunner
from services.documents.mirror import TABLE, states_of
from services.errors import HearthError, NotFound
from services.models.config import Profiles
from services.models.files import ModelFiles
from services.models.gguf import BadGguf, vocabulary_of
from services.sessions.service import Sessions
from services.settings import HOME, Settings

log = logging.getLogger(__name__)

# Slots where no profile says how many.
_SLOTS = 8


class Worker:
    """One worker. Celery's threads run its tasks; while it runs, others renew its heartbeat, and take orders and models."""

    def __init__(
        self,
        cluster: ClusterSettings,
        backend: Backend,
        settings: Settings,
        names: Sequence[str],
        intervals: Intervals = INTERVALS,
    ) -> None:
        """It serves the models of the profiles `names`; with no names all models of the folder.

        Where an upstream computes, it serves the models that the profiles name. Raises NotFound for an unknown profile, and
        for one whose model is not there.
        """
        self._settings = cluster
        self._backend = backend
        files = self._files = NamedFiles() if cluster.upstream else ModelFiles(settings.models)
        self._client = RedisClient(cluster)
        self._intervals = intervals
        self._registry = Registry(self._client, intervals)
        checksums = Checksums(settings.data / "contents.json") if settings.states else None
        self._runner = TaskRunner(cluster.name, self._client, self._registry, backend, files, checksums)
        file = settings.data / "config.json"
        # A second worker on one machine has a folder of its own, and the same profiles.
        config = Profiles(file if file.exists() else HOME / "data" / "config.json").config()
        chosen = [config.named(name) for name in names] or list(config.profiles.values())
        for profile in chosen if names else ():
            profile.load_settings(files)
        named = {name for profile in chosen for name in (profile.model, *(lora.file for lora in profile.lora))}
        self._only = named if names or cluster.upstream else set()
        self._slots = max((profile.n_parallel for profile in chosen), default=_SLOTS)
        self._sessions = Sessions(Path(), RedisSessionTable(self._client))
        self._responses = RedisResponseTable(self._client)
        self._documents = RedisTable(self._client, TABLE)
        self._began = time.time()
        self._draining = threading.Event()
        self._published: dict[tuple[str, tuple[int, int, int]], str] = {}
        self._heartbeat = self._make_heartbeat(())
        self._celery_worker: Any = None

    def run(self) -> int:
        """Work until SIGTERM, then finish the requests in flight; a second one ends at once. Return the exit status."""
        celery = make_celery(self._settings)
        # Celery handles the signals once it works; before that SIGTERM ends the process.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._add_tasks(celery)
        # At its lowest level it logs the tasks' arguments, which are people's words.
        logging.getLogger("celery.concurrency").setLevel(logging.INFO)
        self._wait_for_redis()
        self._registry.take_name(self._settings.name, WorkerHeartbeat)
        models = self._models()
        if not models:
            raise NotFound("there is no model to serve: put a GGUF file into the models folder", code="model_not_found")
        Routing(self._client).reset(self._settings.name)
        celery.conf.task_queues = [*self._queues(models).values(), worker_queue(self._settings, self._settings.name)]
        self._heartbeat = self._make_heartbeat(models)
        worker = celery.Worker(
            hostname=f"{self._settings.name}@{socket.gethostname()}",
            pool="threads",
            concurrency=self._slots,
            loglevel=logging.getLogger().level,
            without_mingle=True,
            without_gossip=True,
            quiet=True,
        )
        worker_shutting_down.connect(self._drain)
        worker_ready.connect(self._say_ready)
        self._celery_worker = worker
        heartbeats = (
            Heartbeat("heartbeat", self._intervals.node, self._renew),
            # A thread of its own: a slow folder delays no heartbeat.
            Heartbeat("models", self._intervals.models, lambda: self._serve(self._models())),
        )
        for heartbeat in heartbeats:
            heartbeat.start()
        threading.Thread(target=self._take_orders, name="orders", daemon=True).start()
        worker.start()
        for heartbeat in heartbeats:
            heartbeat.stop()
        self._leave()
        return int(worker.exitcode or 0)

    def _add_tasks(self, celery: Celery) -> None:
        def run(do: Any, *arguments: Any) -> None:
            try:
                do(*arguments)
            except GiveBack as error:
                raise Reject(str(error), requeue=True) from error

        @celery.task(name=GENERATE)
        def generate(*arguments: Any) -> None:
            run(self._runner.generate, *arguments)

        @celery.task(name=CALL)
        def call(*arguments: Any) -> None:
            run(self._runner.call, *arguments)

    def _models(self) -> list[ServedModel]:
        """Return the models that it serves, after publishing their vocabularies."""
        if self._settings.upstream:
            return [ServedModel(name, TEXT, 0, NamedFiles.info) for name in sorted(self._only)]
        served = []
        for file in self._files.list():
            if file.info and (not self._only or file.name in self._only):
                known = (file.name, file.stamp)
                path = self._files.folder / file.name
                try:
                    if known not in self._published:
                        self._published[known] = hashlib.sha256(vocabulary_of(path)).hexdigest()
                except (BadGguf, OSError) as error:
                    # It is being replaced just now.
                    log.warning("%s is not served: %s", file.name, error)
                    continue
                self._registry.publish_vocabulary(self._published[known], partial(vocabulary_of, path))
                served.append(
                    ServedModel(file.name, self._published[known], file.stamp[0], replace(file.info, metadata={}))
                )
        return served

    def _make_heartbeat(self, models: Sequence[ServedModel]) -> WorkerHeartbeat:
        return WorkerHeartbeat(
            name=self._settings.name,
            host=socket.gethostname(),
            pid=os.getpid(),
            began=self._began,
            slots=self._slots,
            draining=self._draining.is_set(),
            queues=tuple(self._queues(models)),
            models=tuple(models),
            status=self._status(),
            upstream=bool(self._settings.upstream),
        )

    def _status(self) -> Status:
        try:
            return self._backend.status()
        except HearthError:
            none = Room(0, 0)
            return Status(Counts(), 0, 0, 0, none, none, none)

    def _renew(self) -> None:
        self._heartbeat = self._make_heartbeat(self._heartbeat.models)
        self._registry.renew(self._heartbeat)

    def _serve(self, models: Sequence[ServedModel]) -> None:
        """Take tasks from the queues of these models, and of no others."""
        if not (consumer := self._consumer()):
            return
        queues = self._queues(models)
        for name in queues.keys() - set(self._heartbeat.queues):
            consumer.app.amqp.queues.add(queues[name])
            consumer.call_soon(consumer.add_task_queue, name)
        for name in set(self._heartbeat.queues) - queues.keys():
            consumer.call_soon(consumer.cancel_task_queue, name)
        self._heartbeat = self._make_heartbeat(models)

    def _queues(self, models: Sequence[ServedModel]) -> dict[str, Any]:
        """Return the models' queues, by name; an adapter has none, since it is used with a model."""
        queues = (model_queue(self._settings, model) for model in models if not model.info.adapter)
        return {queue.name: queue for queue in queues}

    def _consumer(self) -> Any:
        """Return Celery's consumer; None before it is connected."""
        consumer = getattr(self._celery_worker, "consumer", None)
        return consumer if consumer and getattr(consumer, "task_consumer", None) else None

    def _take_orders(self) -> None:
        """The thread that carries out the orders of API nodes."""
        while True:
            try:
                with self._client.redis.pubsub(ignore_subscribe_messages=True) as subscription:
                    subscription.subscribe(self._client.key(CHANNEL))
                    # Orders to forget conversations may have been missed.
                    of_files = states_of(self._documents.read())
                    self._backend.retain(self._sessions.names_of_all() | self._responses.states() | of_files)
                    while True:
                        if message := subscription.get_message(timeout=5.0):
                            self._obey(message["data"])
            except Exception as error:
                if not is_away(error):
                    log.exception("the worker cannot receive orders")
                time.sleep(0.5)

    def _obey(self, text: str) -> None:
        try:
            self._runner.obey(json.loads(text))
        except Exception:
            log.exception("the worker could not carry out an order")

    def _wait_for_redis(self) -> None:
        is_waiting = False
        while not self._client.is_there():
            if not is_waiting:
                is_waiting = True
                print("The worker waits for Redis, which cannot be reached.", flush=True)
            time.sleep(0.5)

    def _drain(self, **_: Any) -> None:
        self._draining.set()
        n_running = self._runner.n_running
        first = f", and ends {n_running} answers first" if n_running else ""
        print(f"The worker takes nothing new{first}.", flush=True)
        # Here, in a signal handler, no lock may be waited for.
        threading.Thread(target=self._announce_draining, name="drain", daemon=True).start()

    def _announce_draining(self) -> None:
        try:
            self._registry.renew(self._make_heartbeat(self._heartbeat.models))
        except Exception as error:
            log.debug("that the worker stops is not announced: %s", error)

    def _say_ready(self, **_: Any) -> None:
        names = ", ".join(model.name for model in self._heartbeat.models)
        print(f"The worker {self._settings.name} serves {names} with {self._slots} slots (Ctrl+C stops it).", flush=True)

    def _leave(self) -> None:
        try:
            self._registry.leave(self._heartbeat)
        except Exception as error:
            log.debug("the heartbeat stays until it ends by itself: %s", error)
        print("The worker stops.", flush=True)
