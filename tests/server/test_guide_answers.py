"""/answer with the guide's engine: what it says, how it is sampled, and what of it is computed already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.serving import ENDLESS, Server, in_threads

Serve = Callable[..., Server]


@pytest.mark.parametrize(
    ("prompt", "result"),
    [
        ("What is 7 plus 5?", "7 plus 5 is 12."),
        ("Count to 9.", "1, 2, 3, 4, 5, 6, 7, 8, 9."),
        ("Who wrote Don Quixote?", "I do not know that."),
        ("How do I mint a key?", "Send POST /auth/key with the master key."),
    ],
)
def test_the_guide_answers(server: Server, prompt: str, result: str) -> None:
    assert server.ask(prompt, memory_k=0)["result"].startswith(result)


def test_what_a_request_sets_goes_before_the_profile(server: Server) -> None:
    cut = server.ask("Count to 9.", memory_k=0, max_tokens=4)
    assert (cut["finish_reason"], cut["usage"]["completion_tokens"]) == ("length", 4)
    assert server.ask("Count to 9.", memory_k=0, stop=" 4")["result"] == "1, 2, 3,"
    assert server.ask("Count to 9.", memory_k=0, stop=["7", "5"])["result"] == "1, 2, 3, 4,"
    wild: dict[str, Any] = {"temperature": 2.0, "top_k": 0, "top_p": 1.0, "memory_k": 0}
    drawn = [server.ask("Tell me about yourself.", seed=seed, **wild)["result"] for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1


def test_sessions_outlive_the_server(serve: Serve) -> None:
    server = serve()
    server.ask("My name is Zoltan.", session_id=9)
    before = server.get("/answer/9").json()
    assert server.stop() == 0
    server.start()
    assert server.get("/answer/9").json() == before
    assert server.ask("What is my name?", session_id=9)["result"] == "Your name is Zoltan."
    server.kill()
    server.start()
    assert len(server.get("/answer/9").json()["messages"]) == 4


def test_cached_tokens_tell_nothing_of_another_key(serve: Serve) -> None:
    server = serve()
    (ana, _), (bob, _) = server.mint(), server.mint()
    server.ask("My secret word is marzipan.", key=ana, memory_k=0)
    assert server.ask("My secret word is marzipan.", key=bob, memory_k=0)["usage"]["cached_tokens"] == 0
    assert server.ask("My secret word is marzipan.", key=bob, memory_k=0)["usage"]["cached_tokens"] > 0


def test_four_callers_at_once_are_all_answered_right(server: Server) -> None:
    capitals = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo"}
    keys = [server.mint()[0] for _ in capitals]

    def ask(country: str, key: str) -> str:
        return str(server.ask(f"What is the capital of {country}?", key=key, session_id=1)["result"])

    asked = [lambda c=country, k=key: ask(c, k) for country, key in zip(capitals, keys, strict=True)]
    assert in_threads(*asked) == [f"The capital of {country} is {city}." for country, city in capitals.items()]


def test_the_server_stays_reachable_while_it_computes(endless: Server) -> None:
    replies = [endless.stream(f"Go on {n}") for n in range(3)]
    assert endless.get("/health").json() == {"status": "ready"}
    assert endless.get("/auth").json() == {"auth": True}
    for reply in replies:
        reply.close()


def test_stopping_the_server_ends_streams_with_an_error(serve: Serve, models: Path) -> None:
    # A fast machine would come to the answer's end in the usual time.
    endless = serve("--stop-seconds", "1", models=models)
    endless.edit_config("Random", **ENDLESS)
    endless.select("Random")
    stream = endless.stream("Go on", session_id=1)
    stream.next()
    assert endless.stop() == 0
    assert stream.rest()[-1]["error"]["type"] == "server_error"
    endless.start(ready=False)
    assert endless.get("/answer").json() == {}


def test_a_queued_stream_is_told_its_place(serve: Serve, models: Path) -> None:
    server = serve("--queue", "2", models=models)
    server.edit_config("Random", **{**ENDLESS, "n_parallel": 1})
    server.select("Random")
    first = server.stream("Go on")
    assert first.next()["queue_position"] == 0
    assert "queue_position" not in first.next()
    second = server.stream("Go on")
    assert second.next() == {"chunk": "", "queue_position": 1}
    third = server.stream("Go on")
    assert third.next() == {"chunk": "", "queue_position": 2}
    refused = server.post("/answer", {"prompt": "Me too"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_busy")
    assert "2 answers wait" in refused.json()["message"]
    assert int(refused.headers["Retry-After"]) > 0
    first.close()
    assert second.next()["chunk"]
    assert next(line for line in third.reply.iter_lines() if line) == b": queued 1"
    for stream in (second, third):
        stream.close()
