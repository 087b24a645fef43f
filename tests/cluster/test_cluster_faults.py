"""A cluster whose parts are killed: no word is lost or repeated, and no exchange is stored twice."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.clustering import QUICK, Cluster, Rabbit, Redis, Worker, heartbeats, running, talkative
from tests.support.serving import Server, Stream, child_of, wait_for

# How many kills in a row, under load; a long run is more.
KILLS = int(os.environ.get("HEARTH_KILLS", "4"))
LONG: dict[str, Any] = {"prompt": "Hi", "model": "Random", "max_tokens": 400}


def owner_of(cluster: Cluster, session: int) -> Worker:
    """The worker that has a session of the master's."""
    import redis

    client: Any = redis.Redis.from_url(cluster.redis.url, decode_responses=True)
    name = wait_for(lambda: client.get(f"test{cluster.number}:home:0:{session}"))
    client.close()
    return next(worker for worker in cluster.workers if worker.name == name)


def text_of(events: list[Any]) -> str:
    return "".join(event["chunk"] for event in events if event != "[DONE]" and "chunk" in event)


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 1.2, "seed": 5, "repeat_penalty": 1.1}])
def test_another_worker_goes_on_with_a_killed_one_s_answer(cluster: Cluster, sampling: dict[str, Any]) -> None:
    node = cluster.start(workers=2, config=talkative)
    undisturbed = node.ask(**LONG, **sampling, memory_k=0)["result"]
    stream = Stream(node.post("/answer", {**LONG, **sampling, "session_id": 3, "stream": True}, stream=True))
    events = [stream.next() for _ in range(8)]
    owner_of(cluster, 3).kill()
    events += stream.rest()
    assert events[-1] == "[DONE]"
    last = events[-2]
    assert last["finish_reason"] == "length"
    assert last["usage"]["completion_tokens"] == 400
    assert text_of(events[:-2]).strip() == last["result"] == undisturbed
    said = node.get("/answer/3").json()["messages"]
    assert [message["content"] for message in said] == ["Hi", undisturbed]


def test_a_crash_of_a_worker_s_engine_costs_nothing(cluster: Cluster) -> None:
    node = cluster.start(config=talkative)
    [worker] = cluster.workers
    undisturbed = node.ask(**LONG, temperature=0, memory_k=0)["result"]
    stream = Stream(node.post("/answer", {**LONG, "temperature": 0, "session_id": 3, "stream": True}, stream=True))
    events = [stream.next() for _ in range(5)]
    os.kill(child_of(worker.process), signal.SIGKILL)
    events += stream.rest()
    assert events[-2]["result"] == undisturbed == text_of(events[:-2]).strip()


def test_an_engine_that_crashes_again_and_again_ends_the_answer_with_an_error(cluster: Cluster) -> None:
    node = cluster.start(config=talkative)
    [worker] = cluster.workers
    node.ask("Hi", model="Random", max_tokens=2, memory_k=0)
    stream = Stream(node.post("/answer", {**LONG, "max_tokens": 4000, "session_id": 3, "stream": True}, stream=True))
    stream.next()
    over = threading.Event()

    def crash() -> None:
        while not over.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child_of(worker.process), signal.SIGKILL)
            time.sleep(0.8)

    thread = threading.Thread(target=crash)
    thread.start()
    events = stream.rest()
    over.set()
    thread.join()
    assert events[-1]["error"]["code"] == "engine_crashed"
    assert node.get("/answer/3").status_code == 404
    # Nothing is held any more.
    wait_for(lambda: node.post("/answer", {"prompt": "Hi", "session_id": 3}).status_code == 200)


def test_what_does_not_fit_is_refused_and_logs_no_words(cluster: Cluster) -> None:
    from kombu import Queue

    from services.cluster.broker import make_celery
    from services.cluster.redis_client import RedisClient
    from services.cluster.settings import ClusterSettings
    from services.cluster.streams import Streams

    worker = cluster.worker("Guide", config=talkative, ready=False)
    node = cluster.node(config=talkative)
    named = cluster.environ("test")
    settings = ClusterSettings(
        cluster.rabbit.url, cluster.redis.url, named["REDIS_PREFIX"], named["QUEUE_NAME"], name="test"
    )
    client, app = RedisClient(settings), make_celery(settings)
    streams = Streams(client)
    queue = Queue(heartbeats(cluster)[0].queues[0], queue_arguments={"x-max-priority": 10})
    for n in range(12):
        # More than there are slots: none of them is lost for it.
        streams.open(f"odd{n}", "node1")
        asked = [f"odd{n}", {"file": 3}, {"tokens": "a secret between us"}]
        app.send_task("hearth.generate", asked, task_id=f"odd{n}", queue=queue, ignore_result=True)
    app.close()
    for n in range(12):
        events = wait_for(lambda id_=f"odd{n}": [e for *_, e in streams.read(id_, "0", 10) if "error" in e])  # type: ignore[misc]
        assert events[0]["error"]["code"] == "worker_version"
    client.redis.close()
    assert node.ask("Hi", memory_k=0)["result"]
    assert "secret" not in worker.log()


