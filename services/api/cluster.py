"""/cluster: the nodes, workers and queues of the cluster, and their load."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask_restful import Resource
from pydantic import BaseModel

from services.api.http.schemas import replies, spec
from services.errors import NotFound


class ClusterNode(BaseModel):
    """An API node: its open answers, those of them that no worker has begun, and its start in seconds since 1970."""

    name: str
    host: str
    pid: int
    began: float
    url: str
    answers: int
    waiting: int


class ClusterWorker(BaseModel):
    """A worker: its models, those that are loaded, and its busy slots.

    `elsewhere`: it passes its work to another server. `answers` counts since it began, `memory` is in bytes.
    """

    name: str
    host: str
    pid: int
    began: float
    slots: int
    busy: int
    state: str
    elsewhere: bool
    models: list[str]
    loaded: list[str]
    answers: int
    memory: int


class ClusterQueue(BaseModel):
    """A queue: the number of its waiting requests (null: the broker is away), and the workers that take from it."""

    name: str
    waiting: int | None
    workers: list[str]


class ClusterBody(BaseModel):
    """A cluster."""

    broker: str
    nodes: list[ClusterNode]
    workers: list[ClusterWorker]
    queues: list[ClusterQueue]


class ClusterResource(Resource):
    """The cluster that this server is a node of."""

    def __init__(self, overview: Callable[[], dict[str, Any]] | None) -> None:
        self._overview = overview

    @spec.validate(resp=replies(ClusterBody, 404, 503))
    def get(self) -> Any:
        """Tell the nodes, workers and queues, what they serve and how busy they are; for the master key."""
        if self._overview is None:
            raise NotFound("this server is in no cluster", code="no_cluster")
        return self._overview()
