"""Jobs of real servers: over kills and stops, for clients that hang up, and for ProtoLLM's own client."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from protollm_sdk.jobs.llm_api import LLMAPI
from protollm_sdk.models.job_context_models import ChatCompletionModel, ChatCompletionUnit, PromptMeta, PromptModel

from tests.support.serving import Server, Stream, endless_server, wait_for
from tests.support.tiny import GUIDE


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, light_model: Path) -> Iterator[Server]:
    """A server of few threads whose model goes on talking; each test has jobs and sessions of its own."""
    flags = ("--threads", "12", "--reserve", "6")
    with endless_server(tmp_path_factory.mktemp("jobs"), [GUIDE, light_model], *flags) as server:
        yield server


@pytest.fixture
def slow(serve: Callable[..., Server], models: Path) -> Server:
    """A server of the test's own whose model goes on talking, with as many answers at once as jobs are computed."""
    return serve(models=models, endless={"n_parallel": 4})


def keyed(server: Server, name: str, body: dict[str, Any], path: str = "/answer", **options: Any) -> requests.Response:
    return server.post(path, body, headers={"Idempotency-Key": name}, **options)


def job(name: str, n_tokens: int, content: str = "Tell me") -> dict[str, Any]:
    return {"job_id": name, "meta": {"tokens_limit": n_tokens, "temperature": 0}, "content": content}


def in_state(server: Server, name: str, state: str) -> dict[str, Any]:
    """Wait until a job is in a state; return its description."""

    def look() -> dict[str, Any] | None:
        status: dict[str, Any] = server.get(f"/jobs/{name}").json()
        return status if status.get("state") == state else None

    return dict(wait_for(look, 60))


def stored_jobs(server: Server) -> set[str]:
    """The names of all jobs on the disk."""
    db = sqlite3.connect(server.data / "hearth.sqlite")
    names = [name for (name,) in db.execute("SELECT id FROM jobs")]
    db.close()
    assert len(names) == len({*names})
    return {*names}


def test_who_hangs_up_finds_the_rest_on_coming_back(shared: Server) -> None:
    body = {"prompt": "Tell", "stream": True, "max_tokens": 150, "session_id": 1}
    first = Stream(keyed(shared, "back", body, stream=True))
    head = [first.next() for _ in range(3)]
    first.close()
    time.sleep(1)
    events = Stream(keyed(shared, "back", body, stream=True)).rest()
    assert events[:3] == head
    assert events[-1] == "[DONE]"
    assert len(shared.get("/answer/1").json()["messages"]) == 2


def test_followers_leave_threads_for_others(shared: Server) -> None:
    body = {"prompt": "Tell", "max_tokens": 800, "memory_k": 0}
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(keyed(shared, "same", body).status_code)) for _ in range(14)]
    for thread in threads:
        thread.start()
    # The others follow, on all the threads that answers may take.
    wait_for(lambda: len(statuses) == 14 - 6)
    assert shared.get("/health").elapsed.total_seconds() < 1
    assert {*statuses} == {503}
    for thread in threads:
        thread.join()
    assert {*statuses} == {200, 503}
    # The reply is stored behind its end.
    wait_for(lambda: "key:same" in stored_jobs(shared))


def test_a_server_that_cannot_listen_leaves_the_jobs_alone(serve: Callable[..., Server], shared: Server) -> None:
    before = stored_jobs(shared)
    shared.post("/jobs", job("one", 900, "Hi"))
    with pytest.raises(AssertionError, match="another program has port"):
        serve("--port", shared.url.rsplit(":", 1)[1], data=shared.data, models=shared.models)
    in_state(shared, "one", "done")
    assert stored_jobs(shared) == before | {"job:one"}


def test_a_second_server_leaves_the_jobs_of_the_first_alone(serve: Callable[..., Server], shared: Server) -> None:
    before = stored_jobs(shared)
    shared.post("/jobs", job("two", 900, "Hi"))
    serve("--log-level", "INFO", data=shared.data, models=shared.models)
    in_state(shared, "two", "done")
    assert stored_jobs(shared) == before | {"job:two"}


def test_an_answer_outlives_the_server(serve: Callable[..., Server]) -> None:
    server = serve()
    body = {"prompt": "Hello", "session_id": 1, "temperature": 1.5, "max_tokens": 24, "memory_k": 0}
    first = keyed(server, "kept", body).json()
    server.stop()
    again = serve(data=server.data)
    again.key = server.key
    assert keyed(again, "kept", body).json() == first
    assert (server.data / "hearth.sqlite").stat().st_mode & 0o077 == 0


def test_a_job_that_somebody_waited_for_is_durable_too(serve: Callable[..., Server], slow: Server) -> None:
    body = job("d", 700)
    with pytest.raises(requests.exceptions.ReadTimeout):
        requests.post(f"{slow.url}/generate", json=body, headers={"Authorization": slow.key}, timeout=0.5)
    assert slow.post("/jobs", body).status_code == 202
    slow.kill()
    again = serve(data=slow.data, models=slow.models)
    again.key = slow.key
    assert in_state(again, "d", "done")["result"]["content"]


def test_jobs_go_on_after_a_kill(serve: Callable[..., Server], slow: Server) -> None:
    for n in range(6):
        slow.post("/jobs", job(f"k{n}", 150, f"Tell me {n}"))
    time.sleep(0.3)
    slow.kill()
    again = serve(data=slow.data, models=slow.models)
    again.key = slow.key
    for n in range(6):
        assert in_state(again, f"k{n}", "done")["result"]["content"]


def test_jobs_go_on_after_a_stop(serve: Callable[..., Server], slow: Server) -> None:
    slow.post("/jobs", job("s", 600))
    in_state(slow, "s", "running")
    assert slow.stop() == 0
    again = serve(data=slow.data, models=slow.models)
    again.key = slow.key
    assert in_state(again, "s", "done")["result"]["content"]


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