def test_a_worker_that_is_told_to_stop_ends_what_it_has_begun(cluster: Cluster) -> None:
    node = cluster.start(config=talkative)
    [first] = cluster.workers
    stream = Stream(node.post("/answer", {**LONG, "session_id": 3, "stream": True}, stream=True))
    events = [stream.next() for _ in range(5)]
    second = cluster.worker(config=talkative)
    stopped: list[int] = []
    thread = threading.Thread(target=lambda: stopped.append(first.stop()))
    thread.start()
    wait_for(lambda: "takes nothing new" in first.output)
    # What comes now is the other's.
    assert node.ask("Hi", model="Random", memory_k=0, max_tokens=3)["result"] is not None
    assert thread.is_alive()
    events += stream.rest()
    thread.join()
    assert stopped == [0]
    assert events[-2]["usage"]["completion_tokens"] == 400
    assert [heartbeat.name for heartbeat in heartbeats(cluster)] == [second.name]


def test_a_node_that_dies_is_computed_for_no_longer(cluster: Cluster) -> None:
    # The whole answer would take 80 seconds; its text comes without a break.
    cluster.worker(config=talkative, HEARTH_TESTS_PAUSE="0.02")
    doomed = cluster.start(workers=0, nodes=2, config=talkative)
    node = cluster.nodes[1]
    stream = Stream(doomed.post("/answer", {**LONG, "max_tokens": 4000, "session_id": 3, "stream": True}, stream=True))
    stream.next()
    # Heartbeats tell of it a moment later.
    wait_for(lambda: running(cluster) == 1)
    doomed.kill()
    cluster.nodes.remove(doomed)
    wait_for(lambda: running(cluster) == 0, 60)
    assert node.get("/answer/3").status_code == 404
    # The session is free again, soon.
    assert node.ask("Hi", session_id=3)["result"]


@pytest.fixture
def own_rabbit(tmp_path: Path) -> Any:
    made = Rabbit(tmp_path / "rabbit")
    made.start()
    yield made
    made.close()


@pytest.fixture
def own_redis(tmp_path: Path) -> Any:
    made = Redis(tmp_path / "redis")
    made.start()
    yield made
    made.kill()


def test_what_redis_has_forgotten_is_no_answer(
    tmp_path: Path, rabbit: Rabbit, own_redis: Redis, cluster_models: Path
) -> None:
    cluster = Cluster(tmp_path, rabbit, own_redis, cluster_models, QUICK)
    try:
        node = cluster.start(config=talkative)
        stream = Stream(node.post("/answer", {**LONG, "max_tokens": 4000, "memory_k": 0, "stream": True}, stream=True))
        stream.next()
        own_redis.kill()
        for file in own_redis.folder.glob("appendonlydir/*"):
            file.unlink()
        own_redis.start()
        assert stream.rest()[-1]["error"]["code"] == "request_lost"
        # The keys are gone too; what serves goes on serving.
        wait_for(lambda: node.get("/health").json()["status"] == "ready")
    finally:
        cluster.close()


def test_redis_may_be_away(tmp_path: Path, rabbit: Rabbit, own_redis: Redis, cluster_models: Path) -> None:
    cluster = Cluster(tmp_path, rabbit, own_redis, cluster_models, QUICK)
    try:
        node = cluster.start(config=talkative)
        undisturbed = node.ask(**LONG, temperature=0, memory_k=0)["result"]
        stream = Stream(node.post("/answer", {**LONG, "temperature": 0, "session_id": 3, "stream": True}, stream=True))
        events = [stream.next() for _ in range(4)]
        own_redis.kill()
        refused = node.post("/answer", {"prompt": "Hi"})
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) > 0
        assert refused.json()["error"]["code"] == "redis_unavailable"
        assert node.get("/healthz").status_code == 200
        wait_for(lambda: node.get("/readyz").status_code == 503)
        time.sleep(float(os.environ.get("HEARTH_AWAY", "3")))
        own_redis.start()
        events += stream.rest()
        assert text_of(events[:-2]).strip() == events[-2]["result"] == undisturbed
        wait_for(lambda: node.post("/answer", {"prompt": "Hi", "memory_k": 0}).status_code == 200)
        said = node.get("/answer/3").json()["messages"]
        assert [message["content"] for message in said] == ["Hi", undisturbed]
    finally:
        cluster.close()


