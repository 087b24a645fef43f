"""Two API nodes and three workers, over a real RabbitMQ and a real Redis."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.server.test_reading_progress import check, progress_of
from tests.support.clustering import Cluster, heartbeats, running, talkative
from tests.support.serving import Server, Stream, wait_for


def test_any_node_serves_any_caller(shared: Cluster) -> None:
    one, two = shared.nodes
    key, id_ = one.mint("Ana")
    assert two.ask("My name is Ana.", key=key, session_id=1)["result"]
    assert "Ana" in one.ask("What is my name?", key=key, session_id=1)["result"]
    said = two.get("/answer/1", key=key).json()["messages"]
    assert [message["content"] for message in said][::2] == ["My name is Ana.", "What is my name?"]
    assert one.get(f"/answer/{id_}/1").json()["messages"] == said
    assert [each["session_id"] for each in one.get("/sessions?details=1", key=key).json()["sessions"]] == [1]
    usage = two.get("/auth/usage", key=key).json()["usage"]
    assert [row["requests"] for row in usage] == [2]
    two.delete("/answer/1", key=key)
    assert one.get("/answer/1", key=key).status_code == 404
    one.delete(f"/auth/key/{id_}")
    assert two.get("/auth", key=key).status_code == 401


def test_answers_are_those_of_a_server_by_itself(shared: Cluster, server: Server) -> None:
    for question in ("What is the capital of France?", "How do I mint a key?", "Grüße aus Köln 🙂"):
        mine, theirs = (each.ask(question, memory_k=0) for each in (shared.nodes[0], server))
        assert mine["result"] == theirs["result"]
        assert mine["usage"]["prompt_tokens"] == theirs["usage"]["prompt_tokens"]
    asked = {"content": "What is the capital of France?"}
    assert shared.nodes[0].post("/tokenize", asked).json() == server.post("/tokenize", asked).json()
    wanted = {"model": "Guide", "input": "What is the capital of France?"}
    mine, theirs = (each.post("/v1/embeddings", wanted).json()["data"][0] for each in (shared.nodes[1], server))
    assert mine["embedding"] == pytest.approx(theirs["embedding"], abs=1e-3)


def test_a_stream_is_the_answer_in_pieces(shared: Cluster) -> None:
    events = shared.nodes[0].stream("How do I mint a key?", memory_k=0).rest()
    pieces = [event["chunk"] for event in events[:-2] if event["chunk"]]
    assert pieces
    assert "".join(pieces) == shared.nodes[1].ask("How do I mint a key?", memory_k=0)["result"]


def test_many_conversations_at_once_stay_apart(shared: Cluster) -> None:
    answers: dict[int, str] = {}

    def talk(n: int) -> None:
        node = shared.nodes[n % 2]
        node.ask(f"My number is {n}.", session_id=100 + n)
        answers[n] = node.ask("What is my number?", session_id=100 + n)["result"]

    threads = [threading.Thread(target=talk, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 12
    for n in range(12):
        said = shared.nodes[0].get(f"/answer/{100 + n}").json()["messages"]
        assert [message["content"] for message in said][::2] == [f"My number is {n}.", "What is my number?"]
        assert said[3]["content"] == answers[n]


def test_who_hangs_up_is_computed_no_further(shared: Cluster) -> None:
    stream = shared.nodes[0].stream("Hi", model="Random", memory_k=0)
    stream.next()
    wait_for(lambda: running(shared) == 1)
    stream.close()
    wait_for(lambda: running(shared) == 0, 15)


def test_stop_keeps_what_was_said(shared: Cluster) -> None:
    one, two = shared.nodes
    stream = one.stream("Hi", model="Random", session_id=7)
    stream.next()
    # Whichever node is asked to.
    assert two.post("/answer/7/stop").json() == {"stopped": True}
    last = [event for event in stream.rest() if event != "[DONE]"][-1]
    assert last["finish_reason"] == "cancelled"
    assert two.get("/answer/7").json()["messages"][1]["content"] == last["result"]


def test_a_conversation_stays_with_its_worker(shared: Cluster) -> None:
    node = shared.nodes[0]
    node.ask("My name is Ben.", session_id=8)
    for n in range(4):
        usage = shared.nodes[n % 2].ask("What is my name?", session_id=8)["usage"]
        # All but the new turn, and the answer's last words.
        assert usage["cached_tokens"] >= usage["prompt_tokens"] - 25


def test_limits_count_over_all_nodes(shared: Cluster) -> None:
    one, two = shared.nodes
    key, _ = one.mint("Dan", limits={"parallel": 1, "requests_per_minute": 3})
    stream = Stream(two.post("/answer", {"prompt": "Hi", "model": "Random", "stream": True}, key=key, stream=True))
    stream.next()
    assert one.post("/answer", {"prompt": "Hi"}, key=key).status_code == 429
    stream.close()
    wait_for(lambda: one.post("/answer", {"prompt": "Hi"}, key=key).status_code == 200, 15)
    assert two.post("/answer", {"prompt": "Hi"}, key=key).status_code == 200
    refused = one.post("/answer", {"prompt": "Hi"}, key=key)
    assert (refused.status_code, refused.json()["error"]["param"]) == (429, "requests_per_minute")


def test_what_was_asked_under_one_name_is_computed_once(shared: Cluster) -> None:
    one, two = shared.nodes
    names = {"Idempotency-Key": "the same"}
    body = {"prompt": "Hi", "model": "Random", "max_tokens": 60, "temperature": 1}
    replies: list[requests.Response] = []
    threads = [
        threading.Thread(target=lambda node=node: replies.append(node.post("/answer", body, headers=names)))
        for node in (one, two, one, two)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [reply.status_code for reply in replies] == [200] * 4
    assert len({reply.json()["result"] for reply in replies}) == 1
    assert two.post("/answer", {**body, "prompt": "Other"}, headers=names).status_code == 422


def test_a_job_is_told_of_by_any_node(shared: Cluster) -> None:
    one, two = shared.nodes
    made = one.post("/jobs", {"job_id": "j1", "meta": {}, "content": "Say: red fox."})
    assert made.status_code in (200, 202), made.text
    done = wait_for(lambda: (found := two.get("/jobs/j1").json()).get("state") == "done" and found)
    assert done
    two.delete("/jobs/j1")
    assert one.get("/jobs/j1").status_code == 404


def test_a_switch_is_for_all_nodes(shared: Cluster) -> None:
    one, two = shared.nodes
    assert one.post("/models/model", {"model": "guide.gguf", "model_config": "Pirate"}).status_code == 200
    assert two.ask("Hi", memory_k=0)["profile"] == "Pirate"
    assert two.post("/models/model", {"model": "guide.gguf", "model_config": "Guide"}).status_code == 200
    assert one.ask("Hi", memory_k=0)["profile"] == "Guide"
    refused = one.post("/models/model", {"model": "nothing.gguf", "model_config": "Guide"})
    assert refused.status_code == 404
    assert "no worker" in refused.json()["message"]


def test_a_pickled_message_is_refused(shared: Cluster, tmp_path: Path) -> None:
    from kombu import Connection, Exchange
    from kombu.serialization import pickle

    trap = tmp_path / "trap"

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (trap,)

    queue = heartbeats(shared)[0].queues[0]
    with Connection(shared.rabbit.url) as connection:
        connection.Producer().publish(
            pickle.dumps(Evil()),
            exchange=Exchange(""),
            routing_key=queue,
            content_type="application/x-python-serialize",
            content_encoding="binary",
            headers={"task": "hearth.generate", "id": "x", "lang": "py"},
        )
    wait_for(lambda: any("pickle" in worker.log() for worker in shared.workers))
    assert not trap.exists()
    assert shared.nodes[0].ask("Hi", memory_k=0)["result"]


def test_a_draft_is_read_by_the_worker_that_has_the_conversation(shared: Cluster) -> None:
    one, two = shared.nodes
    key, _ = one.mint()
    words = "Here is what I typed before I sent it, word by word, to be read ahead of time. What is my name?"

    def draft(session: int) -> dict[str, Any] | None:
        reply = two.post(f"/answer/{session}/draft", {"prompt": words}, key=key).json()
        return dict(reply) if reply.get("drafted") else None

    # No worker has this one.
    assert draft(2) is None
    one.ask("My name is Ana.", key=key, session_id=1)
    # A worker's heartbeat tells only after a while which models it has loaded.
    reply: dict[str, Any] = wait_for(lambda: draft(1))

    def is_read() -> bool:
        text = one.get("/metrics").text
        (line,) = (each for each in text.splitlines() if each.startswith('hearth_tokens_total{kind="draft"}'))
        return float(line.split()[-1]) >= int(reply["charged_tokens"]) - 4

    wait_for(is_read)
    usage = one.ask(words, key=key, session_id=1)["usage"]
    assert usage["cached_tokens"] >= reply["tokens"] - 1


def test_how_much_of_a_prompt_is_read_is_told_from_the_worker(cluster: Cluster) -> None:
    cluster.worker(config=talkative, HEARTH_TESTS_PAUSE="0.3")
    node = cluster.start(workers=0, config=talkative)
    told, rest = progress_of(node, progress=True)
    check(told, rest[-2]["usage"]["prompt_tokens"])
