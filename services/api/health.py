"""/health: whether an answer can be had, for everybody; and /status: how busy the server is."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from flask_restful import Resource
from pydantic import BaseModel

from auth.authentication import caller
from services.answers import Answers
from services.api.schemas import replies, spec
from services.api.stopping import Stopping
from services.status import Counts, LoadedModel, Room


class HealthBody(BaseModel):
    """Ready, loading or down."""

    status: str


class AnswerLoad(BaseModel):
    """How many answers are computed, wait for a slot, and may be computed at once."""

    running: int
    waiting: int
    slots: int


class StateRooms(BaseModel):
    """Where computed conversations are kept."""

    ram: Room
    disk: Room


class StatusBody(BaseModel):
    """How busy the server is. `time` is a clock in seconds, to count rates by: totals grow from the start on.

    What tells of others' words, if only by counts, is there for the master key only.
    """

    status: str
    time: float
    answers: AnswerLoad
    totals: Counts | None
    memory: Room | None
    states: StateRooms | None
    models: list[LoadedModel]


class HealthResource(Resource):
    """The server's state."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @spec.validate(resp=replies(HealthBody))
    def get(self) -> Any:
        """Say ready, loading or down; always with status 200, since the server itself is there."""
        return {"status": self._answers.health()}


class LivenessResource(Resource):
    """Whether the server is there."""

    @spec.validate(resp=replies(HealthBody))
    def get(self) -> Any:
        """Say ok: the process serves. Whoever watches it starts it anew where nobody says so."""
        return {"status": "ok"}


class ReadinessResource(Resource):
    """Whether an answer can be had."""

    def __init__(self, answers: Answers, stopping: Stopping) -> None:
        self._answers = answers
        self._stopping = stopping

    @spec.validate(resp=replies(HealthBody, 503))
    def get(self) -> Any:
        """Say ready; with status 503, why not: loading, down or stopping."""
        status = "stopping" if self._stopping.has_begun else self._answers.health()
        return ({"status": status}, 200) if status == "ready" else ({"status": status}, 503)


class StatusResource(Resource):
    """What the server is at."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @spec.validate(resp=replies(StatusBody))
    def get(self) -> Any:
        """Say how busy the server is: answers, and for the master key tokens, memory and computed conversations."""
        status, is_master = self._answers.status(), caller().is_master
        return {
            "status": self._answers.health(),
            "time": round(time.monotonic(), 3),
            "answers": {"running": status.running, "waiting": status.waiting, "slots": status.slots},
            "totals": asdict(status.counts) if is_master else None,
            "memory": asdict(status.memory) if is_master else None,
            "states": {"ram": asdict(status.states_ram), "disk": asdict(status.states_disk)} if is_master else None,
            "models": [asdict(model) for model in status.models],
        }
