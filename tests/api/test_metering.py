"""Limits that hold, and usage that is kept."""

from __future__ import annotations

import csv
import io
import os
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
from auth.usage import UsageStore, Used, today
from services.backend.types import Spent
from services.errors import DamagedFile, NotPermitted, RateLimitExceeded, Unavailable
from tests.support.fake_backend import FakeBackend
from tests.support.in_process import Client

Open = Callable[..., Client]


def passed(reply: Any, limit: str) -> None:
    """The reply says that a limit is passed, and when it may be worth asking again."""
    assert reply.status_code == 429, reply.text
    error = reply.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("rate_limit_error", "rate_limit_exceeded", limit)
    assert int(reply.headers["Retry-After"]) >= 1


def used(client: Client, by: str, **query: Any) -> dict[str, Any]:
    (row,) = client.get("/auth/usage", key=by, params=query).json()["usage"]
    return dict(row)


def test_requests_a_minute_hold_however_many_come_at_once(client: Client) -> None:
    key, _ = client.mint(limits={"requests_per_minute": 5})

    def ask(_: int) -> Any:
        return client.post("/answer", {"prompt": "Count to 3.", "memory_k": 0, "max_tokens": 2}, key=key)

    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(ask, range(12)))
    assert [reply.status_code for reply in replies].count(200) == 5
    for reply in replies:
        assert reply.headers["x-ratelimit-limit-requests"] == "5"
        if reply.status_code != 200:
            passed(reply, "requests_per_minute")
            assert reply.headers["x-ratelimit-remaining-requests"] == "0"
    # What computes nothing is not counted, and others' keys are not concerned.
    assert client.get("/models", key=key).status_code == 200
    assert client.ask("Count to 3.")["result"] == "1, 2, 3."


def test_tokens_a_minute_are_never_passed(client: Client) -> None:
    key, _ = client.mint(limits={"tokens_per_minute": 120})
    total, refused = 0, None
    for _ in range(30):
        reply = client.post("/answer", {"prompt": "Tell me about sessions.", "memory_k": 0}, key=key)
        if reply.status_code != 200:
            refused = reply
            break
        usage = reply.json()["usage"]
        total += usage["prompt_tokens"] + usage["completion_tokens"]
    assert refused is not None
    passed(refused, "tokens_per_minute")
    assert 100 < total <= 120
    assert refused.headers["x-ratelimit-limit-tokens"] == "120"
    assert int(refused.headers["x-ratelimit-remaining-tokens"]) == 120 - total


def test_answers_under_way_at_once(client: Client, backend: FakeBackend) -> None:
    key, _ = client.mint(limits={"parallel": 2})
    body = {"prompt": "Hi", "memory_k": 0, "stream": True}
    goes_on = threading.Event()
    for _ in range(2):
        backend.reply(" On", goes_on)
    streams = [client.post("/answer", body, key=key, stream=True) for _ in range(2)]
    passed(client.post("/answer", body, key=key), "parallel")
    chat = {"messages": [{"role": "user", "content": "Hi"}], "n": 2, "max_tokens": 1}
    passed(client.post("/v1/chat/completions", chat, key=key), "parallel")
    for stream in streams:
        stream.close()
    assert client.post("/answer", {**body, "stream": False, "max_tokens": 1}, key=key).status_code == 200


def test_answers_are_no_longer_than_a_key_may_have_them(client: Client) -> None:
    key, _ = client.mint(limits={"max_tokens": 3})
    for given in ({}, {"max_tokens": 500}, {"max_tokens": 2}):
        answer = client.ask("Tell me about sessions.", key=key, memory_k=0, **given)
        assert answer["usage"]["completion_tokens"] == min(given.get("max_tokens", 3), 3)
        assert answer["finish_reason"] == "length"


def test_a_prompt_that_alone_is_too_much_is_told_so(client: Client) -> None:
    key, _ = client.mint(limits={"tokens_per_minute": 5})
    reply = client.post("/answer", {"prompt": "Tell me about sessions.", "memory_k": 0}, key=key)
    passed(reply, "tokens_per_minute")
    assert "this prompt has" in reply.json()["message"]


def test_what_is_refused_under_a_name_is_asked_again_under_it(client: Client) -> None:
    key, id_ = client.mint(limits={"max_tokens": 3, "requests_per_minute": 1})
    client.ask("Hi", key=key)
    body, headers = {"prompt": "Count to 3."}, {"Idempotency-Key": "once"}
    passed(client.post("/answer", body, key=key, headers=headers), "requests_per_minute")
    client.request("PATCH", f"/auth/key/{id_}", json={"limits": None})
    assert client.post("/answer", body, key=key, headers=headers).json()["result"] == "1, 2, 3."


