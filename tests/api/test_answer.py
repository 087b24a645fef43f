from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.serving import ENDLESS, Server

Serve = Callable[..., Server]


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    """Run the calls at once; return what each returned."""
    results: list[Any] = [None] * len(calls)

    def run(n: int) -> None:
        results[n] = calls[n]()

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_an_answer_says_all_about_itself(server: Server) -> None:
    answer = server.ask("What is the capital of France?", memory_k=0)
    assert answer["result"] == "The capital of France is Paris."
    assert (answer["session_id"], answer["model"], answer["profile"]) == (None, "guide.gguf", "Guide")
    assert answer["finish_reason"] == "stop"
    assert set(answer["usage"]) == {"prompt_tokens", "cached_tokens", "completion_tokens"}
    assert all(name.endswith("_ms") and value >= 0 for name, value in answer["timings"].items())


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


def test_a_stream_gives_chunks_then_the_whole_then_done(server: Server) -> None:
    stream = server.stream("How do I mint a key?", session_id=50)
    assert stream.reply.headers["Content-Type"].startswith("text/event-stream")
    *chunks, whole, done = stream.rest()
    assert done == "[DONE]"
    assert len(chunks) > 5
    assert "".join(event["chunk"] for event in chunks) == whole["result"]
    assert whole == {
        **server.ask("How do I mint a key?", memory_k=0),
        **{k: whole[k] for k in ("session_id", "usage", "timings")},
    }
    assert server.get("/answer/50").json()["messages"][1] == {"type": "ai", "content": whole["result"]}


def test_the_body_needs_no_content_type(server: Server) -> None:
    reply = server.request("POST", "/answer", data='{"prompt": "Count to 3."}', headers={"Content-Type": "text/plain"})
    assert reply.json()["result"] == "1, 2, 3."


