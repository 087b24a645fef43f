"""Stored responses: in a server's database and in a cluster's Redis alike, and from one to the other."""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from services.cluster.redis_client import RedisClient
from services.cluster.settings import ClusterSettings
from services.cluster.stores.responses import RedisResponseTable
from services.errors import InvalidRequest, StorageFailed
from services.sessions import responses as stored_responses
from services.sessions.responses import KEPT_FOR, LONGEST_CHAIN, ResponseStore, ResponseTable, StoredResponse, chain_of
from services.sessions.table import Kept
from services.settings import Settings
from services.storage.database import NAME
from services.storage.schema import CHARGED, TABLES

# Of the library that keeps the messages, at its first import.
pytestmark = pytest.mark.filterwarnings("ignore:`langchain-community` is being sunset:DeprecationWarning")
ITEM = {"type": "message", "role": "user", "content": "Grüße 🙂"}


@pytest.fixture
def client(redis_url: str) -> RedisClient:
    return RedisClient(ClusterSettings("", redis_url, prefix=uuid.uuid4().hex))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ResponseStore]:
    opened = ResponseStore(tmp_path / NAME)
    yield opened
    opened.close()


@pytest.fixture(params=["files", "redis"])
def table(request: pytest.FixtureRequest) -> ResponseTable:
    if request.param == "files":
        return request.getfixturevalue("store")  # type: ignore[no-any-return]
    return RedisResponseTable(request.getfixturevalue("client"))


def response(
    id_: str, status: str = "completed", previous: str = "", session: str = "", owner: str = "a"
) -> StoredResponse:
    body = {"id": id_, "status": status, "output": [{**ITEM, "role": "assistant"}]}
    return StoredResponse(owner, id_, previous, session, status, [ITEM], body, left_out=3)


def ids(responses: list[StoredResponse]) -> list[str]:
    return [each.id for each in responses]


def test_a_response_is_told_as_it_was_stored(table: ResponseTable) -> None:
    one = response("one", session="7")
    table.add(one)
    found = table.get("a", "one")
    assert found
    assert found.used > 0
    assert replace(found, used=0.0) == one
    assert (table.get("b", "one"), table.get("a", "two")) == (None, None)
    assert table.kept("a") == Kept(1, one.n_bytes)
    assert (table.remove("b", "one"), table.remove("a", "one"), table.remove("a", "one")) == (False, True, False)
    assert (table.get("a", "one"), table.kept("a"), table.last_of("a", "7")) == (None, Kept(), None)


def test_what_is_finished_stays(table: ResponseTable) -> None:
    for status in ("queued", "in_progress", "cancelled", "completed"):
        table.add(response("one", status))
    found = table.get("a", "one")
    assert found
    assert (found.status, found.body["status"]) == ("cancelled", "cancelled")
    assert table.kept("a") == Kept(1, found.n_bytes)


def test_responses_go_on_from_each_other(table: ResponseTable) -> None:
    for id_, previous in (("one", ""), ("two", "one"), ("three", "two"), ("other", "one"), ("late", "queued")):
        table.add(response(id_, previous=previous))
    table.add(response("queued", "queued"))
    assert ids(chain_of(table, "a", "three")) == ["one", "two", "three"]
    assert ids(chain_of(table, "a", "other")) == ["one", "other"]
    assert chain_of(table, "a", "") == []
    table.remove("a", "two")
    for owner, id_, told in (("a", "three", "not found"), ("b", "one", "not found"), ("a", "late", "is queued")):
        with pytest.raises(InvalidRequest, match=told) as refused:
            chain_of(table, owner, id_)
        assert refused.value.param == "previous_response_id"


def test_a_chain_has_an_end(store: ResponseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_responses, "LONGEST_CHAIN", 3)
    for n in range(4):
        store.add(response(f"{n}", previous=f"{n - 1}" if n else ""))
    assert len(chain_of(store, "a", "2")) == 3 < LONGEST_CHAIN
    with pytest.raises(InvalidRequest, match="at most 3 responses"):
        chain_of(store, "a", "3")


def test_a_session_has_its_responses(table: ResponseTable) -> None:
    for id_, session, owner in (("one", "7", "a"), ("two", "7", "a"), ("three", "8", "a"), ("four", "7", "b")):
        table.add(response(id_, session=session, owner=owner))
    last = table.last_of("a", "7")
    assert last
    assert last.id == "two"
    table.remove("a", "two")
    last = table.last_of("a", "7")
    assert last
    assert last.id == "one"
    table.remove_session("a", "7")
    assert (table.last_of("a", "7"), table.get("a", "one")) == (None, None)
    assert ids(table.everything()) == ["three", "four"]
    assert (table.kept("a").count, table.kept("b").count) == (1, 1)