def test_what_was_used_is_told_to_its_key_and_all_to_the_master(client: Client) -> None:
    (ana, ana_id), (bob, bob_id) = client.mint("Ana"), client.mint("=Bob()")
    counted = [client.ask("Count to 3.", key=ana, memory_k=0)["usage"] for _ in range(2)]
    client.ask("Hi", key=bob, memory_k=0)
    client.post("/v1/embeddings", {"input": "Hi there", "model": "Guide"}, key=bob)
    client.post("/answer", {"prompt": ""}, key=bob)
    row = used(client, ana)
    assert (row["key"], row["name"], row["day"], row["requests"]) == (ana_id, "Ana", today(), 2)
    for name in ("prompt_tokens", "cached_tokens", "completion_tokens"):
        assert row[name] == sum(usage[name] for usage in counted)
    assert row["cpu_seconds"] > 0
    assert used(client, bob)["requests"] == 2
    assert client.get("/auth/usage", key=ana, params={"key": bob_id}).json()["usage"] == [row]
    everybody = client.get("/auth/usage").json()["usage"]
    assert {each["key"] for each in everybody} == {ana_id, bob_id}
    assert used(client, client.key, key=bob_id)["key"] == bob_id
    assert client.get("/auth/usage", params={"from": "2001-01-01", "to": "2001-12-31"}).json()["usage"] == []
    for asked in ({"params": {"format": "csv"}}, {"headers": {"Accept": "text/csv"}}):
        reply = client.get("/auth/usage", **asked)
        assert reply.headers["Content-Type"].startswith("text/csv")
        table = list(csv.DictReader(io.StringIO(reply.text)))
        assert {each["key"]: each["name"] for each in table} == {ana_id: "Ana", bob_id: "'=Bob()"}
    for query, param in (({"from": "yesterday"}, "from"), ({"format": "xml"}, "format")):
        reply = client.get("/auth/usage", params=query)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


@pytest.fixture
def meter(tmp_path: Path) -> Meter:
    return Meter(KeyStore(tmp_path / "api_keys.json"), UsageStore(tmp_path / "hearth.sqlite"))


def test_what_minted_keys_use_counts_for_the_one_that_minted_them(client: Client) -> None:
    # What it mints is a request too.
    head, head_id = client.mint("Head", scopes=["answer", "keys"], limits={"requests_per_minute": 6, "tokens_per_day": 300})
    terms = {"scopes": ["answer"], "limits": {"requests_per_minute": 3, "tokens_per_day": 300}}
    minted = [client.post("/auth/key", terms, key=head).json()["key"] for _ in range(3)]
    statuses = []
    for key in (*minted, *minted, head):
        reply = client.post("/answer", {"prompt": "Count to 3.", "memory_k": 0}, key=key)
        statuses.append(reply.status_code)
    assert statuses == [200, 200, 200, 429, 429, 429, 429]
    assert reply.json()["message"].startswith("this key may send 6 requests")
    said = client.post("/answer", {"prompt": "Hi"}, key=minted[0]).json()["message"]
    assert said.startswith("the key that minted this one may send 6 requests")
    client.delete(f"/auth/key/{head_id}")
    assert [client.get("/auth", key=key).status_code for key in minted] == [401, 401, 401]


def test_a_clock_that_is_set_back_shuts_no_window(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    key = meter._keys.mint(Terms.model_validate({"limits": {"requests_per_minute": 1}})).id

    def ask() -> None:
        with meter.enter(key) as ticket:
            ticket.reserve(1, 1)

    ask()
    with pytest.raises(RateLimitExceeded):
        ask()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 3600)
    ask()
    with pytest.raises(RateLimitExceeded):
        ask()


def test_what_is_held_back_is_given_back(meter: Meter) -> None:
    key = meter._keys.mint(Terms.model_validate({"limits": {"tokens_per_minute": 100}})).id
    with meter.enter(key) as ticket:
        assert ticket.reserve(10, 500) == 90
        with pytest.raises(RateLimitExceeded, match="held back"), meter.enter(key) as other:
            other.reserve(10, 1)
        ticket.spent = Spent(10, 0, 20, 0.5)
    with meter.enter(key) as ticket:
        assert ticket.reserve(10, 500) == 60
    with pytest.raises(RuntimeError), meter.enter(key) as ticket:
        ticket.reserve(10, 500)
        raise RuntimeError
    with meter.enter(key) as ticket:
        assert ticket.reserve(10, 500) == 60
    assert meter._usage.totals()[key] == Used(3, 10, 0, 20, 0.5)


def test_usage_that_the_disk_does_not_take_is_kept_until_it_does(tmp_path: Path) -> None:
    path = tmp_path / "hearth.sqlite"
    usage, other = UsageStore(path), UsageStore(path)
    other._file.db.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    for _ in range(20):
        usage.add("a", Spent(1, 0, 2, 0.1), ["a", "b"])
    assert time.monotonic() - began < 1
    assert usage.totals()["a"].requests == 20
    assert usage.charged("b") == usage.charges()["b"] == 60
    other._file.db.execute("ROLLBACK")
    deadline = time.monotonic() + 10
    while other.totals().get("a", Used()).completion_tokens != 40:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    usage.add("a", Spent(1, 0, 2, 0.1), ["a", "b"])
    assert other.charged("b") == usage.charged("b") == 63
    (tmp_path / "damaged.sqlite").write_text("nonsense" * 100)
    with pytest.raises(DamagedFile, match="no database of Hearth"):
        UsageStore(tmp_path / "damaged.sqlite")