def test_what_a_request_sets_goes_before_the_profile(server: Server) -> None:
    cut = server.ask("Count to 9.", memory_k=0, max_tokens=4)
    assert (cut["finish_reason"], cut["usage"]["completion_tokens"]) == ("length", 4)
    assert server.ask("Count to 9.", memory_k=0, stop=" 4")["result"] == "1, 2, 3,"
    assert server.ask("Count to 9.", memory_k=0, stop=["7", "5"])["result"] == "1, 2, 3, 4,"
    wild: dict[str, Any] = {"temperature": 2.0, "top_k": 0, "top_p": 1.0, "memory_k": 0}
    drawn = [server.ask("Tell me about yourself.", seed=seed, **wild)["result"] for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1


def test_max_tokens_is_cut_to_what_the_context_leaves(server: Server) -> None:
    assert server.ask("What is 7 plus 5?", memory_k=0, max_tokens=16_000)["result"] == "7 plus 5 is 12."


def test_a_session_remembers_and_others_do_not(server: Server) -> None:
    assert server.ask("My name is Ana.", session_id=1)["result"] == "Nice to meet you, Ana!"
    assert server.ask("What is my name?", session_id=1)["result"] == "Your name is Ana."
    assert server.ask("What is my name?", session_id=2)["result"] == "You have not told me your name yet."
    assert server.ask("What is my name?", session_id=1, memory_k=0)["result"] == "You have not told me your name yet."


def test_what_is_past_the_window_is_forgotten_but_kept(server: Server) -> None:
    server.ask("My dog is called Rex.", session_id=3)
    for n in range(3):
        assert server.ask("What is my dog called?", session_id=3, memory_k=2 * n + 1)["result"] == "Your dog is called Rex."
        server.ask(f"What is {n} plus 1?", session_id=3)
    assert "Rex" not in server.ask("What is my dog called?", session_id=3, memory_k=1)["result"]
    messages = server.get("/answer/3").json()["messages"]
    assert messages[0] == {"type": "human", "content": "My dog is called Rex."}
    assert len(messages) == 16


def test_the_profiles_window_is_five_exchanges(server: Server) -> None:
    server.ask("My lucky number is 77.", session_id=4)
    for _ in range(4):
        server.ask("What is 1 plus 1?", session_id=4)
    assert server.ask("What is my lucky number?", session_id=4)["result"] == "The number is 77."
    for _ in range(5):
        server.ask("What is 1 plus 1?", session_id=4)
    assert server.ask("What is my lucky number?", session_id=4)["result"] == "You have not told me a number."


def test_without_a_session_the_talk_is_kept_in_memory_only(serve: Serve) -> None:
    server = serve()
    ana, _ = server.mint("Ana")
    server.ask("My name is Ana.", key=ana)
    assert server.ask("What is my name?")["result"] == "You have not told me your name yet."
    assert server.ask("What is my name?", key=ana)["result"] == "Your name is Ana."
    assert server.ask("What is my name?", key=ana, memory_k=0)["result"] == "You have not told me your name yet."
    assert server.get("/answer", key=ana).json() == {}
    assert server.stop() == 0
    server.start()
    assert server.ask("What is my name?", key=ana)["result"] == "You have not told me your name yet."


def test_sessions_are_listed_by_their_last_use_and_renamed(server: Server) -> None:
    key, id_ = server.mint()
    for number in (1, 2, 1):
        server.ask("Hello", key=key, session_id=number)
        time.sleep(1.1)
    listed = server.get("/sessions", key=key).json()["sessions"]
    assert [(entry["session_id"], entry["messages"]) for entry in listed] == [(1, 4), (2, 2)]
    assert listed[0]["updated"] > listed[1]["updated"] >= listed[0]["created"]
    assert server.request("PATCH", "/answer/2", json={"name": "Mine"}, key=key).json() == {"name": "Mine"}
    assert server.get("/answer/2", key=key).json()["name"] == "Mine"
    assert server.request("PATCH", f"/answer/{id_}/2", json={"name": "Ours"}).status_code == 200
    assert server.get("/answer", key=key).json()["2"] == "Ours"
    assert server.request("PATCH", "/answer/9", json={"name": "x"}, key=key).status_code == 404
    assert server.request("PATCH", "/answer/2", json={"name": ""}, key=key).status_code == 400
    assert not [entry for entry in server.get("/sessions").json()["sessions"] if entry["name"] == "Ours"]


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


def test_sessions_are_listed_shown_and_forgotten(serve: Serve) -> None:
    server = serve()
    assert server.get("/answer").json() == {}
    server.ask("Count to 3.", session_id=12)
    server.ask("What   can\nyou do? " + "x" * 100, session_id=0)
    names = server.get("/answer/").json()
    assert list(names) == ["0", "12"]
    assert names["12"] == "Count to 3."
    assert names["0"].startswith("What can you do? xxx")
    assert len(names["0"]) <= 60
    shown = server.get("/answer/12/").json()
    assert (shown["session_id"], shown["name"]) == (12, "Count to 3.")
    assert shown["messages"] == [{"type": "human", "content": "Count to 3."}, {"type": "ai", "content": "1, 2, 3."}]
    assert server.delete("/answer/12").json() == {"deleted": True}
    assert server.get("/answer/12").status_code == 404
    assert list(server.get("/answer").json()) == ["0"]


def test_a_session_belongs_to_its_key(serve: Serve) -> None:
    server = serve()
    (ana, ana_id), (bob, _) = server.mint("Ana"), server.mint("Bob")
    server.ask("My name is Ana.", key=ana, session_id=1)
    assert server.ask("What is my name?", key=bob, session_id=1)["result"] == "You have not told me your name yet."
    server.ask("My name is Bob.", key=bob, session_id=1)
    assert server.ask("What is my name?", key=ana, session_id=1)["result"] == "Your name is Ana."
    server.ask("Count to 3.", key=ana, session_id=2)
    assert server.get("/answer/2", key=bob).status_code == 404
    assert server.delete("/answer/2", key=bob).status_code == 404
    assert server.get(f"/answer/{ana_id}/2", key=bob).status_code == 404
    assert server.get("/answer/2").status_code == 404
    assert list(server.get("/answer", key=bob).json()) == ["1"]
    everybodys = server.get("/answer").json()
    assert everybodys[f"{ana_id}/1"] == "My name is Ana."
    assert len(everybodys) == 3
    assert server.get(f"/answer/{ana_id}/2").json()["name"] == "Count to 3."
    assert server.delete(f"/answer/{ana_id}/2").status_code == 200
    assert list(server.get("/answer", key=ana).json()) == ["1"]


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


def test_requests_on_one_session_are_answered_in_turn_and_none_is_lost(server: Server) -> None:
    prompts = [f"Count to {n}." for n in range(3, 10)]
    answers = in_threads(*[lambda p=prompt: server.ask(p, session_id=60)["result"] for prompt in prompts])
    messages = [message["content"] for message in server.get("/answer/60").json()["messages"]]
    assert dict(zip(messages[::2], messages[1::2], strict=True)) == dict(zip(prompts, answers, strict=True))
    assert len(messages) == 2 * len(prompts)


@pytest.mark.parametrize(
    "typed", ["{input}", "{0.__class__}", "{{", "{chat_history} {input}", "<|end|>", "a\u2028b \U0001f600"]
)
def test_a_prompt_arrives_as_typed(server: Server, typed: str) -> None:
    server.ask(typed, session_id=70)
    messages = server.get("/answer/70").json()["messages"]
    assert messages[-2]["content"] == typed
    assert server.delete("/answer/70").status_code == 200


BAD_BODIES: list[tuple[Any, str]] = [
    (b"", "prompt: is missing"),
    (b"{", "the body is not JSON"),
    (b"\xff", "not UTF-8"),
    (b"[]", "should be a JSON object"),
    (b'"hi"', "should be a JSON object"),
    (b"null", "should be a JSON object"),
    (b"[" * 100_000, "the body is not JSON"),
    (b'{"prompt": "a", "temperature": NaN}', "NaN is not a JSON number"),
    (b'{"prompt": "a", "temperature": Infinity}', "Infinity is not a JSON number"),
    (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", "the body is not JSON"),
    (b'{"prompt": "\\ud800"}', "half a character"),
    ({}, "prompt: is missing"),
    ({"prompt": ""}, "prompt: the prompt is empty"),
    ({"prompt": " \n\t"}, "prompt: the prompt is empty"),
    ({"prompt": 5}, "prompt: "),
    ({"prompt": None}, "prompt: "),
    ({"prompt": ["a"]}, "prompt: "),
    ({"prompt": "a", "colour": 1}, "colour: there is no such field"),
    ({"prompt": "a", "max_token": 1}, "did you mean max_tokens?"),
]
BAD_VALUES: dict[str, list[Any]] = {
    "session_id": ["1", 1.5, True, -1, 2**63, 1e300, []],
    "max_tokens": [0, -1, 2.5, 1e300, 2**63, "9"],
    "temperature": [-0.1, 1e300, 2**63, "hot", True],
    "top_p": [-0.1, 1.1, 1e300, "1"],
    "top_k": [-1, 0.5, 1e300, 2**63],
    "repeat_penalty": [0, -1, 1e300],
    "memory_k": [-1, 0.5, 2**63, "5"],
    "seed": [-1, 2**63, 0.5],
    "stop": ["", [""], ["a"] * 17, 5, [5], "x" * 257],
    "stream": ["yes", 1],
}
BAD_BODIES += [({"prompt": "a", name: bad}, name) for name, values in BAD_VALUES.items() for bad in values]


@pytest.mark.parametrize(("body", "says"), BAD_BODIES)
def test_a_bad_body_is_refused_by_name(server: Server, body: Any, says: str) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = server.request("POST", "/answer", data=data)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert says in error["message"]
    assert reply.json()["message"] == error["message"]
    assert error["type"] == "invalid_request_error"


def test_a_refused_request_changes_nothing(server: Server) -> None:
    server.ask("Count to 3.", session_id=80)
    before = server.get("/answer/80").json()
    for fields in ({"prompt": ""}, {"prompt": "a", "top_p": 9}, {"prompt": "word " * 9000}):
        assert server.post("/answer", {**fields, "session_id": 80}).status_code == 400
    assert server.get("/answer/80").json() == before


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_cannot_fit_is_refused_with_both_counts(server: Server, stream: bool) -> None:
    reply = server.post("/answer", {"prompt": "window " * 3000, "stream": stream})
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "prompt_too_long"
    assert reply.json()["error"]["param"] == "prompt"
    assert "2048" in reply.json()["message"]
    assert "3015 tokens" in reply.json()["message"] or "tokens" in reply.json()["message"]


def test_a_long_talk_is_fitted_into_the_context(server: Server) -> None:
    """Exchanges that would not fit are left out, the oldest first."""
    server.ask("My name is Ana.", session_id=90)
    server.ask("Say " + "window " * 700, session_id=90, max_tokens=5)
    server.ask("Say " + "window " * 700, session_id=90, max_tokens=5)
    answer = server.ask("What is 7 plus 5?", session_id=90)
    assert answer["usage"]["prompt_tokens"] < 2048 - 200
    assert answer["result"]


@pytest.mark.parametrize(
    "path", ["/answer/123456", "/answer/x", "/answer/-1", "/answer/1.5", "/answer/" + "9" * 6000, "/answer/a/b/c"]
)
def test_an_unknown_session_is_not_found(server: Server, path: str) -> None:
    for method in ("GET", "DELETE"):
        reply = server.request(method, path)
        assert reply.status_code == 404
        assert reply.json()["error"]["type"] == "not_found_error"


def test_hanging_up_on_a_stream_frees_the_engine(endless: Server) -> None:
    stream = endless.stream("Go on", session_id=1)
    stream.next()
    stream.close()
    assert endless.ask("Hi", max_tokens=1, memory_k=0)["timings"]["queued_ms"] < 3000
    assert endless.get("/answer").json() == {}


def test_hanging_up_without_a_stream_frees_the_engine(endless: Server) -> None:
    with pytest.raises(OSError, match="timed out"):
        endless.http.post(
            f"{endless.url}/answer", json={"prompt": "Go on"}, headers={"Authorization": endless.key}, timeout=0.7
        )
    assert endless.ask("Hi", max_tokens=1, memory_k=0)["timings"]["queued_ms"] < 3000


def test_hanging_up_while_waiting_for_the_session_leaves_the_other_alone(endless: Server) -> None:
    first = endless.stream("Go on", session_id=1, max_tokens=600)
    first.next()
    with pytest.raises(OSError, match="timed out"):
        endless.http.post(
            f"{endless.url}/answer",
            json={"prompt": "And me?", "session_id": 1},
            headers={"Authorization": endless.key},
            timeout=0.3,
        )
    assert first.rest()[-1] == "[DONE]"
    time.sleep(0.5)
    assert [m["content"] for m in endless.get("/answer/1").json()["messages"][::2]] == ["Go on"]


def test_the_server_stays_reachable_while_it_computes(endless: Server) -> None:
    replies = [endless.stream(f"Go on {n}") for n in range(3)]
    assert endless.get("/health").json() == {"status": "ready"}
    assert endless.get("/auth").json() == {"auth": True}
    for reply in replies:
        reply.close()


def test_too_many_answers_at_once_are_told_to_come_back(serve: Serve, models: Path) -> None:
    server = serve("--threads", "4", "--reserve", "2", models=models)
    server.edit_config("Random", **ENDLESS)
    server.select("Random")
    open_ones = [server.stream("Go on") for _ in range(2)]
    refused = server.post("/answer", {"prompt": "Me too"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_busy")
    assert int(refused.headers["Retry-After"]) > 0
    for reply in open_ones:
        reply.close()
    deadline = time.monotonic() + 10
    while server.post("/answer", {"prompt": "Hi", "max_tokens": 1}).status_code != 200:
        assert time.monotonic() < deadline


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
