"""A model that takes long to load, as from a disk that sleeps or is dead: nobody waits longer than they want to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.backend.codec import to_json
from services.backend.status import Counts, Room, Status
from services.backend.types import ChatFormat, LoadSettings, Prompt
from services.engine.pool import EnginePool
from services.engine.process import connection as engine_life
from services.engine.process.client import EngineProcess
from services.engine.process.connection import EngineOptions
from services.engine.process.main import THREADS, Child
from services.engine.process.socket import MessageSocket
from tests.support.serving import ENDLESS, Server, wait_for
from tests.support.tiny import GUIDE

SETTINGS = LoadSettings(GUIDE, 256)


class Left(Exception):
    """Whoever waited has left."""


class Leaver:
    """Waits for so many polls, and leaves."""

    def __init__(self, patience: int) -> None:
        self.n_polls, self._patience = 0, patience

    def __call__(self) -> None:
        self.n_polls += 1
        if self.n_polls > self._patience:
            raise Left


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineProcess]:
    made = EngineProcess.open(EngineOptions(tmp_path / "states", timeout=0), tmp_path / "hearth.sqlite")
    yield made
    made.close()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def probe_of(server: Server) -> int:
    find = ["pgrep", "-f", "services.engine.process.probe", "-P", str(server.process.pid)]
    deadline = time.monotonic() + 20
    while not (found := subprocess.run(find, capture_output=True, text=True).stdout.split()):
        assert time.monotonic() < deadline
    return int(found[0])


def trial_of(server: Server) -> int:
    """Select a model that is not loaded yet, and return its probe's process, stopped."""
    server.edit_config("Random", **ENDLESS)
    server.select("Random")
    threading.Thread(target=server.post, args=("/answer", {"prompt": "Hi", "max_tokens": 1, "memory_k": 0})).start()
    probe = probe_of(server)
    # At any moment of its beginning.
    os.kill(probe, signal.SIGSTOP)
    return probe


def test_a_trial_that_is_not_done_keeps_nobody_longer_than_allowed(serve: Callable[..., Server], models: Path) -> None:
    server = serve("--max-seconds", "2", "--stop-seconds", "1", models=models, forks=False)
    probe = trial_of(server)
    started = time.monotonic()
    reply = server.post("/answer", {"prompt": "Hi"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "timeout")
    assert 2 <= time.monotonic() - started < 10
    os.kill(probe, signal.SIGCONT)
    # On a busy machine loading takes more than the two seconds; it goes on all the same.
    wait_for(lambda: server.post("/answer", {"prompt": "Hi", "max_tokens": 1}).status_code == 200)


def test_a_trial_that_is_stopped_ends_with_its_server(serve: Callable[..., Server], models: Path) -> None:
    server = serve("--stop-seconds", "1", models=models, forks=False)
    probe = trial_of(server)
    started = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - started < 20
    assert not Path(f"/proc/{probe}").exists()


def test_whoever_leaves_while_a_model_loads_is_let_go_and_it_loads_all_the_same(engine: EngineProcess) -> None:
    engine._probes.check(SETTINGS)
    with stopped(engine.pid):
        for _ in range(2):
            with pytest.raises(Left), engine.lease(SETTINGS, Leaver(2)):
                pass
    with engine.lease(SETTINGS) as model:
        assert model.tokenize(Prompt("Hi"))


def test_a_model_that_is_loaded_again_is_not_overdue(engine: EngineProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine.lease(SETTINGS) as model:
        tokens = model.tokenize(Prompt("Hi"))
    monkeypatch.setattr(engine_life, "CALL_SECONDS", 0.1)
    pid = engine.pid
    told: list[Any] = []

    def ask() -> None:
        with engine.lease(SETTINGS) as model:
            told.append(model.tokenize(Prompt("Hi")))

    with stopped(pid):
        # From here it looks as if the model was being loaded.
        waiting = threading.Thread(target=ask)
        waiting.start()
        leaver = Leaver(3)
        with engine.lease(SETTINGS, leaver) as model, pytest.raises(Left):
            model.tokenize(Prompt("Hi"))
        assert leaver.n_polls == 4
        assert waiting.is_alive()
        assert engine._connection._overdue == {}
    waiting.join(20)
    assert told == [tokens]
    assert engine.pid == pid


class SlowPool:
    """Has no model until it may."""

    def __init__(self) -> None:
        self.may_load, self.n_leases = threading.Event(), 0

    @contextmanager
    def lease(self, _settings: LoadSettings) -> Iterator[Any]:
        self.may_load.wait(30)
        self.n_leases += 1
        yield SimpleNamespace(
            n_ctx=1, chat_format=ChatFormat("", "", "", ()), tokenize_all=lambda prompts: [[1] for _ in prompts]
        )

    def has(self, _settings: LoadSettings, _embeds: bool) -> bool:
        return self.may_load.is_set()

    def forget(self, _owner: str, _session: str) -> None:
        """There is nothing."""

    def loaded(self) -> list[Path]:
        return []

    def health(self) -> str:
        return "loading"

    def status(self) -> Status:
        none = Room(0, 0)
        return Status(Counts(), 0, 0, 0, none, none, none)


def test_what_waits_for_a_model_takes_no_thread(tmp_path: Path) -> None:
    ours, theirs = map(MessageSocket, socket.socketpair())
    pool = SlowPool()
    child = Child(theirs, cast(EnginePool, pool))
    serving = threading.Thread(target=child.serve)
    serving.start()
    settings, n_callers = to_json(LoadSettings(tmp_path, 1)), THREADS + 10

    def read(n_replies: int) -> dict[int, Any]:
        replies: dict[int, Any] = {}
        while len(replies) < n_replies:
            message = ours.receive()
            assert message
            if "id" in message:
                replies[message["id"]] = message["ok"]
        return replies

    try:
        for n in range(n_callers):
            lease = {"id": 3 * n, "do": "lease", "lease": n, "like": 0, "settings": settings, "embeds": False}
            tokenize = {"id": 3 * n + 1, "do": "tokenize_all", "lease": n, "prompts": [to_json(Prompt("Hi"))]}
            ours.send(lease, tokenize)
            if n % 2:
                ours.send({"id": 3 * n + 2, "do": "give_up", "number": 3 * n + 1})
        ours.send({"id": 1000, "do": "forget", "owner": "", "session": ""})
        assert read(1) == {1000: None}
        n_waiting = n_callers // 2
        assert len(child._deferred) == n_callers - 1 + n_waiting
        pool.may_load.set()
        # Who has given up is told nothing.
        replies = read(n_callers + n_waiting)
        assert list(replies.values()).count([[1]]) == n_waiting
    finally:
        pool.may_load.set()
        ours.close()
        serving.join(10)
        theirs.close()
