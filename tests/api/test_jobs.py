"""Requests that are computed once, jobs that nobody waits for, and ProtoLLM's own client."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from protollm_sdk.jobs.llm_api import LLMAPI
from protollm_sdk.models.job_context_models import ChatCompletionModel, ChatCompletionUnit, PromptMeta, PromptModel

from services.errors import DamagedFile
from services.jobs.store import JobStore
from tests.support.serving import Server, Stream

RANDOM = {"temperature": 1.5, "max_tokens": 24, "memory_k": 0}


@pytest.fixture
def slow(serve: Callable[..., Server], models: Path) -> Server:
    """A server whose model goes on talking until it is stopped."""
    server = serve(models=models)
    server.edit_config(model="random.gguf", max_tokens=1500, temperature=0, n_ctx=2048)
    server.ask("Hello", max_tokens=1, memory_k=0)
    return server


def keyed(server: Server, name: str, body: dict[str, Any], path: str = "/answer", **options: Any) -> requests.Response:
    return server.post(path, body, headers={"Idempotency-Key": name}, **options)


def wait_for(server: Server, job: str, *states: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while True:
        status: dict[str, Any] = server.get(f"/jobs/{job}").json()
        if status.get("state") in states:
            return status
        assert time.monotonic() < deadline, status
        time.sleep(0.05)


def test_a_request_sent_twice_is_computed_once(server: Server) -> None:
    body = {"prompt": "Hello", "session_id": 7001, **RANDOM, "memory_k": 5}
    first = keyed(server, "once", body)
    again = keyed(server, "once", body)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    assert ("Idempotent-Replayed" in first.headers, again.headers["Idempotent-Replayed"]) == (False, "true")
    assert len(server.get("/answer/7001").json()["messages"]) == 2


def test_another_request_of_the_same_name_is_refused(server: Server) -> None:
    keyed(server, "taken", {"prompt": "Hello", **RANDOM})
    for path, body in (("/answer", {"prompt": "Bye", **RANDOM}), ("/v1/completions", {"prompt": "Hello"})):
        refused = keyed(server, "taken", body, path)
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "name_taken")
        assert "taken was sent before" in refused.json()["message"]


def test_names_are_of_their_key(server: Server) -> None:
    key, _ = server.mint()
    first = keyed(server, "mine", {"prompt": "Hello", **RANDOM})
    other = keyed(server, "mine", {"prompt": "Who are you?", **RANDOM}, key=key)
    assert (first.status_code, other.status_code) == (200, 200)
    assert server.get("/jobs/mine").status_code == 404


@pytest.mark.parametrize("name", ["", "x" * 257])
def test_a_bad_name_is_refused(server: Server, name: str) -> None:
    refused = keyed(server, name, {"prompt": "Hello"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "Idempotency-Key")


def test_chats_and_texts_are_computed_once_too(server: Server) -> None:
    chat = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 1.5, "max_tokens": 24}
    for path, body in (("/v1/chat/completions", chat), ("/v1/completions", {"prompt": "Hello", "temperature": 1.5})):
        first, again = (keyed(server, path, body, path).json() for _ in range(2))
        assert first == again
        streamed = [keyed(server, f"{path}-streamed", {**body, "stream": True}, path).text for _ in range(2)]
        assert streamed[0] == streamed[1]
        assert streamed[0].endswith("data: [DONE]\n\n")


def test_what_fails_is_computed_again(server: Server) -> None:
    bad = {"prompt": "Hello", "max_tokens": 8, "stop": ["x"], "memory_k": 0}
    too_long = {"prompt": "word " * 5000}
    assert keyed(server, "failing", too_long).status_code == 400
    assert keyed(server, "failing", bad).status_code == 200


def test_two_at_once_follow_the_same_stream(slow: Server) -> None:
    body = {"prompt": "Tell", "stream": True, "max_tokens": 120, "memory_k": 0}
    first = Stream(keyed(slow, "both", body, stream=True))
    head = [first.next() for _ in range(5)]
    second = Stream(keyed(slow, "both", body, stream=True))
    assert [second.next() for _ in range(5)] == head
    assert first.rest() == second.rest()


def test_who_hangs_up_finds_the_rest_on_coming_back(slow: Server) -> None:
    body = {"prompt": "Tell", "stream": True, "max_tokens": 150, "session_id": 1}
    first = Stream(keyed(slow, "back", body, stream=True))
    head = [first.next() for _ in range(3)]
    first.close()
    time.sleep(1)
    events = Stream(keyed(slow, "back", body, stream=True)).rest()
    assert events[:3] == head
    assert events[-1] == "[DONE]"
    assert len(slow.get("/answer/1").json()["messages"]) == 2


def test_an_answer_outlives_the_server(serve: Callable[..., Server]) -> None:
    server = serve()
    body = {"prompt": "Hello", "session_id": 1, **RANDOM}
    first = keyed(server, "kept", body).json()
    server.stop()
    again = serve(data=server.data)
    again.key = server.key
    assert keyed(again, "kept", body).json() == first
    assert (server.data / "hearth.sqlite").stat().st_mode & 0o077 == 0


def test_jobs_are_computed_in_their_turn(slow: Server) -> None:
    content = {"meta": {"tokens_limit": 40, "temperature": 0}, "content": "Tell me"}
    for n in range(6):
        posted = slow.post("/jobs", {"job_id": f"j{n}", **content})
        assert (posted.status_code, posted.json()["job_id"]) == (202, f"j{n}")
    long = {"meta": {"tokens_limit": 1400, "temperature": 0}, "content": "Tell me more"}
    # More than are done while they are sent on a busy machine.
    for n in range(12):
        slow.post("/jobs", {"job_id": f"long{n}", **long})
    last = slow.get("/jobs/long11").json()
    assert (last["state"], last["place"] >= 1) == ("queued", True)
    for n in range(6):
        done = wait_for(slow, f"j{n}", "done")
        assert done["result"]["content"]
        assert done["finished"] >= done["created"]
    # The same job, followed by one who waits.
    again = slow.post("/generate", {"job_id": "j0", **content})
    assert again.json() == wait_for(slow, "j0", "done")["result"]
    for n in range(12):
        assert slow.delete(f"/jobs/long{n}").json() == {"deleted": True}
        assert slow.get(f"/jobs/long{n}").status_code == 404
    # Nothing of what was stopped goes on.
    assert (
        slow.post(
            "/generate", {"job_id": "after", "meta": {"tokens_limit": 2, "temperature": 0}, "content": "Hi"}
        ).status_code
        == 200
    )


def test_who_follows_a_job_that_is_stopped_is_told(slow: Server) -> None:
    long = {"meta": {"tokens_limit": 1400, "temperature": 0}, "content": "Tell me"}
    for n in range(5):
        slow.post("/jobs", {"job_id": f"stop{n}", **long})
    told: list[int] = []

    def follow(job: str) -> None:
        told.append(slow.post("/generate", {"job_id": job, **long}).status_code)

    threads = [threading.Thread(target=follow, args=(f"stop{n}",)) for n in (0, 4)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    for n in range(5):
        assert slow.delete(f"/jobs/stop{n}").status_code == 200
    for thread in threads:
        thread.join(timeout=20)
    assert told == [404, 404]


def test_what_cannot_be_stored_is_told_all_the_same(slow: Server) -> None:
    slow.post("/generate", {"job_id": "before", "meta": {"tokens_limit": 2, "temperature": 0}, "content": "Hi"})
    with sqlite3.connect(slow.data / "hearth.sqlite") as db:
        # As a full disk would: nothing more can be written.
        db.execute("CREATE TRIGGER full BEFORE INSERT ON jobs BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    db.close()
    body = {"job_id": "full", "meta": {"tokens_limit": 8, "temperature": 0}, "content": "Hi"}
    first = slow.post("/generate", body)
    assert first.status_code == 200
    assert slow.post("/generate", body).json() == first.json()
    assert slow.get("/jobs/full").json()["result"] == first.json()
    assert slow.post("/jobs", {**body, "job_id": "refused"}).status_code == 500
    assert slow.get("/jobs/refused").status_code == 404


def test_a_job_that_somebody_waited_for_is_durable_too(serve: Callable[..., Server], slow: Server) -> None:
    body = {"job_id": "d", "meta": {"tokens_limit": 700, "temperature": 0}, "content": "Tell me"}
    with pytest.raises(requests.exceptions.ReadTimeout):
        requests.post(f"{slow.url}/generate", json=body, headers={"Authorization": slow.key}, timeout=0.5)
    assert slow.post("/jobs", body).status_code == 202
    slow.kill()
    again = serve(data=slow.data, models=slow.models)
    again.key = slow.key
    assert wait_for(again, "d", "done")["result"]["content"]


def test_what_could_not_be_stored_is_stored_later(slow: Server) -> None:
    db = sqlite3.connect(slow.data / "hearth.sqlite", isolation_level=None)
    slow.post("/jobs", {"job_id": "q", "meta": {"tokens_limit": 300, "temperature": 0}, "content": "Hi"})
    db.execute("BEGIN IMMEDIATE")
    done = wait_for(slow, "q", "done")
    body = {"prompt": "Hello", "session_id": 9, "max_tokens": 4}
    first = keyed(slow, "twice", body)
    assert (first.status_code, keyed(slow, "twice", body).json()) == (200, first.json())
    assert len(slow.get("/answer/9").json()["messages"]) == 2
    db.execute("ROLLBACK")
    db.close()
    keyed(slow, "next", {"prompt": "Hello", "max_tokens": 1, "memory_k": 0})
    assert done["state"] == "done"
    wanted = {"job:q": "done", "key:twice": "done", "key:next": "done"}
    rows: dict[str, str] = {}
    deadline = time.monotonic() + 20
    while rows != wanted and time.monotonic() < deadline:
        with sqlite3.connect(slow.data / "hearth.sqlite") as db:
            rows = dict(db.execute("SELECT id, state FROM jobs").fetchall())
        db.close()
        time.sleep(0.1)
    assert rows == wanted


def test_keys_take_turns_and_one_cannot_fill_the_line(slow: Server) -> None:
    long = {"meta": {"tokens_limit": 1400, "temperature": 0}, "content": "Tell me"}
    refused = [slow.post("/jobs", {"job_id": f"m{n}", **long}).status_code for n in range(256)]
    assert refused.count(503) >= 1
    key, _ = slow.mint()
    posted = slow.post("/jobs", {"job_id": "mine", "meta": {"tokens_limit": 2, "temperature": 0}, "content": "Hi"}, key=key)
    assert posted.status_code == 202
    # Those that are computed are stopped; the next in turn is the other key's.
    for n in range(4):
        slow.delete(f"/jobs/m{n}")
    deadline = time.monotonic() + 30
    while slow.get("/jobs/mine", key=key).json()["state"] != "done":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert slow.get("/jobs/m200").json()["state"] == "queued"


def test_neither_keys_nor_what_is_over_stays_on_disk(slow: Server) -> None:
    body = {"token": slow.key, "inputs": "a secret sentence", "file_name": "random.gguf", "parameters": {"max_tokens": 2}}
    for _ in range(2):
        sent = requests.post(f"{slow.url}/api", json=body, headers={"Idempotency-Key": "host"}, timeout=60)
        assert sent.status_code == 200
    long = {"meta": {"tokens_limit": 1400, "temperature": 0}, "content": "another secret sentence"}
    for n in range(5):
        slow.post("/jobs", {"job_id": f"gone{n}", **long})
    for n in range(5):
        slow.delete(f"/jobs/gone{n}")
    left = b"".join(path.read_bytes() for path in slow.data.glob("hearth.sqlite*"))
    assert slow.key.encode() not in left
    assert b"secret sentence" not in left


def test_followers_leave_threads_for_others(serve: Callable[..., Server], models: Path) -> None:
    server = serve("--threads", "12", "--reserve", "6", models=models)
    server.edit_config(model="random.gguf", max_tokens=1500, temperature=0, n_ctx=2048)
    server.ask("Hello", max_tokens=1, memory_k=0)
    body = {"prompt": "Tell", "max_tokens": 1200, "memory_k": 0}
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(keyed(server, "same", body).status_code)) for _ in range(14)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    assert server.get("/health").elapsed.total_seconds() < 1
    for thread in threads:
        thread.join()
    assert {*statuses} == {200, 503}


def test_a_server_that_cannot_listen_leaves_the_jobs_alone(serve: Callable[..., Server], slow: Server) -> None:
    slow.post("/jobs", {"job_id": "one", "meta": {"tokens_limit": 900, "temperature": 0}, "content": "Hi"})
    with pytest.raises(AssertionError, match="another program has port"):
        serve("--port", slow.url.rsplit(":", 1)[1], data=slow.data, models=slow.models)
    wait_for(slow, "one", "done")
    with sqlite3.connect(slow.data / "hearth.sqlite") as db:
        assert db.execute("SELECT count(*) FROM jobs").fetchone() == (1,)
    db.close()


def test_a_second_server_leaves_the_jobs_of_the_first_alone(serve: Callable[..., Server], slow: Server) -> None:
    slow.post("/jobs", {"job_id": "one", "meta": {"tokens_limit": 900, "temperature": 0}, "content": "Hi"})
    other = serve("--log-level", "INFO", data=slow.data, models=slow.models)
    other.key = slow.key
    wait_for(slow, "one", "done")
    with sqlite3.connect(slow.data / "hearth.sqlite") as db:
        assert db.execute("SELECT count(*) FROM jobs").fetchone() == (1,)
    db.close()


def test_jobs_go_on_after_a_kill(serve: Callable[..., Server], slow: Server) -> None:
    for n in range(6):
        slow.post("/jobs", {"job_id": f"k{n}", "meta": {"tokens_limit": 300, "temperature": 0}, "content": f"Tell me {n}"})
    time.sleep(0.3)
    slow.kill()
    again = serve(data=slow.data, models=slow.models)
    again.key = slow.key
    for n in range(6):
        assert wait_for(again, f"k{n}", "done")["result"]["content"]


def test_jobs_go_on_after_a_stop(serve: Callable[..., Server], slow: Server) -> None:
    slow.post("/jobs", {"job_id": "s", "meta": {"tokens_limit": 1000, "temperature": 0}, "content": "Tell me"})
    wait_for(slow, "s", "running")
    assert slow.stop() == 0
    again = serve(data=slow.data, models=slow.models)
    again.key = slow.key
    assert wait_for(again, "s", "done")["result"]["content"]


def test_a_job_that_fails_says_why(server: Server) -> None:
    body = {"job_id": "f", "meta": {"model": "nobody"}, "content": "Hello"}
    server.post("/jobs", body)
    failed = wait_for(server, "f", "failed")
    assert (failed["error"]["code"], failed["result"]) == ("model_not_found", None)
    server.post("/jobs", {"job_id": "long", "content": "word " * 5000})
    assert wait_for(server, "long", "failed")["error"]["code"] == "prompt_too_long"


def test_a_revoked_keys_jobs_end(slow: Server) -> None:
    for n in range(5):
        slow.post("/jobs", {"job_id": f"mine{n}", "meta": {"tokens_limit": 1000, "temperature": 0}, "content": "Tell me"})
    key, id_ = slow.mint()
    slow.post("/jobs", {"job_id": "theirs", "content": "Hello"}, key=key)
    slow.delete(f"/auth/key/{id_}")
    for n in range(5):
        slow.delete(f"/jobs/mine{n}")
    with sqlite3.connect(slow.data / "hearth.sqlite") as db:
        deadline = time.monotonic() + 30
        while db.execute("SELECT status FROM jobs WHERE id = 'job:theirs'").fetchone() != (401,):
            assert time.monotonic() < deadline
            time.sleep(0.1)
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
def test_a_body_that_does_not_fit_gets_422(server: Server, body: Any, param: str) -> None:
    refused = server.post("/jobs", body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, param)


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "hearth.sqlite").write_bytes(b"no table at all" * 100)
    with pytest.raises(DamagedFile, match=r"hearth\.sqlite: is no database of Hearth"):
        JobStore(tmp_path / "hearth.sqlite")


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
class TestProtoLLM:
    """Its own client, unchanged. It sends no header, and takes the key in its host."""

    @pytest.fixture
    def client(self, server: Server) -> LLMAPI:
        host, _, port = server.url.removeprefix("http://").partition(":")
        return LLMAPI(f"hearth:{server.key}@{host}", port)

    def test_it_generates(self, client: LLMAPI, server: Server) -> None:
        request = PromptModel(job_id="p1", meta=PromptMeta(temperature=1.5, tokens_limit=24), content="Hello")
        first = client.inference(request)
        assert first.content
        assert client.inference(request).content == first.content
        assert server.get("/jobs/p1").json()["result"] == {"content": first.content}

    def test_it_chats(self, client: LLMAPI) -> None:
        said = [
            ChatCompletionUnit(role="user", content="My name is Ana."),
            ChatCompletionUnit(role="assistant", content="Nice to meet you, Ana."),
            ChatCompletionUnit(role="user", content="What is the capital of France?"),
        ]
        request = ChatCompletionModel(job_id="p2", meta=PromptMeta(temperature=0), messages=said)
        assert "Paris" in client.chat_completion(request, queue_name="any").content

    def test_it_is_told_what_was_wrong(self, client: LLMAPI) -> None:
        client.inference(PromptModel(job_id="p3", meta=PromptMeta(), content="Hello"))
        with pytest.raises(Exception, match="p3 was sent before, with another request"):
            client.inference(PromptModel(job_id="p3", meta=PromptMeta(), content="Bye"))
        with pytest.raises(Exception, match="tokens"):
            client.inference(PromptModel(job_id="p4", meta=PromptMeta(), content="word " * 5000))

    def test_many_send_the_same_at_once(self, client: LLMAPI, server: Server) -> None:
        request = PromptModel(job_id="p5", meta=PromptMeta(temperature=1.5, tokens_limit=40), content="Tell me")
        contents: list[str] = []
        threads = [threading.Thread(target=lambda: contents.append(client.inference(request).content)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(contents) == 8
        assert len(set(contents)) == 1
