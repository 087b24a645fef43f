"""What a key may keep: sessions, and megabytes of these and of its jobs."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from services.jobs import store as job_store
from services.jobs.store import JobKey, JobRequest, JobStore, Reply, StoredJob
from services.sessions.table import Kept
from tests.support.in_process import Client

Open = Callable[..., Client]


@pytest.fixture
def capped(open_client: Open) -> Client:
    """A server whose keys may keep 4 sessions, unless it is said."""
    return open_client(key_sessions=4)


def ask(client: Client, key: str, number: int | None, prompt: str = "Count to 3.", **fields: Any) -> requests.Response:
    return client.post("/answer", {"prompt": prompt, "session_id": number, "max_tokens": 4, **fields}, key=key)


def refused(reply: requests.Response, code: str, param: str) -> str:
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (403, code, param), reply.text
    return str(error["message"])


def test_a_key_keeps_so_many_sessions_and_no_more(capped: Client) -> None:
    key, _ = capped.mint(limits={"sessions": 3})
    with_default, _ = capped.mint()
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda n=n: statuses.append(ask(capped, key, n).status_code)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses.count(200) == 3
    numbers = [int(number) for number in capped.get("/answer", key=key).json()]
    assert len(numbers) == 3
    before = capped.get("/auth/usage", key=key).json()
    message = refused(ask(capped, key, 77), "sessions_limit", "limits.sessions")
    assert "may keep 3 sessions, and has 3" in message
    assert capped.get("/auth/usage", key=key).json() == before, "it is refused before it is computed"
    # Those that are there go on, and one that is forgotten makes room.
    assert ask(capped, key, numbers[0]).status_code == 200
    assert ask(capped, key, None).status_code == 200
    capped.delete(f"/answer/{numbers[0]}", key=key)
    assert ask(capped, key, 77).status_code == 200
    assert [ask(capped, with_default, n).status_code for n in range(5)] == [200] * 4 + [403]
    assert [ask(capped, capped.key, 1000 + n).status_code for n in range(6)] == [200] * 6


def test_a_key_that_mints_keys_keeps_no_more_by_them(capped: Client) -> None:
    parent, _ = capped.mint(limits={"sessions": 3}, scopes=["answer", "keys"])
    kept = 0
    for _ in range(4):
        minted = capped.post("/auth/key", {"limits": {"sessions": 3}, "scopes": ["answer"]}, key=parent).json()
        kept += sum(ask(capped, minted["key"], n).status_code == 200 for n in range(2))
        # What a revoked key has left still counts.
        assert capped.delete(f"/auth/key/{minted['id']}", key=parent).status_code == 200
    assert kept == 3
    assert "3 sessions, and has 3" in refused(ask(capped, parent, 1), "sessions_limit", "limits.sessions")


def test_jobs_count_for_the_megabytes_of_their_key(capped: Client) -> None:
    key, _ = capped.mint(limits={"storage_mb": 1})
    reply = capped.post("/jobs", {"job_id": "over", "content": "word " * 200_001}, key=key)
    assert "may keep 1 MB of sessions, responses, jobs and files" in refused(reply, "storage_limit", "limits.storage_mb")
    assert capped.get("/jobs/over", key=key).status_code == 404
    assert capped.post("/jobs", {"job_id": "small", "content": "Hello"}, key=key).status_code == 202


def test_what_is_stored_counts_for_the_megabytes_until_it_is_deleted(open_client: Open, tmp_path: Path) -> None:
    data = tmp_path / "data"
    client = open_client(data=data)
    key, id_ = client.mint(limits={"storage_mb": 1})
    messages = [{"type": "human", "content": "ä" * 499_993}, {"type": "ai", "content": "Yes."}]
    # As an owner who copies conversations from elsewhere.
    path = data / "sessions.json"
    path.write_text(json.dumps({f"{id_}/1": {"name": "long", "messages": messages}}))
    assert ask(client, key, 2, "Hi", memory_k=0).status_code == 200
    message = refused(ask(client, key, 2, "Count to 3.", memory_k=0), "storage_limit", "limits.storage_mb")
    assert "has 1.0 MB" in message
    assert client.delete("/answer/1", key=key).status_code == 200
    assert ask(client, key, 2, "Count to 3.", memory_k=0).status_code == 200


def job(n: int, finished: float | None = None, body: bytes = b"", reply: bytes = b"") -> StoredJob:
    request = JobRequest("/generate", body, f"digest {n}")
    state: Any = "queued" if finished is None else "done"
    told = Reply(200, "text/plain", reply) if finished else None
    return StoredJob(JobKey("a", f"job:{n}"), request, state, 0.0, finished, told)


def test_the_file_of_jobs_becomes_small_again_and_old_ones_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "hearth.sqlite"
    store = JobStore(path)
    for n in range(40):
        store.add(job(n, body=b"x" * 200_000))
    assert store.kept("a") == Kept(40, 8_000_000)
    for n in range(40):
        # What was asked is not kept once it is over.
        store.add(job(n, finished=time.time() - (0 if n < 2 else job_store.KEPT_FOR + 1), reply=b"y" * 10))
    store.tidy()
    assert store.kept("a") == Kept(2, 20)
    assert path.stat().st_size < 100_000
    store.remove(JobKey("a", "job:0"))
    assert store.kept("a") == Kept(1, 10)
    store.close()
    again = JobStore(path)
    assert again.kept("a") == Kept(1, 10)
    again.close()


def test_a_large_file_of_before_becomes_small_at_the_next_start(tmp_path: Path) -> None:
    path, old = tmp_path / "hearth.sqlite", tmp_path / "jobs.sqlite"
    db = sqlite3.connect(old, isolation_level=None)
    db.execute(
        "CREATE TABLE jobs (owner TEXT NOT NULL, id TEXT NOT NULL, digest TEXT NOT NULL, path TEXT NOT NULL, "
        "body BLOB NOT NULL, state TEXT NOT NULL, created REAL NOT NULL, finished REAL, status INTEGER, "
        "content_type TEXT, reply BLOB, session TEXT NOT NULL DEFAULT '', PRIMARY KEY (owner, id))"
    )
    columns = "(owner, id, digest, path, body, state, created)"
    db.execute(f"INSERT INTO jobs {columns} VALUES ('a', 'b', '', '', ?, 'queued', 0)", (b"x" * 10**7,))
    db.execute("UPDATE jobs SET body = 'y'")
    db.close()
    assert old.stat().st_size > 10**7
    store = JobStore(path)
    assert store.kept("a") == Kept(1, 1)
    store.close()
    assert path.stat().st_size < 100_000


def test_what_is_known_of_revoked_keys_is_forgotten_with_what_they_kept(capped: Client) -> None:
    parent, _ = capped.mint(limits={"sessions": 3}, scopes=["answer", "keys"])
    ids = []
    for _ in range(2):
        minted = capped.post("/auth/key", {"limits": {"sessions": 3}, "scopes": ["answer"]}, key=parent).json()
        ids.append(minted["id"])
        assert ask(capped, minted["key"], 1).status_code == 200
        assert capped.delete(f"/auth/key/{minted['id']}", key=parent).status_code == 200
        # The master clears up.
        assert capped.delete(f"/answer/{minted['id']}/1").status_code == 200
    charged = json.loads((capped.data / "charged.json").read_text())
    assert ids[1] in charged
    assert ids[0] not in charged
