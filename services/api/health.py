"""/health: whether an answer can be had, for everybody; and /status: how busy the server is."""

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

# How many bytes the engine takes beside models and kept conversations: its programs, buffers, and what is under way.
BESIDE = 150 * 10**6


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


class MemoryUse(BaseModel):
    """Memory in bytes: `limit` is the machine's, and of it the `engine` and the `server`, two processes, have `used` some.

    `promised` is what the engine may take: models (--model-ram), kept conversations (--cache-ram), and some beside. What it
    does are the models' `weights` and `contexts`, the kept conversations' `states`, and what is `other`.
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
    """How busy the server is. `time` is a clock in seconds, to count rates by: totals grow from the start on.

    What tells of others' words, if only by counts, is there for the master key only.
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
        return {"status": self._answers.health()}


class LivenessResource(Resource):
    """Whether the server is there."""

    @spec.validate(resp=replies(HealthBody))
    def get(self) -> Any:
        """Say ok: the process serves. Whoever watches it starts it anew where nobody says so."""
        return {"status": "ok"}


class ReadinessResource(Resource):
    """Whether an answer can be had."""

    def __init__(self, answers: Answers, draining: Draining) -> None:
        self._answers = answers
        self._draining = draining

    @spec.validate(resp=replies(HealthBody, 503))
    def get(self) -> Any:
        """Say ready; with status 503, why not: loading, down or stopping."""
        status = "stopping" if self._draining.has_begun else self._answers.health()
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
            "memory": _memory(status) if is_master else None,
            "states": {"ram": asdict(status.states_ram), "disk": asdict(status.states_disk)} if is_master else None,
            "models": [asdict(model) for model in status.models if self._may_see(caller(), model.file)],
        }

    def _may_see(self, me: Identity, file: str) -> bool:
        """Whether a key may know that a model file is there: where it may list models, and of what its profiles use."""
        known = self._answers.files_of(me.profiles)
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
