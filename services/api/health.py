"""/health, /healthz and /readyz: the server's state, for everybody; and /status: its load."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

from flask_restful import Resource
from pydantic import BaseModel

from auth.authentication import caller
from auth.identity import Identity
from services.answers.service import Answers
from services.api.http.draining import Draining
from services.api.http.schemas import replies, spec
from services.backend.status import Counts, LoadedModel, Room, Status

# Bytes that the engine takes beside models and kept conversations: its program, its buffers, and the answers in flight.
BESIDE = 150 * 10**6


class HealthBody(BaseModel):
    """The server's state: ready, loading or down."""

    status: str


class AnswerLoad(BaseModel):
    """The numbers of answers that are computed, that wait for a slot, and that may be computed at once."""

    running: int
    waiting: int
    slots: int


class StateRooms(BaseModel):
    """The memory and the disk space of computed conversations."""

    ram: Room
    disk: Room


class MemoryUse(BaseModel):
    """Memory in bytes: `limit` is the machine's, `used` the sum of two processes, the `engine` and the `server`.

    `promised` is the most that the engine may take: models (--model-ram), conversations (--cache-ram), and some beside.
    It has taken the models' `weights` and `contexts`, the kept conversations' `states`, and `other` memory.
    """

    used: int
    limit: int
    server: int
    engine: int
    promised: int
    weights: int
    contexts: int
    states: int
    other: int


class StatusBody(BaseModel):
    """The server's load. `time` is a clock in seconds, to count rates by: totals grow from the start on.

    Counts that tell of other people's answers are there for the master key only.
    """

    status: str
    time: float
    answers: AnswerLoad
    totals: Counts | None
    memory: MemoryUse | None
    states: StateRooms | None
    models: list[LoadedModel]


class HealthResource(Resource):
    """The server's state."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @spec.validate(resp=replies(HealthBody))
    def get(self) -> Any:
        """Say ready, loading or down; always with status 200, since the server itself is there."""
        return {"status": self._answers.models.health()}


class LivenessResource(Resource):
    """The liveness probe."""

    @spec.validate(resp=replies(HealthBody))
    def get(self) -> Any:
        """Say ok: the process serves. A supervisor starts it anew where no reply comes."""
        return {"status": "ok"}


class ReadinessResource(Resource):
    """The readiness probe."""

    def __init__(self, answers: Answers, draining: Draining) -> None:
        self._answers = answers
        self._draining = draining

    @spec.validate(resp=replies(HealthBody, 503))
    def get(self) -> Any:
        """Say ready; with status 503, why not: loading, down or stopping."""
        status = "stopping" if self._draining.has_begun else self._answers.models.health()
        return ({"status": status}, 200) if status == "ready" else ({"status": status}, 503)


class StatusResource(Resource):
    """The server's load."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @spec.validate(resp=replies(StatusBody))
    def get(self) -> Any:
        """Say how busy the server is: answers, and for the master key tokens, memory and computed conversations."""
        status, is_master = self._answers.models.status(), caller().is_master
        return {
            "status": self._answers.models.health(),
            "time": round(time.monotonic(), 3),
            "answers": {"running": status.running, "waiting": status.waiting, "slots": status.slots},
            "totals": asdict(status.counts) if is_master else None,
            "memory": _memory(status) if is_master else None,
            "states": {"ram": asdict(status.states_ram), "disk": asdict(status.states_disk)} if is_master else None,
            "models": [asdict(model) for model in status.models if self._may_see(caller(), model.file)],
        }

    def _may_see(self, me: Identity, file: str) -> bool:
        """Return whether a key may know of a model file: it may list models, and one of its profiles uses the file."""
        known = self._answers.models.files_of(me.profiles)
        return me.may("models:read") and (known is None or file in {PurePosixPath(each).name for each in known})


def _memory(status: Status) -> dict[str, int]:
    ram, engine = status.states_ram, status.memory.used - status.server
    kinds = {"weights": status.weights, "contexts": status.contexts, "states": ram.used}
    return {
        **asdict(status.memory),
        "server": status.server,
        "engine": engine,
        "promised": status.models_limit + ram.limit + BESIDE,
        **kinds,
        "other": max(engine - sum(kinds.values()), 0),
    }
