"""Jobs are computed by plain functions; replies and errors have the form that they have over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from auth.access import Access
from auth.identity import Terms
from auth.keys import KeyStore
from services.answers.client import Client
from services.api.http.computation import Computation, JobRunner, Reply
from services.api.http.sse import EventStream, event
from services.errors import ClientDisconnected, EngineFailure, InvalidRequest, Unavailable
from services.jobs.store import JobKey, JobRequest
from services.sessions.table import RequestName


class Body(BaseModel):
    text: str


class Endpoint:
    """A computation that remembers its client, and does what its test says."""

    def __init__(self) -> None:
        self.clients: list[Client] = []
        self.does: Reply | Exception = {"text": "ä"}

    def compute(self, _body: Body, client: Client) -> Reply:
        self.clients.append(client)
        if isinstance(self.does, Exception):
            raise self.does
        return self.does


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


@pytest.fixture
def keys(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "api_keys.json")


@pytest.fixture
def runner(endpoint: Endpoint, keys: KeyStore) -> JobRunner:
    computation = Computation("/say", Access(needs="answer"), Body, endpoint.compute)
    return JobRunner([computation], keys, lambda identity: f"account of {identity.id}")


def never() -> None:
    pass


def run(runner: JobRunner, owner: str, path: str = "/say", body: bytes = b'{"text": "Hi"}') -> tuple[int, Any, bytes, bool]:
    running = runner(JobKey(owner, "key:a"), JobRequest(path, body, "digest"), never, True)
    body = b"".join(running.parts())
    return running.status, running.headers, body, running.has_failed


def test_a_whole_reply_is_written_as_over_http(runner: JobRunner, keys: KeyStore, endpoint: Endpoint) -> None:
    owner = keys.mint(Terms()).id
    assert run(runner, owner) == (200, {"Content-Type": "application/json"}, '{"text":"ä"}\n'.encode(), False)
    [client] = endpoint.clients
    assert (client.identity, client.background, client.request_name) == (
        keys.identity(owner),
        True,
        RequestName("key:a", "digest"),
    )
    assert client.slot
    assert client.slot.account == f"account of {owner}"


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (InvalidRequest("no", param="text"), 400, "invalid_request", None),
        (Unavailable("later", retry_after=7), 503, "unavailable", "7"),
        (Unavailable("never", code="no_model"), 503, "no_model", None),
        (EngineFailure("broke"), 500, "engine_failure", None),
        (ClientDisconnected("left"), 499, "client_gone", None),
        (ValueError("unforeseen"), 500, "internal_error", None),
    ],
)
def test_an_error_is_a_reply(
    runner: JobRunner,
    keys: KeyStore,
    endpoint: Endpoint,
    error: Exception,
    status: int,
    code: str,
    retry_after: str | None,
) -> None:
    endpoint.does = error
    got, headers, body, _ = run(runner, keys.mint(Terms()).id)
    assert (got, headers.get("Retry-After")) == (status, retry_after)
    assert f'"code":"{code}"' in body.decode()


def test_a_stream_is_sent_in_parts_and_closed_and_its_failure_told(
    runner: JobRunner, keys: KeyStore, endpoint: Endpoint
) -> None:
    closed: list[bool] = []

    def events(error: Exception | None) -> Iterator[str]:
        yield event({"chunk": "a"})
        if error:
            raise error

    endpoint.does = EventStream(events(None), lambda: closed.append(True))
    status, headers, body, has_failed = run(runner, keys.mint(Terms()).id)
    assert (status, headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
    assert (body, has_failed, closed) == (b'data: {"chunk": "a"}\n\n', False, [True])
    endpoint.does = EventStream(events(EngineFailure("broke")), lambda: closed.append(True))
    _, _, body, has_failed = run(runner, keys.mint(Terms()).id)
    assert (b"engine_failure" in body, has_failed, closed) == (True, True, [True, True])


def test_a_job_of_another_version_and_of_a_key_that_may_no_more_fails(
    runner: JobRunner, keys: KeyStore, endpoint: Endpoint
) -> None:
    owner = keys.mint(Terms()).id
    status, _, body, _ = run(runner, owner, "/gone")
    assert (status, "there is nothing at /gone" in body.decode()) == (404, True)
    status, _, body, _ = run(runner, owner, body=b'{"text": 5}')
    assert (status, '"param":"text"' in body.decode()) == (400, True)
    narrow = keys.mint(Terms(scopes=["models:read"])).id
    status, _, body, _ = run(runner, narrow)
    assert (status, "scope_missing" in body.decode()) == (403, True)
    keys.revoke(owner)
    assert run(runner, owner)[0] == 401
    assert not endpoint.clients
