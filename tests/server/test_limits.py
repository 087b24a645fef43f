"""Limits that hold while a real engine computes, and over a restart."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.support.serving import Server

Serve = Callable[..., Server]
MINTS = ["answer", "models:read", "keys"]


def passed(reply: Any, limit: str) -> None:
    """The reply says that a limit is passed, and when it may be worth asking again."""
    assert reply.status_code == 429, reply.text
    error = reply.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("rate_limit_error", "rate_limit_exceeded", limit)
    assert int(reply.headers["Retry-After"]) >= 1


def used(server: Server, by: str, **query: Any) -> dict[str, Any]:
    (row,) = server.get("/auth/usage", key=by, params=query).json()["usage"]
    return dict(row)


def test_many_at_once_get_no_more_tokens_than_one_after_the_other(endless: Server) -> None:
    endless.edit_config("Random", n_parallel=4)
    key, id_ = endless.mint(limits={"tokens_per_minute": 300})

    def ask(_: int) -> int:
        reply = endless.post("/answer", {"prompt": "Hi", "memory_k": 0, "max_tokens": 100}, key=key)
        if reply.status_code == 429:
            passed(reply, "tokens_per_minute")
            return 0
        usage = reply.json()["usage"]
        return int(usage["prompt_tokens"] + usage["completion_tokens"])

    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(ask, range(8)))
    assert 200 <= sum(counts) <= 300
    row = used(endless, key)
    assert row["prompt_tokens"] + row["completion_tokens"] == sum(counts)
    assert row["requests"] == sum(count > 0 for count in counts)
    assert row["key"] == id_


def test_tokens_a_day_are_remembered_over_a_restart(serve: Serve) -> None:
    server = serve()
    key, _ = server.mint(limits={"tokens_per_day": 60})
    first = server.ask("Count to 3.", key=key, memory_k=0)["usage"]
    server.kill()
    server.start()
    assert used(server, key)["completion_tokens"] == first["completion_tokens"]
    for _ in range(20):
        reply = server.post("/answer", {"prompt": "Count to 3.", "memory_k": 0}, key=key)
        if reply.status_code != 200:
            break
    passed(reply, "tokens_per_day")
    assert 60 < int(reply.headers["Retry-After"]) <= 86_400
    row = used(server, key)
    assert row["prompt_tokens"] + row["completion_tokens"] <= 60
    assert server.stop() == 0


def child_of(server: Server, by: str, **terms: Any) -> tuple[str, str]:
    reply = server.post("/auth/key", terms, key=by)
    assert reply.status_code == 200, reply.text
    return reply.json()["key"], reply.json()["id"]


def spend(server: Server, key: str) -> int:
    """Use what there is left of a day's tokens; return how many that were."""
    total = 0
    for _ in range(30):
        reply = server.post("/answer", {"prompt": "Tell me about sessions.", "memory_k": 0}, key=key)
        if reply.status_code != 200:
            assert reply.json()["error"]["param"] == "tokens_per_day", reply.text
            return total
        total += sum(reply.json()["usage"][name] for name in ("prompt_tokens", "completion_tokens"))
    raise AssertionError("the limit does not hold")


def test_deleted_children_give_nothing_back(serve: Serve) -> None:
    server = serve()
    limits = {"tokens_per_day": 120}
    head, _ = server.mint("Head", scopes=MINTS, limits=limits)
    total = 0
    for _ in range(4):
        child, id_ = child_of(server, head, scopes=["answer"], limits=limits)
        total += spend(server, child)
        assert server.delete(f"/auth/key/{id_}", key=head).status_code == 200
    server.kill()
    server.start()
    assert 60 < total + spend(server, head) <= 120


def test_usage_of_what_was_answered_is_stored_when_the_answer_is_there(serve: Serve) -> None:
    server = serve()
    key, _ = server.mint()
    answered = 0
    for n in range(3):
        usage = server.ask(f"Count to {n}.", key=key, memory_k=0)["usage"]
        answered += usage["prompt_tokens"] + usage["completion_tokens"]
        server.kill()
        server.start()
    (row,) = server.get("/auth/usage", key=key).json()["usage"]
    assert row["prompt_tokens"] + row["completion_tokens"] == answered
