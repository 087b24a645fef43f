"""Requests that are computed once, and jobs that nobody waits for."""

from __future__ import annotations

import itertools
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests

from services.errors import DamagedFile
from services.jobs.job import Job, Poll
from services.jobs.jobs import WORKERS
from services.jobs.store import JobStore
from tests.support.fake_backend import FakeBackend, Piece
from tests.support.in_process import Client
from tests.support.serving import Stream, wait_for
from tests.support.tiny import GUIDE

SHORT = {"max_tokens": 24, "memory_k": 0}
# The backend never comes to an end of it.
ENDLESS = {"meta": {"tokens_limit": 1400, "temperature": 0}, "content": "Tell me more"}


@pytest.fixture
def backend() -> FakeBackend:
    """A backend that never gives the same answer twice, and goes on with "Tell me more" until it is stopped."""
    numbers = itertools.count(1)

    def script(prompt: str) -> Sequence[Piece]:
        answer = f" This is answer {next(numbers)}."
        return [answer, threading.Event()] if "Tell me more" in prompt else [answer]

    return FakeBackend(script)


def keyed(client: Client, name: str, body: dict[str, Any], path: str = "/answer", **options: Any) -> requests.Response:
    return client.post(path, body, headers={"Idempotency-Key": name}, **options)


def in_state(client: Client, job: str, state: str, **options: Any) -> dict[str, Any]:
    """Wait until a job is in a state; return its description."""

    def look() -> dict[str, Any] | None:
        status: dict[str, Any] = client.get(f"/jobs/{job}", **options).json()
        return status if status.get("state") == state else None

    return dict(wait_for(look))


def wait_until_running(client: Client, n: int) -> None:
    """Wait until exactly `n` answers are computed."""
    wait_for(lambda: client.get("/status").json()["answers"]["running"] == n)


def test_a_request_sent_twice_is_computed_once(client: Client, backend: FakeBackend) -> None:
    body = {"prompt": "Hello", "session_id": 7001, **SHORT, "memory_k": 5}
    first = keyed(client, "once", body)
    again = keyed(client, "once", body)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    assert ("Idempotent-Replayed" in first.headers, again.headers["Idempotent-Replayed"]) == (False, "true")
    assert len(client.get("/answer/7001").json()["messages"]) == 2
    assert len(backend.requests) == 1


def test_another_request_of_the_same_name_is_refused(client: Client) -> None:
    keyed(client, "taken", {"prompt": "Hello", **SHORT})
    for path, body in (("/answer", {"prompt": "Bye", **SHORT}), ("/v1/completions", {"prompt": "Hello"})):
        refused = keyed(client, "taken", body, path)
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "name_taken")
        assert "taken was sent before" in refused.json()["message"]


def test_names_are_of_their_key(client: Client, key: str) -> None:
    first = keyed(client, "mine", {"prompt": "Hello", **SHORT})
    other = keyed(client, "mine", {"prompt": "Who are you?", **SHORT}, key=key)
    assert (first.status_code, other.status_code) == (200, 200)
    assert client.get("/jobs/mine").status_code == 404


@pytest.mark.parametrize("name", ["", "x" * 257])
def test_a_bad_name_is_refused(client: Client, name: str) -> None:
    refused = keyed(client, name, {"prompt": "Hello"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "Idempotency-Key")


def test_chats_and_texts_are_computed_once_too(client: Client) -> None:
    chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 24}
    for path, body in (("/v1/chat/completions", chat), ("/v1/completions", {"prompt": "Hello"})):
        first, again = (keyed(client, path, body, path).json() for _ in range(2))
        assert first == again
        streamed = [keyed(client, f"{path}-streamed", {**body, "stream": True}, path).text for _ in range(2)]
        assert streamed[0] == streamed[1]
        assert streamed[0].endswith("data: [DONE]\n\n")


def test_what_fails_is_computed_again(client: Client) -> None:
    bad = {"prompt": "Hello", "max_tokens": 8, "stop": ["x"], "memory_k": 0}
    too_long = {"prompt": "word " * 5000}
    assert keyed(client, "failing", too_long).status_code == 400
    assert keyed(client, "failing", bad).status_code == 200


