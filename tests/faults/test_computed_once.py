"""kill -9 between an exchange's record in the journal and its reply in hearth.sqlite: what was named is computed once."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from services.errors import Unprocessable
from services.prompts.form import Exchange
from services.sessions.history import MASTER, SessionKey
from services.sessions.service import Sessions
from services.sessions.table import Answered, RequestName
from tests.support.serving import Server, in_threads

CHAT = "/v1/chat/completions"


def requests_of_all_kinds() -> list[tuple[str, str, dict[str, Any]]]:
    """A name, a path and a body for each: eight sessions, by every endpoint that has such."""
    kinds: list[tuple[str, dict[str, Any]]] = []
    for n in range(8):
        said = {"session_id": n, "temperature": 1.0, "seed": n}
        words = f"My number is {n}."
        kinds += [
            [
                ("/answer", {"prompt": words, **said}),
                ("/answer", {"prompt": words, "stream": True, **said}),
                (CHAT, {"messages": [{"role": "user", "content": words}], **said}),
                (CHAT, {"messages": [{"role": "user", "content": words}], "stream": True, **said}),
                ("/api/generate", {"prompt": words, "session_id": n}),
            ][n % 5]
        ]
    return [(f"name-{n}", *kind) for n, kind in enumerate(kinds)]


def send(server: Server, name: str, path: str, body: dict[str, Any]) -> requests.Response:
    reply = server.post(path, body, headers={"Idempotency-Key": name})
    assert reply.status_code == 200, reply.text
    return reply


def text_of(reply: requests.Response) -> str:
    """The answer that a reply tells, in whichever shape."""
    if not reply.headers["Content-Type"].startswith("text/event-stream"):
        data = reply.json()
        return str(data["result"] if "result" in data else data["choices"][0]["message"]["content"])
    events = [json.loads(line[6:]) for line in reply.text.split("\n") if line.startswith("data: {")]
    assert not any("error" in event for event in events), reply.text
    pieces = [event.get("chunk") or "" if "choices" not in event else "" for event in events]
    deltas = [choice["delta"].get("content") or "" for event in events for choice in event.get("choices", ())]
    return "".join([*pieces, *deltas])


def answers(server: Server, number: int) -> list[str]:
    """What a session holds of the model's."""
    messages = server.get(f"/answer/{number}").json().get("messages", [])
    return [message["content"] for message in messages if message["type"] == "ai"]


