"""POST /answer/ID/stop: an answer ends where it is, and keeps what it has said."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support.fake_backend import FakeBackend
from tests.support.in_process import Client
from tests.support.serving import Api, Server, endless_server
from tests.support.tiny import GUIDE


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory, random_model: Path) -> Iterator[Server]:
    """A server whose model goes on talking, one answer at a time; each test has sessions of its own numbers."""
    folder, template = tmp_path_factory.mktemp("stop"), "{chat_history}\n{input}"
    with endless_server(folder, [GUIDE, random_model], template=template) as server:
        yield server


def stop(server: Api, session: int, **more: Any) -> bool:
    return bool(server.post(f"/answer/{session}/stop", **more).json()["stopped"])


def messages(server: Api, session: int) -> list[str]:
    reply = server.get(f"/answer/{session}")
    return [message["content"] for message in reply.json()["messages"]] if reply.ok else []


def test_a_stream_ends_with_what_it_has_said(endless: Server) -> None:
    stream = endless.stream("Go on", session_id=1)
    said = [stream.next() for _ in range(5)]
    assert stop(endless, 1)
    rest = stream.rest()
    assert rest[-1] == "[DONE]"
    summary = rest[-2]
    assert summary["finish_reason"] == "cancelled"
    assert summary["result"].startswith("".join(event["chunk"] for event in said).strip()[:20])
    assert 5 <= summary["usage"]["completion_tokens"] < 4000
    assert messages(endless, 1) == ["Go on", summary["result"]]
    # The next prompt goes on from it, which is read ahead.
    time.sleep(1)
    assert endless.ask("And then?", session_id=1, max_tokens=2)["usage"]["cached_tokens"] > 5
    assert not stop(endless, 1)


def test_an_answer_that_does_not_stream_comes_as_far_as_it_got(endless: Server) -> None:
    got: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: got.append(endless.ask("Go on", session_id=2)))
    asking.start()
    deadline = time.monotonic() + 20
    while not endless.get("/status").json()["answers"]["running"]:
        assert time.monotonic() < deadline
    time.sleep(0.3)
    assert stop(endless, 2)
    asking.join(20)
    assert got[0]["finish_reason"] == "cancelled"
    assert messages(endless, 2) == ["Go on", got[0]["result"]]


def test_what_is_stopped_in_the_queue_never_happened(endless: Server) -> None:
    second: list[dict[str, Any]] = []
    running = endless.stream("Go on", session_id=3)
    running.next()
    waiting = endless.stream("Me too", session_id=4)
    assert waiting.next()["queue_position"] == 1
    asked = threading.Thread(target=lambda: second.append(endless.ask("And another", session_id=3)))
    asked.start()
    time.sleep(0.3)
    assert stop(endless, 4)
    assert waiting.rest()[-2]["finish_reason"] == "cancelled"
    assert messages(endless, 4) == []
    # All that its session waits for.
    assert stop(endless, 3)
    assert running.rest()[-2]["finish_reason"] == "cancelled"
    asked.join(20)
    assert (second[0]["result"], second[0]["finish_reason"]) == ("", "cancelled")
    assert messages(endless, 3)[0] == "Go on"
    assert len(messages(endless, 3)) == 2


def test_while_a_prompt_is_read_it_stops_at_once(endless: Server) -> None:
    stream = endless.stream("word " * 3000, session_id=5)
    deadline = time.monotonic() + 20
    while not endless.get("/status").json()["answers"]["running"]:
        assert time.monotonic() < deadline
    begun = time.monotonic()
    assert stop(endless, 5)
    summary = stream.rest()[-2]
    assert time.monotonic() - begun < 5
    assert (summary["result"], summary["finish_reason"]) == ("", "cancelled")
    assert messages(endless, 5) == []


def test_an_earlier_answer_stays_where_a_new_one_never_began(endless: Server) -> None:
    first = endless.ask("Say something", session_id=6, max_tokens=3)["result"]
    holding = endless.stream("Go on", session_id=7)
    holding.next()
    again = endless.stream("Say something", session_id=6, keep=0)
    assert again.next()["queue_position"] == 1
    assert stop(endless, 6)
    again.rest()
    assert messages(endless, 6) == ["Say something", first]
    holding.close()
    again = endless.stream("Say something", session_id=6, keep=0)
    again.next()
    assert stop(endless, 6)
    result = again.rest()[-2]["result"]
    assert messages(endless, 6) == ["Say something", result]


def test_a_request_with_a_name_stops_too(endless: Server) -> None:
    headers = {"Idempotency-Key": "talk"}
    body = {"prompt": "Go on", "session_id": 8, "stream": True}
    first = endless.post("/answer", body, headers=headers, stream=True)
    next(first.iter_lines(chunk_size=1))
    first.close()
    assert stop(endless, 8)
    again = endless.post("/answer", body, headers=headers)
    assert '"finish_reason": "cancelled"' in again.text
    assert len(messages(endless, 8)) == 2


def test_openais_clients_see_an_end_that_they_know(endless: Server) -> None:
    said: list[Any] = [{"role": "user", "content": "Go on"}]
    reasons = []
    with openai.OpenAI(base_url=f"{endless.url}/v1", api_key=endless.key) as client:
        stream = client.chat.completions.create(model="Random", messages=said, stream=True, extra_body={"session_id": 9})
        for n, chunk in enumerate(stream):
            reasons += [choice.finish_reason for choice in chunk.choices if choice.finish_reason]
            if n == 5:
                assert stop(endless, 9)
    assert reasons == ["length"]
    assert len(messages(endless, 9)) == 2


def test_nobody_stops_anothers(endless: Server) -> None:
    stream = endless.stream("Go on", session_id=10)
    stream.next()
    assert not stop(endless, 10, key=endless.mint()[0])
    stream.next()
    assert stop(endless, 10)
    assert endless.post("/answer/x/stop").status_code == 404
    assert not stop(endless, 999)


def test_json_beside_tools_is_an_answer_like_any_other(client: Client, backend: FakeBackend) -> None:
    """Only half a call is none: what is whole and calls nothing is stored."""
    said = '{"colour": "red", "size": 5}'
    backend.reply(said)
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    asked = {"messages": [{"role": "user", "content": "Which?"}], "tools": [tool], "session_id": 1}
    reply = client.post("/v1/chat/completions", {**asked, "temperature": 0, "max_tokens": 100})
    assert reply.json()["choices"][0]["message"]["content"] == said
    assert messages(client, 1) == ["Which?", said]