def test_two_at_once_follow_the_same_stream(client: Client, backend: FakeBackend) -> None:
    go_on = threading.Event()
    backend.reply(" One two three four five six", go_on, " seven eight nine")
    body = {"prompt": "Tell", "stream": True, "max_tokens": 120, "memory_k": 0}
    first = Stream(keyed(client, "both", body, stream=True))
    head = [first.next() for _ in range(5)]
    second = Stream(keyed(client, "both", body, stream=True))
    assert [second.next() for _ in range(5)] == head
    go_on.set()
    rest = first.rest()
    assert (rest[-1], second.rest()) == ("[DONE]", rest)


def test_jobs_are_computed_in_their_turn(client: Client, backend: FakeBackend) -> None:
    content = {"meta": {"tokens_limit": 40, "temperature": 0}, "content": "Tell me"}
    go_on = threading.Event()
    for _ in range(WORKERS):
        backend.reply(" One", go_on, " two")
    for n in range(6):
        posted = client.post("/jobs", {"job_id": f"j{n}", **content})
        assert (posted.status_code, posted.json()["job_id"]) == (202, f"j{n}")
    wait_until_running(client, WORKERS)
    for n in range(12):
        client.post("/jobs", {"job_id": f"long{n}", **ENDLESS})
    last = client.get("/jobs/long11").json()
    assert (last["state"], last["place"]) == ("queued", 18 - WORKERS)
    go_on.set()
    # Were the endless ones first, these would never be done.
    for n in range(6):
        done = in_state(client, f"j{n}", "done")
        assert done["result"]["content"]
        assert done["finished"] >= done["created"]
    # The same job, followed by one who waits.
    again = client.post("/generate", {"job_id": "j0", **content})
    assert again.json() == in_state(client, "j0", "done")["result"]
    for n in range(12):
        assert client.delete(f"/jobs/long{n}").json() == {"deleted": True}
        assert client.get(f"/jobs/long{n}").status_code == 404
    # Nothing of what was stopped goes on.
    wait_until_running(client, 0)
    after = {"job_id": "after", "meta": {"tokens_limit": 2, "temperature": 0}, "content": "Hi"}
    assert client.post("/generate", after).status_code == 200


