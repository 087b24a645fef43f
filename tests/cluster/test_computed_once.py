"""The same in a cluster: a request's name stands in Redis with its exchange, and what a key keeps is counted there."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

from services.cluster.redis_client import RedisClient
from services.cluster.settings import read_cluster
from services.cluster.stores.jobs import RedisJobTable
from services.errors import Unprocessable
from services.jobs.store import KEPT_FOR, JobKey, JobRequest, Reply, StoredJob
from services.prompts.form import Exchange
from services.sessions.history import MASTER, SessionKey
from services.sessions.service import Sessions
from services.sessions.table import Answered, Kept, RequestName
from tests.support.clustering import Cluster

# Of the library that keeps the messages, at its first import.
pytestmark = pytest.mark.filterwarnings("ignore:`langchain-community` is being sunset:DeprecationWarning")
TOLD = {
    "model": "guide.gguf",
    "profile": "Guide",
    "finish_reason": "stop",
    "usage": {"prompt_tokens": 5, "cached_tokens": 0, "completion_tokens": 7},
    "timings": {"total_ms": 8.5},
}


def client_of(cluster_environ: dict[str, str]) -> RedisClient:
    settings = read_cluster(cluster_environ)
    assert settings
    return RedisClient(settings)


@pytest.fixture
def redis_client(redis_url: str) -> RedisClient:
    environ = {"CELERY_BROKER_URL": "amqp://nobody", "CELERY_RESULT_BACKEND": redis_url}
    return client_of({**environ, "REDIS_PREFIX": f"once{time.time_ns()}", "NODE_NAME": "node"})


def sessions_of(redis_client: RedisClient) -> Sessions:
    from services.cluster.stores.sessions import RedisSessionTable

    return Sessions(Path(), RedisSessionTable(redis_client))


def test_an_exchange_is_stored_once_with_its_requests_name(redis_client: RedisClient) -> None:
    key = SessionKey("ab12", 1)
    names = [RequestName(f"key:{n}", f"digest {n}") for n in range(3)]
    for n, name in enumerate(names):
        for node in (sessions_of(redis_client), sessions_of(redis_client)):
            node.history(key).add_exchange(Exchange(f"q{n}", f"ä{n}"), request=Answered(name, TOLD))
    sessions = sessions_of(redis_client)
    history = sessions.history(key)
    assert history.count() == 6
    assert [history.answered(name) for name in names] == [(f"ä{n}", TOLD) for n in range(3)]
    with pytest.raises(Unprocessable, match="0 was sent before"):
        history.answered(RequestName("key:0", "another"))
    assert sessions.kept("ab12") == Kept(1, 15)
    sessions.settle("ab12", "1", "key:0")
    assert history.answered(names[0]) is None
    history.add_exchange(Exchange("q", "a"), keep=4)
    assert [history.answered(name) for name in names] == [None, ("ä1", TOLD), None]
    # The branch that was left counts too.
    assert sessions.kept("ab12") == Kept(1, 17)
    history.clear()
    assert (sessions.kept("ab12"), history.answered(names[1])) == (Kept(), None)
    sessions.history(SessionKey(MASTER, 1)).add_exchange(Exchange("q", "a"))
    assert sessions.kept(MASTER) == Kept(1, 2)


def test_jobs_are_counted_until_they_are_forgotten(redis_client: RedisClient, monkeypatch: pytest.MonkeyPatch) -> None:
    table = RedisJobTable(redis_client, "node")

    def add(id_: str, finished: float | None, body: bytes = b"12345", reply: bytes = b"123") -> None:
        request = JobRequest("/generate", body, "digest")
        told = Reply(200, "text/plain", reply) if finished else None
        table.add(StoredJob(JobKey("a", id_), request, "done" if finished else "queued", 0.0, finished, told))

    add("one", None)
    add("two", None)
    assert table.kept("a") == Kept(2, 10)
    add("one", time.time())
    assert table.kept("a") == Kept(2, 8)
    table.remove(JobKey("a", "two"))
    assert table.kept("a") == Kept(1, 3)
    later = time.time() + KEPT_FOR + 1
    monkeypatch.setattr("services.cluster.stores.jobs.time.time", lambda: later)
    assert table.kept("a") == Kept()


def test_what_a_killed_node_has_stored_is_what_another_answers(shared: Cluster) -> None:
    cluster, node = shared, shared.nodes[0]
    body: dict[str, Any] = {"prompt": "My name is Ana.", "session_id": 55}
    digest = hashlib.sha256(b"/answer\0" + json.dumps(body, sort_keys=True).encode()).hexdigest()
    # As a node leaves it that is killed before it has kept the reply.
    history = sessions_of(client_of(cluster.environ("gone"))).history(SessionKey(MASTER, 55))
    stored = Answered(RequestName("key:lost", digest), {**TOLD, "messages_in_prompt": 1, "messages_left_out": 0})
    history.add_exchange(Exchange("My name is Ana.", "Said before the kill."), request=stored)
    replies = [node.post("/answer", body, headers={"Idempotency-Key": "lost"}) for _ in range(2)]
    assert [reply.json()["result"] for reply in replies] == ["Said before the kill."] * 2
    assert replies[0].json() == replies[1].json()
    assert replies[0].json()["usage"] == TOLD["usage"]
    assert history.count() == 2
    # Its reply is kept now, and the session need not know it.
    assert history.answered(stored.name) is None


def test_caps_hold_in_a_cluster(shared: Cluster) -> None:
    node = shared.nodes[0]
    key, _ = node.mint(limits={"sessions": 2})
    statuses = [
        node.post("/answer", {"prompt": "Hi", "session_id": n, "max_tokens": 2}, key=key).status_code for n in (1, 2, 3, 1)
    ]
    assert statuses == [200, 200, 403, 200]
    assert node.delete("/answer/1", key=key).status_code == 200
    assert node.post("/answer", {"prompt": "Hi", "session_id": 3, "max_tokens": 2}, key=key).status_code == 200
