"""What keys that others minted may do and use: no more than those, whatever is minted, deleted, rotated or narrowed."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from auth.identity import Terms
from auth.keys import KeyStore
from auth.rate_limits import Meter
from auth.usage import UsageStore
from services.backend.types import Spent
from services.errors import NotAuthenticated, NotPermitted, RateLimitExceeded
from tests.support.clock import Clock
from tests.support.fake_backend import FakeBackend
from tests.support.in_process import Client
from tests.support.serving import wait_for

Open = Callable[..., Client]
MINTS = ["answer", "models:read", "keys"]


def child_of(client: Client, by: str, **terms: Any) -> tuple[str, str]:
    reply = client.post("/auth/key", terms, key=by)
    assert reply.status_code == 200, reply.text
    return reply.json()["key"], reply.json()["id"]


def test_what_was_used_before_the_upgrade_counts(tmp_path: Path) -> None:
    keys = KeyStore(tmp_path / "api_keys.json")
    terms = Terms.model_validate({"scopes": ["answer", "keys"], "limits": {"tokens_per_day": 100}})
    head = keys.mint(terms)
    child = keys.mint(terms, keys.identity(head.id))
    usage = UsageStore(tmp_path / "hearth.sqlite")
    usage.add(child.id, Spent(40, 0, 50, 0.1))
    usage.close()
    for _ in range(2):
        meter = Meter(keys, UsageStore(tmp_path / "hearth.sqlite"))
        assert meter.headers(head.id)["x-ratelimit-remaining-tokens-day"] == "10"
        with pytest.raises(RateLimitExceeded), meter.enter(head.id) as ticket:
            ticket.reserve(20, 1)


def test_many_children_multiply_nothing(client: Client) -> None:
    """Nor do they take nothing to mint and to delete."""
    limits = {"requests_per_minute": 10, "keys": 5}
    head, _ = client.mint("Head", scopes=MINTS, limits=limits)
    statuses = []
    for n in range(3):
        child, id_ = child_of(client, head, scopes=["answer"], limits=limits)
        for _ in range(2):
            statuses.append(client.post("/answer", {"prompt": "Hi", "memory_k": 0, "max_tokens": 1}, key=child).status_code)
        if n % 2:
            assert client.delete(f"/auth/key/{id_}", key=head).status_code == 200
    assert statuses == [200] * 6
    assert client.post("/auth/key", {"scopes": ["answer"], "limits": limits}, key=head).status_code == 429
    for key in (child, head):
        reply = client.post("/answer", {"prompt": "Hi"}, key=key)
        assert (reply.status_code, reply.headers["x-ratelimit-remaining-requests"]) == (429, "0")


def test_requests_that_are_refused_count(client: Client) -> None:
    key, _ = client.mint(limits={"requests_per_minute": 3})
    long = {"prompt": "word " * 9000, "memory_k": 0}
    statuses = [client.post("/answer", long, key=key).status_code for _ in range(5)]
    assert statuses == [400, 400, 400, 429, 429]


def test_replays_are_not_counted(client: Client) -> None:
    key, _ = client.mint(limits={"requests_per_minute": 2})
    for _ in range(5):
        reply = client.post("/answer", {"prompt": "Count to 3."}, key=key, headers={"Idempotency-Key": "same"})
        assert reply.status_code == 200
    assert client.post("/answer", {"prompt": "Hi", "max_tokens": 1}, key=key).status_code == 200


def test_narrowing_a_key_narrows_its_children_at_once(client: Client) -> None:
    head, head_id = client.mint("Head", scopes=MINTS, profiles=["Guide", "Pirate"])
    child, child_id = child_of(client, head, scopes=MINTS, profiles=["Guide", "Pirate"], expires="5d")
    grandchild, id_ = child_of(client, child, scopes=["answer", "models:read"], profiles=["Pirate"], expires="4d")
    narrow = {"scopes": ["answer"], "profiles": ["Guide"], "limits": {"max_tokens": 2}, "expires": "1d"}
    until = client.request("PATCH", f"/auth/key/{head_id}", json=narrow).json()["expires"]
    me = client.get("/auth/me", key=child).json()
    assert (me["scopes"], me["profiles"], me["limits"], me["expires"]) == (["answer"], ["Guide"], {"max_tokens": 2}, until)
    listed = {each["id"]: each for each in client.get("/auth/key").json()["keys"]}
    assert (listed[child_id]["scopes"], listed[child_id]["profiles"]) == (["answer"], ["Guide"])
    assert (listed[id_]["profiles"], listed[id_]["expires"]) == ([], until)
    assert client.get("/models", key=child).status_code == 403
    assert client.post("/auth/key", {"scopes": ["answer"]}, key=child).status_code == 403
    answer = client.post("/answer", {"prompt": "Tell me about sessions.", "model": "Guide", "memory_k": 0}, key=child)
    assert answer.json()["usage"]["completion_tokens"] == 2
    for model in ("Guide", "Pirate", None):
        body = {"prompt": "Hi", **({"model": model} if model else {})}
        assert client.post("/answer", body, key=grandchild).json()["error"]["code"] == "profile_not_permitted"
    # A child's name may be changed still, and what is given now is no more than there is.
    client.request("PATCH", f"/auth/key/{head_id}", json={"scopes": MINTS})
    assert client.request("PATCH", f"/auth/key/{child_id}", json={"name": "B"}, key=head).status_code == 200
    refused = client.request("PATCH", f"/auth/key/{child_id}", json={"profiles": ["Pirate"]}, key=head)
    assert (refused.status_code, refused.json()["error"]["param"]) == (403, "profiles")


def test_with_a_key_go_those_that_it_minted(client: Client) -> None:
    head, head_id = client.mint("Head", scopes=MINTS)
    child, _ = child_of(client, head, scopes=MINTS)
    grandchild, id_ = child_of(client, child, scopes=["answer"])
    assert client.get("/auth", key=grandchild).status_code == 200
    client.delete(f"/auth/key/{head_id}")
    assert [client.get("/auth", key=key).status_code for key in (head, child, grandchild)] == [401, 401, 401]
    assert id_ not in client.get("/auth/key").text


def test_a_key_mints_so_many_and_all_so_many(open_client: Open) -> None:
    client = open_client(max_keys=6)
    head, _ = client.mint("Head", scopes=MINTS, limits={"keys": 2})
    child, _ = child_of(client, head, scopes=MINTS, limits={"keys": 2})
    child_of(client, child, scopes=["answer"], limits={"keys": 1})
    for key in (head, child):
        reply = client.post("/auth/key", {"scopes": ["answer"], "limits": {"keys": 1}}, key=key)
        assert (reply.status_code, reply.json()["error"]["param"]) == (403, "limits.keys")
    for _ in range(2):
        client.mint()
    reply = client.post("/auth/key", {})
    assert (reply.status_code, reply.json()["error"]["param"]) == (403, "max_keys")
    assert "max_keys" in reply.json()["message"]


def test_ids_are_long(tmp_path: Path) -> None:
    keys = KeyStore(tmp_path / "api_keys.json", max_keys=3)
    assert all(len(bytes.fromhex(keys.mint().id)) == 8 for _ in range(3))
    with pytest.raises(NotPermitted, match="max_keys"):
        keys.mint()


@pytest.mark.parametrize("end", ["revoke", "revoke its parent", "expire"])
def test_answers_of_a_key_that_ends_end(client: Client, backend: FakeBackend, clock: Clock, end: str) -> None:
    head, head_id = client.mint("Head", scopes=MINTS)
    terms = {"expires": "3s"} if end == "expire" else {}
    key, id_ = child_of(client, head, scopes=["answer"], **terms)
    backend.reply(" On", threading.Event())
    stream = client.post("/answer", {"prompt": "Hi", "stream": True}, key=key, stream=True)
    assert stream.status_code == 200
    lines = stream.iter_lines(chunk_size=1)
    next(lines)
    began = time.monotonic()
    if end == "expire":
        clock.forward(3)
    else:
        client.delete(f"/auth/key/{id_ if end == 'revoke' else head_id}")
    rest = b"\n".join(lines)
    assert time.monotonic() - began < 10
    assert b"authentication_error" in rest


def test_a_ticket_tells_that_its_key_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("auth.rate_limits._KEY_CHECK_INTERVAL", 0)
    keys = KeyStore(tmp_path / "api_keys.json")
    head = keys.mint(Terms.model_validate({"scopes": ["answer", "keys"]}))
    child = keys.mint(Terms(scopes=["answer"]), keys.identity(head.id))
    meter = Meter(keys, UsageStore(tmp_path / "hearth.sqlite"))
    with meter.enter(child.id) as ticket:
        ticket.check()
        keys.revoke(head.id)
        with pytest.raises(NotAuthenticated):
            ticket.check()
    with pytest.raises(NotAuthenticated), meter.enter(child.id):
        pass


def test_usage_that_is_locked_delays_nobody_and_limits_hold(client: Client) -> None:
    key, _ = client.mint(limits={"tokens_per_day": 120})
    client.post("/answer", {"prompt": "Hi", "memory_k": 0, "max_tokens": 1}, key=key)
    other = sqlite3.connect(client.data / "hearth.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    slowest, total = 0.0, 0
    for _ in range(30):
        began = time.monotonic()
        reply = client.post("/answer", {"prompt": "Count to 3.", "memory_k": 0}, key=key)
        slowest = max(slowest, time.monotonic() - began)
        if reply.status_code != 200:
            break
        total += sum(reply.json()["usage"][name] for name in ("prompt_tokens", "completion_tokens"))
    assert reply.status_code == 429
    assert slowest < 3
    assert total <= 120
    other.execute("ROLLBACK")
    other.close()
    client.close()
    with sqlite3.connect(client.data / "hearth.sqlite") as stored:
        (kept,) = stored.execute("SELECT SUM(prompt_tokens + completion_tokens) FROM usage").fetchone()
    stored.close()
    assert kept >= total


def test_a_request_that_waits_may_use_only_the_profiles_that_its_key_still_has(
    open_client: Open, backend: FakeBackend
) -> None:
    client = open_client(backend=backend, threads=10, reserve=8)
    key, id_ = client.mint()
    for _ in range(2):
        backend.reply(" On", threading.Event())
    streams = [client.stream("Hi") for _ in range(2)]
    for stream in streams:
        assert stream.next()["chunk"] == "On"
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.post, "/answer", {"prompt": "Hi", "model": "guide.gguf"}, key=key)
        try:
            wait_for(lambda: client.parts.answers.n_open == 3)
            client.parts.stores.keys.change(id_, Terms(profiles=["Other"]))
        finally:
            for stream in streams:
                stream.close()
        refused = waiting.result()
    assert (refused.status_code, refused.json()["error"]["param"]) == (403, "model"), refused.text
