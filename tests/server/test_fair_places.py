"""One key cannot keep others out: slots, the engine's queue and threads are shared by key."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.attacking import until
from tests.support.serving import ENDLESS, Server, Stream

# Two slots, eight requests at once, of which two answers are computed.
FLAGS = ("--threads", "14", "--reserve", "6", "--queue", "6")


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory, light_model: Path) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("crowded") / "data", *FLAGS, models=light_model.parent)
    server.edit_config("Random", **ENDLESS | {"n_parallel": 2, "max_tokens": 150})
    server.select("Random")
    server.start()
    server.ask("Hi", max_tokens=1, memory_k=0)
    yield server
    server.stop()


def ask(server: Server, key: str, **fields: Any) -> Any:
    return server.post("/answer", {"prompt": "Go on", "memory_k": 0, "max_tokens": 3, **fields}, key=key)


def ask_in_background(pool: ThreadPoolExecutor, server: Server, keys: list[str], **fields: Any) -> list[Future[Any]]:
    return [pool.submit(ask, server, key, **fields) for key in keys]


def wait_for(server: Server, waiting: int) -> None:
    """Until so many answers wait for a slot."""
    deadline = time.monotonic() + 20
    while server.get("/status").json()["answers"]["waiting"] < waiting:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def in_flight(server: Server, key: str) -> int:
    """How many requests of a key that may have twenty are answered; this one, without a prompt, does not count."""
    return 20 - int(server.post("/answer", {}, key=key).headers["X-RateLimit-Remaining-Parallel"])


def is_too_busy(reply: Any) -> bool:
    return (reply.status_code, reply.json()["error"]["code"]) == (503, "too_busy") and int(reply.headers["Retry-After"]) > 0


def test_a_key_may_use_everything_and_gives_way_to_others(crowded: Server) -> None:
    hog, *others = (crowded.mint()[0] for _ in range(4))
    with ThreadPoolExecutor(20) as pool:
        hogs = ask_in_background(pool, crowded, 8 * [hog], max_tokens=150)
        wait_for(crowded, 6)
        assert is_too_busy(ask(crowded, hog)), "which has everything already"
        came = ask_in_background(pool, crowded, others)
        began = time.monotonic()
        assert crowded.get("/healthz").status_code == 200
        assert crowded.get("/health").json()["status"] == "ready"
        assert time.monotonic() - began < 10
        assert [each.result().status_code for each in came] == [200, 200, 200]
        replies = [each.result() for each in hogs]
    gave_way = [reply for reply in replies if reply.status_code != 200]
    assert 1 <= len(gave_way) <= 3, "no more than came"
    assert all(is_too_busy(reply) and "given way" in reply.json()["message"] for reply in gave_way)


def test_many_answers_of_one_request_keep_nobody_out(crowded: Server) -> None:
    hog, *others = (crowded.mint()[0] for _ in range(4))
    body = {"prompt": ["Go on", "And on"], "n": 4, "max_tokens": 100}
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(crowded.post, "/v1/completions", body, key=hog)
        wait_for(crowded, 5)
        assert is_too_busy(crowded.post("/v1/completions", body, key=hog))
        came = ask_in_background(pool, crowded, others)
        assert [each.result().status_code for each in came] == [200, 200, 200]
        assert not first.done(), "each came next, and not after all of them"
        assert first.result().status_code == 200


def test_minted_keys_make_no_larger_share(crowded: Server) -> None:
    parent, other = crowded.mint(scopes=["answer", "keys"])[0], crowded.mint()[0]
    children = [crowded.post("/auth/key", {"scopes": ["answer"]}, key=parent).json()["key"] for _ in range(8)]
    with ThreadPoolExecutor(20) as pool:
        came = ask_in_background(pool, crowded, children, max_tokens=150)
        wait_for(crowded, 6)
        assert is_too_busy(ask(crowded, parent))
        assert ask(crowded, other).status_code == 200
        assert sorted(each.result().status_code for each in came)[-1] == 503


def test_requests_that_wait_for_a_session_give_way_too(crowded: Server) -> None:
    (hog, id_), other = crowded.mint(limits={"parallel": 20}), crowded.mint()[0]
    with ThreadPoolExecutor(20) as pool:
        came = ask_in_background(pool, crowded, 8 * [hog], max_tokens=500, session_id=1)
        until(lambda: in_flight(crowded, hog) == 8, 20)
        assert ask(crowded, other).status_code == 200
        # Nobody waits for the rest of it.
        assert crowded.delete(f"/auth/key/{id_}").status_code == 200
        assert [each.result().status_code for each in came].count(503) == 1


def test_an_answer_that_has_begun_is_not_taken_away(crowded: Server) -> None:
    (hog, id_), other = crowded.mint(), crowded.mint()[0]
    body = {"prompt": "Go on", "memory_k": 0, "stream": True, "max_tokens": 400}
    with ThreadPoolExecutor(8) as pool:
        streams = list(pool.map(lambda _: Stream(crowded.post("/answer", body, key=hog, stream=True)), range(8)))
    wait_for(crowded, 6)
    assert ask(crowded, other).status_code == 200
    assert crowded.delete(f"/auth/key/{id_}").status_code == 200
    rests: list[list[Any]] = [[] for _ in streams]
    threads = [threading.Thread(target=lambda n=n: rests[n].extend(streams[n].rest())) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    failed = [events for events in rests if "error" in str(events[-1])]
    gave_way = [events for events in failed if events[-1]["error"]["code"] == "too_busy"]
    assert len(gave_way) == 1
    assert not any(event["chunk"] for event in gave_way[0][:-1])
    # The others end with their key, later.
    assert all(events[-1]["error"]["type"] == "authentication_error" for events in failed if events is not gave_way[0])


def test_the_answers_of_a_revoked_key_end(crowded: Server) -> None:
    key, id_ = crowded.mint()
    body = {"prompt": "Go on", "memory_k": 0, "stream": True, "max_tokens": 4000}
    stream = Stream(crowded.post("/answer", body, key=key, stream=True))
    assert stream.next()
    assert crowded.delete(f"/auth/key/{id_}").status_code == 200
    began = time.monotonic()
    assert stream.rest()[-1]["error"]["type"] == "authentication_error"
    assert time.monotonic() - began < 5