def test_the_windows_may_be_kept_in_redis(tmp_path: Path, redis_url: str) -> None:
    keys = KeyStore(tmp_path / "api_keys.json")
    key = keys.mint(Terms.model_validate({"limits": {"requests_per_minute": 3, "tokens_per_minute": 50}})).id
    meters = [Meter(keys, UsageStore(tmp_path / f"usage{n}.sqlite"), redis_url) for n in range(2)]
    for n in range(3):
        with meters[n % 2].enter(key) as ticket:
            ticket.reserve(5, 5)
            ticket.spent = Spent(5, 0, 5)
    identity = keys.identity(key)
    assert identity
    for meter in meters:
        assert meter.headers(key)["x-ratelimit-remaining-tokens"] == "20"
        with pytest.raises(RateLimitExceeded, match="3 requests a minute"), meter.enter(key):
            pass


def test_a_storage_that_is_away_is_told(tmp_path: Path) -> None:
    keys = KeyStore(tmp_path / "api_keys.json")
    meter = Meter(keys, UsageStore(tmp_path / "hearth.sqlite"), "redis://127.0.0.1:9")
    key = keys.mint(Terms.model_validate({"limits": {"requests_per_minute": 3}})).id
    with pytest.raises(Unavailable, match="cannot be reached"), meter.enter(key):
        pass


def _ask(meter: Meter, id_: str) -> bool:
    try:
        with meter.enter(id_):
            return True
    except RateLimitExceeded:
        return False


def test_a_window_goes_on_when_its_limit_is_changed(meter: Meter) -> None:
    keys = meter._keys
    id_ = keys.mint(Terms.model_validate({"limits": {"requests_per_minute": 3}})).id
    assert [_ask(meter, id_) for _ in range(4)] == [True, True, True, False]
    keys.change(id_, Terms.model_validate({"limits": {"requests_per_minute": 5}}))
    assert [_ask(meter, id_) for _ in range(3)] == [True, True, False]
    keys.change(id_, Terms.model_validate({"limits": {"requests_per_minute": 2}}))
    assert not _ask(meter, id_)


def test_a_key_is_not_charged_for_what_the_key_above_refuses(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = meter._keys
    head = keys.mint(Terms.model_validate({"scopes": ["answer", "keys"], "limits": {"requests_per_minute": 1}}))
    child = keys.mint(
        Terms.model_validate({"scopes": ["answer"], "limits": {"requests_per_minute": 1}}), keys.identity(head.id)
    )
    assert _ask(meter, head.id)
    # As where others take the last of it just now.
    monkeypatch.setattr(meter._windows, "test", lambda *_: True)
    assert not _ask(meter, child.id)
    assert meter._window("requests", child.id, 1)[0] == 0


def test_an_answer_ends_where_its_key_may_answer_no_more(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("auth.rate_limits._KEY_CHECK_INTERVAL", 0)
    keys = meter._keys
    head = keys.mint(Terms.model_validate({"scopes": ["answer", "keys"]}))
    child = keys.mint(Terms(scopes=["answer"]), keys.identity(head.id))
    with meter.enter(child.id) as ticket:
        ticket.check()
        keys.change(head.id, Terms(scopes=["keys"]))
        with pytest.raises(NotPermitted, match="lost the scope answer"):
            ticket.check()


def test_what_accounts_were_charged_is_forgotten_with_its_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = UsageStore(tmp_path / "hearth.sqlite")
    for n, day in enumerate(("2030-01-30", "2030-01-31", "2030-02-01", "2030-02-02")):
        monkeypatch.setattr("auth.usage.today", lambda day=day: day)
        usage.add("guest-1", Spent(prompt_tokens=5), [f"guest-{n}", "account"])
        usage.add("guest-1", Spent(prompt_tokens=5), [f"guest-{n}", "account"])
        assert usage.charged("account") == 10
    usage.close()
    with sqlite3.connect(tmp_path / "hearth.sqlite") as db:
        days = [day for (day,) in db.execute("SELECT DISTINCT day FROM charged ORDER BY day")]
        rows = db.execute("SELECT COUNT(*) FROM usage").fetchone()
    db.close()
    assert days == ["2030-02-01", "2030-02-02"]
    assert rows == (4,)


def test_nobody_waits_for_a_key_that_is_being_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = KeyStore(tmp_path / "api_keys.json")
    minted = keys.mint()
    begun, ends, sync = threading.Event(), threading.Event(), os.fsync

    def slow(file: int) -> None:
        begun.set()
        assert ends.wait(20)
        sync(file)

    monkeypatch.setattr("os.fsync", slow)
    minting = threading.Thread(target=keys.mint)
    minting.start()
    assert begun.wait(20)
    checked = ThreadPoolExecutor(1).submit(keys.check, minted.key)
    try:
        assert checked.result(5)
    finally:
        ends.set()
        minting.join()