@contextmanager
def no_reply_is_kept(server: Server) -> Iterator[None]:
    """Another program holds hearth.sqlite meanwhile, so that the window between the two files stays open."""
    db = sqlite3.connect(server.data / "hearth.sqlite", isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        db.execute("ROLLBACK")
        db.close()


def test_a_kill_before_the_reply_is_kept_stores_nothing_twice(serve: Callable[..., Server]) -> None:
    server = serve()
    asked = requests_of_all_kinds()
    with no_reply_is_kept(server):
        # At once: each waits for a while for the other program.
        first = [text_of(reply) for reply in in_threads(*(partial(send, server, *each) for each in asked))]
        # Some are folded into sessions.json by now, and some only in the journal.
        server.kill()
    kept = sqlite3.connect(server.data / "hearth.sqlite").execute("SELECT count(*) FROM jobs").fetchone()
    assert kept == (0,)
    server.start()
    again = [send(server, *each) for each in asked]
    assert [text_of(reply) for reply in again] == first
    assert [answers(server, n) for n in range(8)] == [[text] for text in first]
    # Now the replies are kept, and sessions.json no longer needs to know their names.
    third = [send(server, *each) for each in asked]
    assert [reply.text for reply in third] == [reply.text for reply in again]
    assert all(reply.headers["Idempotent-Replayed"] == "true" for reply in third)
    server.ask("Hello", session_id=99)
    assert server.stop() == 0
    assert "requests" not in (server.data / "sessions.json").read_text()


def test_what_is_answered_is_told_though_its_key_may_keep_no_more(serve: Callable[..., Server]) -> None:
    server = serve()
    key, id_ = server.mint(limits={"storage_mb": 1})
    body = {"prompt": "Count to 3.", "session_id": 1}

    def send_again(name: str) -> requests.Response:
        return server.post("/answer", body, key=key, headers={"Idempotency-Key": name})

    with no_reply_is_kept(server):
        first = send_again("a").json()
        server.kill()
    journal = server.data / "sessions.journal"
    long = [{"type": "human", "content": "x" * 10**6}, {"type": "ai", "content": "Yes."}]
    record = {"session": f"{id_}/2", "at": 0, "time": "2026-01-01T00:00:00+00:00", "name": "long", "messages": long}
    with journal.open("a") as file:
        file.write(json.dumps(record) + "\n")
    server.start()
    again, new = send_again("a"), send_again("b")
    assert (again.status_code, again.json()["result"]) == (200, first["result"])
    assert (new.status_code, new.json()["error"]["code"]) == (403, "storage_limit")


def test_the_whole_reply_is_as_it_was(serve: Callable[..., Server]) -> None:
    server = serve()
    body = {"prompt": "My name is Ana.", "session_id": 1, "temperature": 1.2}
    with no_reply_is_kept(server):
        first = send(server, "whole", "/answer", body).json()
        server.kill()
    server.start()
    assert send(server, "whole", "/answer", body).json() == first
    usage = server.get("/auth/usage").json()["usage"]
    assert sum(day["requests"] for day in usage) <= 1, "what is stored costs nothing"


def test_another_request_of_that_name_is_refused_and_a_deleted_session_begins_anew(serve: Callable[..., Server]) -> None:
    server = serve()
    body = {"prompt": "My name is Ana.", "session_id": 1}
    with no_reply_is_kept(server):
        send(server, "mine", "/answer", body)
        server.kill()
    server.start()
    other = server.post("/answer", {**body, "prompt": "Count to 3."}, headers={"Idempotency-Key": "mine"})
    assert (other.status_code, other.json()["error"]["code"]) == (422, "name_taken")
    assert server.delete("/answer/1").status_code == 200
    send(server, "mine", "/answer", body)
    assert len(answers(server, 1)) == 1


@pytest.mark.parametrize("folds", [False, True])
def test_a_session_knows_its_requests_over_restarts_until_they_are_settled(tmp_path: Path, folds: bool) -> None:
    path, key = tmp_path / "sessions.json", SessionKey(MASTER, 1)
    sessions = Sessions(path)
    names = [RequestName(f"key:{n}", f"digest {n}") for n in range(3)]
    for n, name in enumerate(names):
        for _ in range(2):
            # The second time nothing is added.
            sessions.history(key).add_exchange(Exchange(f"q{n}", f"a{n}"), request=Answered(name, {"profile": "p"}))
    if folds:
        sessions.close()
    sessions = Sessions(path)
    history = sessions.history(key)
    assert [history.answered(name) for name in names] == [(f"a{n}", {"profile": "p"}) for n in range(3)]
    assert history.count() == 6
    with pytest.raises(Unprocessable, match="0 was sent before"):
        history.answered(RequestName("key:0", "another"))
    sessions.settle(MASTER, "1", "key:1")
    # What the person has cut away answers nothing any more.
    history.add_exchange(Exchange("q", "a"), keep=2)
    assert [history.answered(name) for name in names] == [("a0", {"profile": "p"}), None, None]
    sessions.close()
    assert set(json.loads(path.read_text())["1"]["requests"]) == {"key:0"}


def test_replies_that_another_program_keeps_from_being_kept_delay_nobody_for_long(serve: Callable[..., Server]) -> None:
    server = serve()
    with no_reply_is_kept(server):
        send(server, "late", "/answer", {"prompt": "Hello", "session_id": 1})
        began = time.monotonic()
        send(server, "other", "/answer", {"prompt": "Hello", "session_id": 2})
        assert time.monotonic() - began < 4
    assert server.stop() == 0
    rows = sqlite3.connect(server.data / "hearth.sqlite").execute("SELECT id, state FROM jobs ORDER BY id").fetchall()
    assert rows == [("key:late", "done"), ("key:other", "done")]