def test_the_broker_may_be_away(tmp_path: Path, own_rabbit: Rabbit, redis: Redis, cluster_models: Path) -> None:
    cluster = Cluster(tmp_path, own_rabbit, redis, cluster_models, QUICK)
    try:
        node = cluster.start(config=talkative)
        undisturbed = node.ask(**LONG, temperature=0, memory_k=0)["result"]
        stream = Stream(node.post("/answer", {**LONG, "temperature": 0, "session_id": 3, "stream": True}, stream=True))
        events = [stream.next() for _ in range(4)]
        own_rabbit.kill()
        refused = node.post("/answer", {"prompt": "Hi", "session_id": 4})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "broker_unavailable")
        assert int(refused.headers["Retry-After"]) > 0
        time.sleep(float(os.environ.get("HEARTH_AWAY", "3")))
        own_rabbit.start()
        # What is under way needs no broker.
        events += stream.rest()
        assert text_of(events[:-2]).strip() == events[-2]["result"] == undisturbed
        wait_for(lambda: node.post("/answer", {"prompt": "Hi", "session_id": 4}).status_code == 200, 60)
        assert len(node.get("/answer/4").json()["messages"]) == 2
        assert [each["content"] for each in node.get("/answer/3").json()["messages"]] == ["Hi", undisturbed]
    finally:
        cluster.close()


class Caller(threading.Thread):
    """Talks on a session of its own, through whichever node there is, and checks what it gets."""

    def __init__(self, nodes: list[Server], number: int, expected: dict[int, str], over: threading.Event) -> None:
        super().__init__()
        self.nodes, self.number, self.expected, self.over = nodes, number, expected, over
        self.n_answers = 0
        self.problem = ""

    def run(self) -> None:
        while not self.over.is_set() and not self.problem:
            n = self.n_answers % len(self.expected)
            node = self.nodes[self.n_answers % len(self.nodes)]
            body = {"prompt": f"Hi {n}", "model": "Random", "max_tokens": 60, "temperature": 0, "memory_k": 0}
            reply = node.post("/answer", {**body, "session_id": self.number, "stream": True})
            lines = [line[6:] for line in reply.text.splitlines() if line.startswith("data: ")]
            if reply.status_code != 200 or lines[-1] != "[DONE]":
                self.problem = reply.text[-500:]
            else:
                events = [json.loads(line) for line in lines[:-1]]
                said = "".join(event["chunk"] for event in events[:-1])
                if said.strip() != self.expected[n] or events[-1]["result"] != self.expected[n]:
                    self.problem = f"{said!r} is not {self.expected[n]!r}"
            self.n_answers += 1


def test_workers_are_killed_under_load(cluster: Cluster) -> None:
    rng = random.Random(int(os.environ.get("HEARTH_SEED", "0")))
    cluster.start(workers=3, nodes=2, config=talkative)
    nodes = cluster.nodes
    expected = {
        n: nodes[0].ask(f"Hi {n}", model="Random", max_tokens=60, temperature=0, memory_k=0)["result"] for n in range(3)
    }
    over = threading.Event()
    callers = [Caller(nodes, number, expected, over) for number in range(4)]
    for caller in callers:
        caller.start()
    for _ in range(KILLS):
        time.sleep(rng.uniform(0.5, 2.0))
        victim = rng.choice(cluster.workers)
        victim.kill()
        time.sleep(rng.uniform(0, 0.5))
        victim.start()
    over.set()
    for caller in callers:
        caller.join()
        assert not caller.problem
        assert caller.n_answers
        said = nodes[0].get(f"/answer/{caller.number}").json()["messages"]
        wanted = [text for n in range(caller.n_answers) for text in (f"Hi {n % 3}", expected[n % 3])]
        assert [message["content"] for message in said] == wanted