def test_the_last_response_of_a_session_is_the_one_that_ended_last(
    table: ResponseTable, request: pytest.FixtureRequest
) -> None:
    for id_, status in (("one", "queued"), ("two", "completed"), ("one", "completed")):
        table.add(response(id_, status, session="7"))
    last = table.last_of("a", "7")
    assert last
    assert last.id == "one"


def test_what_is_not_used_for_30_days_is_forgotten(store: ResponseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for id_, previous in (("one", ""), ("two", "one"), ("old", "")):
        store.add(response(id_, previous=previous))
    now = time.time()
    clock = SimpleNamespace(time=lambda: now + KEPT_FOR - 9)
    monkeypatch.setattr(stored_responses, "time", clock)
    assert ids(chain_of(store, "a", "two")) == ["one", "two"]
    clock.time = lambda: now + KEPT_FOR + 9
    assert (store.get("a", "old"), ids(store.everything())) == (None, ["one", "two"])
    store.tidy()
    store.add(response("new"))
    assert store.kept("a").count == 3


def test_redis_forgets_them_too(client: RedisClient) -> None:
    table = RedisResponseTable(client)
    table.add(response("one", session="7"))
    for name in client.redis.scan_iter(client.key("respons*")):
        if "responses_" not in name or "responses_of" in name:
            assert KEPT_FOR - 9 < client.redis.ttl(name) <= KEPT_FOR
    client.redis.expire(client.key("response", "a", "one"), 100)
    table.touch("a", ["one", "none"])
    assert client.redis.ttl(client.key("response", "a", "one")) > 100
    assert table.kept("a").count == 1


def test_redis_keeps_a_sessions_list_as_long_as_its_responses(client: RedisClient) -> None:
    table = RedisResponseTable(client)
    table.add(response("one", session="7"))
    client.redis.expire(client.key("responses_of", "a", "7"), 100)
    table.touch("a", ["one"])
    assert client.redis.ttl(client.key("responses_of", "a", "7")) > 100


def test_a_command_of_redis_may_be_sent_twice(client: RedisClient) -> None:
    table = RedisResponseTable(client)
    send = table._add
    # As the client does where the reply is lost.
    table._add = lambda *arguments: [send(*arguments) for _ in range(2)][-1]
    table.add(response("one", session="7"))
    assert table.kept("a").count == 1


def test_what_the_disk_does_not_take_is_not_counted(store: ResponseStore) -> None:
    store.db.execute("PRAGMA query_only=ON")
    with pytest.raises(StorageFailed):
        store.add(response("one"))
    assert (store.get("a", "one"), store.kept("a")) == (None, Kept())


def test_a_database_of_the_version_before_is_taken_over(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / NAME)
    for statement in TABLES:
        if "responses" not in statement:
            db.execute(statement)
    db.execute("INSERT INTO last_use VALUES ('a', '2026-01-01T12:00:00+00:00')")
    db.execute(f"PRAGMA user_version={CHARGED}")
    db.commit()
    for kept in (0, 1):
        store = ResponseStore(tmp_path / NAME)
        assert store.kept("a").count == kept
        store.add(response("one", session="7"))
        store.close()
    assert db.execute("SELECT key FROM last_use").fetchall() == [("a",)]
    assert db.execute("PRAGMA user_version").fetchone() == (CHARGED,)
    db.close()


def test_responses_go_into_a_cluster_and_back(client: RedisClient, store: ResponseStore, tmp_path: Path) -> None:
    from services.cluster.stores.migrate import migrate, migrate_back

    for id_, status, session in (("one", "completed", "7"), ("two", "queued", ""), ("three", "incomplete", "7")):
        store.add(response(id_, status, session=session))
    there = Settings(data=tmp_path, models=tmp_path)
    first, again = migrate(there, client), migrate(there, client)
    assert (first.new, first.same) == ({"responses": 3}, 0)
    assert (again.new, again.same, again.is_whole) == ({}, 3, True)
    table = RedisResponseTable(client)
    last = table.last_of("a", "7")
    assert last
    assert last.id == "three"
    assert table.kept("a") == store.kept("a")
    table.add(response("four"))
    (tmp_path / "back").mkdir()
    assert migrate_back(Settings(data=tmp_path / "back", models=tmp_path), client).new["responses"] == 4
    back = ResponseStore(tmp_path / "back" / NAME)
    wanted = {each.id: replace(each, used=0.0) for each in (*store.everything(), response("four"))}
    assert {each.id: replace(each, used=0.0) for each in back.everything()} == wanted
    back.close()


def test_a_finished_response_replaces_one_that_is_not(client: RedisClient, store: ResponseStore, tmp_path: Path) -> None:
    from services.cluster.stores.migrate import migrate

    store.add(response("one"))
    table = RedisResponseTable(client)
    table.add(response("one", "queued"))
    migrate(Settings(data=tmp_path, models=tmp_path), client)
    found = table.get("a", "one")
    assert found
    assert found.status == "completed"
