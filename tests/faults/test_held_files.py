"""Files that another program keeps locked, as a tool that was suspended: nobody waits for long, and nothing is lost."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from auth.usage import UsageStore
from services.backend.types import Spent
from services.sessions.file_table import SessionTable
from services.sessions.table import Answered, RequestName
from tests.support.serving import Server


@contextmanager
def held(lock: Path) -> Iterator[None]:
    file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(file)


def test_a_lock_that_another_program_keeps_stops_nobody(serve: Callable[..., Server]) -> None:
    server = serve()
    server.ask("Count to 3.", session_id=0)
    lock = server.data / ".sessions.json.lock"
    replies: list[tuple[float, Any]] = []

    def ask(number: int) -> None:
        started = time.monotonic()
        reply = server.post("/answer", {"prompt": "Count to 3.", "session_id": number})
        replies.append((time.monotonic() - started, reply))

    with held(lock):
        asking = [threading.Thread(target=ask, args=(number,)) for number in (1, 2, 3)]
        for each in asking:
            each.start()
        while any(each.is_alive() for each in asking):
            started = time.monotonic()
            assert [server.get(path).status_code for path in ("/sessions", "/answer/0", "/health")] == [200] * 3
            assert time.monotonic() - started < 3
            time.sleep(0.1)
        for took, reply in replies:
            error = reply.json()["error"]
            assert (reply.status_code, error["code"], reply.headers["Retry-After"]) == (503, "file_locked", "5")
            assert "sessions.json cannot be changed now: another program holds its lock" in error["message"]
            # Once for all of them together.
            assert took < 9
        started = time.monotonic()
        assert server.post("/answer", {"prompt": "Count to 3.", "session_id": 4}).status_code == 503
        assert time.monotonic() - started < 3
    assert server.post("/answer", {"prompt": "Count to 3.", "session_id": 1}).status_code == 200
    with held(lock):
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 15
    server.start()
    assert [len(server.get(f"/answer/{number}").json()["messages"]) for number in (0, 1)] == [2, 2]


def test_what_could_not_be_counted_at_the_end_is_counted_at_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "hearth.sqlite"
    store = UsageStore(path)
    store.add("a", Spent(3, 1, 4, 0.5), ["a", "b"])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store.add("a", Spent(5, 0, 6, 0.5), ["a", "b"])
    store.close()
    other.execute("ROLLBACK")
    other.close()
    left = tmp_path / "usage.unkept.json"
    assert left.stat().st_mode & 0o777 == 0o600
    for _ in range(2):
        store = UsageStore(path)
        used = store.totals()["a"]
        assert (used.requests, used.prompt_tokens, used.completion_tokens, store.charged("b")) == (2, 8, 10, 18)
        assert not left.exists()
        store.close()


def test_the_file_soon_no_longer_names_a_request_whose_reply_is_kept(tmp_path: Path) -> None:
    """Else a job that was deleted would be answered by its session, after a kill."""
    path = tmp_path / "sessions.json"
    table = SessionTable(path)
    said = [{"type": "human", "content": "Hi"}, {"type": "ai", "content": "Hello"}]
    table.add("1", said, "Hi", None, Answered(RequestName("job:a", "digest"), {}))
    deadline = time.monotonic() + 10
    while not path.exists() or "job:a" not in path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    table.settle("1", "job:a")
    while "job:a" in path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    table.close()