def test_who_follows_a_job_that_is_stopped_is_told(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    followed = threading.Barrier(3)
    wait_for_head = Job.head

    def noting(job: Job, poll: Poll) -> Any:
        followed.wait(30)
        return wait_for_head(job, poll)

    monkeypatch.setattr(Job, "head", noting)
    for n in range(5):
        client.post("/jobs", {"job_id": f"stop{n}", **ENDLESS})
    wait_until_running(client, WORKERS)
    told: list[int] = []

    def follow(job: str) -> None:
        told.append(client.post("/generate", {"job_id": job, **ENDLESS}).status_code)

    threads = [threading.Thread(target=follow, args=(f"stop{n}",)) for n in (0, 4)]
    for thread in threads:
        thread.start()
    followed.wait(30)
    for n in range(5):
        assert client.delete(f"/jobs/stop{n}").status_code == 200
    for thread in threads:
        thread.join(timeout=20)
    assert told == [404, 404]


def test_what_cannot_be_stored_is_told_all_the_same(client: Client) -> None:
    client.post("/generate", {"job_id": "before", "meta": {"tokens_limit": 2, "temperature": 0}, "content": "Hi"})
    with sqlite3.connect(client.data / "hearth.sqlite") as db:
        # As a full disk would: nothing more can be written.
        db.execute("CREATE TRIGGER full BEFORE INSERT ON jobs BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    db.close()
    body = {"job_id": "full", "meta": {"tokens_limit": 8, "temperature": 0}, "content": "Hi"}
    first = client.post("/generate", body)
    assert first.status_code == 200
    assert client.post("/generate", body).json() == first.json()
    assert client.get("/jobs/full").json()["result"] == first.json()
    assert client.post("/jobs", {**body, "job_id": "refused"}).status_code == 500
    assert client.get("/jobs/refused").status_code == 404


def test_what_could_not_be_stored_is_stored_later(
    open_client: Callable[..., Client], backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.sessions.owned_rows._PATIENCE", 0.1)
    client = open_client(backend=backend)
    go_on = threading.Event()
    backend.reply(" Hi", go_on)
    db = sqlite3.connect(client.data / "hearth.sqlite", isolation_level=None)
    client.post("/jobs", {"job_id": "q", "meta": {"tokens_limit": 300, "temperature": 0}, "content": "Hi"})
    db.execute("BEGIN IMMEDIATE")
    go_on.set()
    done = in_state(client, "q", "done")
    body = {"prompt": "Hello", "session_id": 9, "max_tokens": 4}
    first = keyed(client, "twice", body)
    assert (first.status_code, keyed(client, "twice", body).json()) == (200, first.json())
    assert len(client.get("/answer/9").json()["messages"]) == 2
    assert db.execute("SELECT id, state FROM jobs").fetchall() == [("job:q", "queued")]
    db.execute("ROLLBACK")
    keyed(client, "next", {"prompt": "Hello", "max_tokens": 1, "memory_k": 0})
    assert done["state"] == "done"
    wanted = {"job:q": "done", "key:twice": "done", "key:next": "done"}
    wait_for(lambda: dict(db.execute("SELECT id, state FROM jobs").fetchall()) == wanted)
    db.close()


def test_keys_take_turns_and_one_cannot_fill_the_line(client: Client, key: str) -> None:
    posted = [client.post("/jobs", {"job_id": f"m{n}", **ENDLESS}).status_code for n in range(256)]
    assert posted.count(503) >= 1
    wait_until_running(client, WORKERS)
    mine = {"job_id": "mine", "meta": {"tokens_limit": 2, "temperature": 0}, "content": "Hi"}
    assert client.post("/jobs", mine, key=key).status_code == 202
    # Those that are computed are stopped; the next in turn is the other key's.
    for n in range(WORKERS):
        client.delete(f"/jobs/m{n}")
    in_state(client, "mine", "done", key=key)
    assert client.get("/jobs/m200").json()["state"] == "queued"
    # The last first, so that none of them has its turn.
    for n in reversed(range(WORKERS, 256)):
        client.delete(f"/jobs/m{n}")
    wait_until_running(client, 0)


def test_neither_keys_nor_what_is_over_stays_on_disk(client: Client) -> None:
    body = {"token": client.key, "inputs": "a secret sentence", "file_name": GUIDE.name, "parameters": {"max_tokens": 2}}
    for _ in range(2):
        sent = client.send("POST", f"{client.url}/api", json=body, headers={"Idempotency-Key": "host"})
        assert sent.status_code == 200
    long = {**ENDLESS, "content": "Tell me more, another secret sentence"}
    for n in range(5):
        client.post("/jobs", {"job_id": f"gone{n}", **long})
    # It was there.
    assert b"another secret sentence" in on_disk(client)
    for n in range(5):
        client.delete(f"/jobs/gone{n}")
    wait_until_running(client, 0)
    left = on_disk(client)
    assert client.key.encode() not in left
    assert b"secret sentence" not in left


def on_disk(client: Client) -> bytes:
    return b"".join(path.read_bytes() for path in client.data.glob("hearth.sqlite*"))


def test_a_job_that_fails_says_why(client: Client) -> None:
    body = {"job_id": "f", "meta": {"model": "nobody"}, "content": "Hello"}
    client.post("/jobs", body)
    failed = in_state(client, "f", "failed")
    assert (failed["error"]["code"], failed["result"]) == ("model_not_found", None)
    client.post("/jobs", {"job_id": "long", "content": "word " * 5000})
    assert in_state(client, "long", "failed")["error"]["code"] == "context_length_exceeded"


def test_a_revoked_keys_jobs_end(client: Client) -> None:
    for n in range(5):
        client.post("/jobs", {"job_id": f"mine{n}", **ENDLESS})
    key, id_ = client.mint()
    client.post("/jobs", {"job_id": "theirs", "content": "Hello"}, key=key)
    client.delete(f"/auth/key/{id_}")
    for n in range(5):
        client.delete(f"/jobs/mine{n}")
    db = sqlite3.connect(client.data / "hearth.sqlite")
    wait_for(lambda: db.execute("SELECT status FROM jobs WHERE id = 'job:theirs'").fetchone() == (401,))
    db.close()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"content": "Hello"}, "job_id"),
        ({"job_id": "", "content": "Hello"}, "job_id"),
        ({"job_id": "a"}, ""),
        ({"job_id": "a", "content": "x", "messages": [{"role": "user", "content": "x"}]}, ""),
        ({"job_id": "a", "content": "x", "meta": {"temperature": "hot"}}, "meta.temperature"),
    ],
)
def test_a_body_that_does_not_fit_gets_422(client: Client, body: Any, param: str) -> None:
    refused = client.post("/jobs", body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, param)


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "hearth.sqlite").write_bytes(b"no table at all" * 100)
    with pytest.raises(DamagedFile, match=r"hearth\.sqlite: is no database of Hearth"):
        JobStore(tmp_path / "hearth.sqlite")
