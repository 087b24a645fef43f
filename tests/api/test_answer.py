from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.clock import Clock
from tests.support.fake_backend import FakeBackend, endless
from tests.support.in_process import Client
from tests.support.serving import in_threads

Open = Callable[..., Client]


def test_an_answer_says_all_about_itself(client: Client) -> None:
    answer = client.ask("What is the capital of France?", memory_k=0)
    assert answer["result"] == "The capital of France is Paris."
    assert (answer["session_id"], answer["model"], answer["profile"]) == (None, "guide.gguf", "Guide")
    assert answer["finish_reason"] == "stop"
    assert set(answer["usage"]) == {"prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"}
    assert all(name.endswith("_ms") and value >= 0 for name, value in answer["timings"].items())


def test_a_stream_gives_chunks_then_the_whole_then_done(client: Client) -> None:
    stream = client.stream("How do I mint a key?", session_id=50)
    assert stream.reply.headers["Content-Type"].startswith("text/event-stream")
    *chunks, whole, done = stream.rest()
    assert done == "[DONE]"
    assert len(chunks) > 5
    assert "".join(event["chunk"] for event in chunks) == whole["result"]
    assert whole == {
        **client.ask("How do I mint a key?", memory_k=0),
        **{k: whole[k] for k in ("session_id", "usage", "timings")},
    }
    assert client.get("/answer/50").json()["messages"][1] == {"type": "ai", "content": whole["result"]}


def test_the_body_needs_no_content_type(client: Client) -> None:
    reply = client.request("POST", "/answer", data='{"prompt": "Count to 3."}', headers={"Content-Type": "text/plain"})
    assert reply.json()["result"] == "1, 2, 3."


def test_max_tokens_is_cut_to_what_the_context_leaves(client: Client) -> None:
    assert client.ask("What is 7 plus 5?", memory_k=0, max_tokens=16_000)["result"] == "7 plus 5 is 12."


def test_a_session_remembers_and_others_do_not(client: Client) -> None:
    assert client.ask("My name is Ana.", session_id=1)["result"] == "Nice to meet you, Ana!"
    assert client.ask("What is my name?", session_id=1)["result"] == "Your name is Ana."
    assert client.ask("What is my name?", session_id=2)["result"] == "You have not told me your name yet."
    assert client.ask("What is my name?", session_id=1, memory_k=0)["result"] == "You have not told me your name yet."


def test_what_is_past_the_window_is_forgotten_but_kept(client: Client) -> None:
    client.ask("My dog is called Rex.", session_id=3)
    for n in range(3):
        assert client.ask("What is my dog called?", session_id=3, memory_k=2 * n + 1)["result"] == "Your dog is called Rex."
        client.ask(f"What is {n} plus 1?", session_id=3)
    assert "Rex" not in client.ask("What is my dog called?", session_id=3, memory_k=1)["result"]
    messages = client.get("/answer/3").json()["messages"]
    assert messages[0] == {"type": "human", "content": "My dog is called Rex."}
    assert len(messages) == 16


def test_the_profiles_window_is_five_exchanges(client: Client) -> None:
    client.ask("My lucky number is 77.", session_id=4)
    for _ in range(4):
        client.ask("What is 1 plus 1?", session_id=4)
    assert client.ask("What is my lucky number?", session_id=4)["result"] == "The number is 77."
    for _ in range(5):
        client.ask("What is 1 plus 1?", session_id=4)
    assert client.ask("What is my lucky number?", session_id=4)["result"] == "You have not told me a number."


def test_without_a_session_the_talk_is_kept_in_memory_only(client: Client) -> None:
    ana, _ = client.mint("Ana")
    client.ask("My name is Ana.", key=ana)
    assert client.ask("What is my name?")["result"] == "You have not told me your name yet."
    assert client.ask("What is my name?", key=ana)["result"] == "Your name is Ana."
    assert client.ask("What is my name?", key=ana, memory_k=0)["result"] == "You have not told me your name yet."
    assert client.get("/answer", key=ana).json() == {}
    client.restart()
    assert client.ask("What is my name?", key=ana)["result"] == "You have not told me your name yet."


def test_sessions_are_listed_by_their_last_use_and_renamed(client: Client, clock: Clock) -> None:
    key, id_ = client.mint()
    for number in (1, 2, 1):
        client.ask("Hello", key=key, session_id=number)
        clock.forward(2)
    listed = client.get("/sessions", key=key).json()["sessions"]
    assert [(entry["session_id"], entry["messages"]) for entry in listed] == [(1, 4), (2, 2)]
    assert listed[0]["updated"] > listed[1]["updated"] >= listed[0]["created"]
    assert client.request("PATCH", "/answer/2", json={"name": "Mine"}, key=key).json() == {"name": "Mine"}
    assert client.get("/answer/2", key=key).json()["name"] == "Mine"
    assert client.request("PATCH", f"/answer/{id_}/2", json={"name": "Ours"}).status_code == 200
    assert client.get("/answer", key=key).json()["2"] == "Ours"
    assert client.request("PATCH", "/answer/9", json={"name": "x"}, key=key).status_code == 404
    assert client.request("PATCH", "/answer/2", json={"name": ""}, key=key).status_code == 400
    assert not [entry for entry in client.get("/sessions").json()["sessions"] if entry["name"] == "Ours"]


def test_sessions_are_listed_shown_and_forgotten(client: Client) -> None:
    assert client.get("/answer").json() == {}
    client.ask("Count to 3.", session_id=12)
    client.ask("What   can\nyou do? " + "x" * 100, session_id=0)
    names = client.get("/answer/").json()
    assert list(names) == ["0", "12"]
    assert names["12"] == "Count to 3."
    assert names["0"].startswith("What can you do? xxx")
    assert len(names["0"]) <= 60
    shown = client.get("/answer/12/").json()
    assert (shown["session_id"], shown["name"]) == (12, "Count to 3.")
    assert shown["messages"] == [{"type": "human", "content": "Count to 3."}, {"type": "ai", "content": "1, 2, 3."}]
    assert client.delete("/answer/12").json() == {"deleted": True}
    assert client.get("/answer/12").status_code == 404
    assert list(client.get("/answer").json()) == ["0"]


def test_a_session_belongs_to_its_key(client: Client) -> None:
    (ana, ana_id), (bob, _) = client.mint("Ana"), client.mint("Bob")
    client.ask("My name is Ana.", key=ana, session_id=1)
    assert client.ask("What is my name?", key=bob, session_id=1)["result"] == "You have not told me your name yet."
    client.ask("My name is Bob.", key=bob, session_id=1)
    assert client.ask("What is my name?", key=ana, session_id=1)["result"] == "Your name is Ana."
    client.ask("Count to 3.", key=ana, session_id=2)
    assert client.get("/answer/2", key=bob).status_code == 404
    assert client.delete("/answer/2", key=bob).status_code == 404
    assert client.get(f"/answer/{ana_id}/2", key=bob).status_code == 404
    assert client.get("/answer/2").status_code == 404
    assert list(client.get("/answer", key=bob).json()) == ["1"]
    everybodys = client.get("/answer").json()
    assert everybodys[f"{ana_id}/1"] == "My name is Ana."
    assert len(everybodys) == 3
    assert client.get(f"/answer/{ana_id}/2").json()["name"] == "Count to 3."
    assert client.delete(f"/answer/{ana_id}/2").status_code == 200
    assert list(client.get("/answer", key=ana).json()) == ["1"]


def test_requests_on_one_session_are_answered_in_turn_and_none_is_lost(client: Client) -> None:
    prompts = [f"Count to {n}." for n in range(3, 10)]
    answers = in_threads(*[lambda p=prompt: client.ask(p, session_id=60)["result"] for prompt in prompts])
    messages = [message["content"] for message in client.get("/answer/60").json()["messages"]]
    assert dict(zip(messages[::2], messages[1::2], strict=True)) == dict(zip(prompts, answers, strict=True))
    assert len(messages) == 2 * len(prompts)


@pytest.mark.parametrize(
    "typed", ["{input}", "{0.__class__}", "{{", "{chat_history} {input}", "<|end|>", "a\u2028b \U0001f600"]
)
def test_a_prompt_arrives_as_typed(client: Client, typed: str) -> None:
    client.ask(typed, session_id=70)
    messages = client.get("/answer/70").json()["messages"]
    assert messages[-2]["content"] == typed
    assert client.delete("/answer/70").status_code == 200


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
def test_a_bad_body_is_refused_by_name(client: Client, body: Any, says: str) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = client.request("POST", "/answer", data=data)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert says in error["message"]
    assert reply.json()["message"] == error["message"]
    assert error["type"] == "invalid_request_error"


def test_a_refused_request_changes_nothing(client: Client) -> None:
    client.ask("Count to 3.", session_id=80)
    before = client.get("/answer/80").json()
    for fields in ({"prompt": ""}, {"prompt": "a", "top_p": 9}, {"prompt": "word " * 9000}):
        assert client.post("/answer", {**fields, "session_id": 80}).status_code == 400
    assert client.get("/answer/80").json() == before


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_cannot_fit_is_refused_with_both_counts(client: Client, stream: bool) -> None:
    reply = client.post("/answer", {"prompt": "window " * 3000, "stream": stream})
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "context_length_exceeded"
    assert "exceeds the available context size" in reply.json()["message"]
    assert reply.json()["error"]["param"] == "prompt"
    assert "2048" in reply.json()["message"]
    counted = re.search(r"has (\d+) tokens", reply.json()["message"])
    assert counted
    assert 3000 < int(counted[1]) < 3050


def test_a_long_talk_is_fitted_into_the_context(client: Client) -> None:
    """Exchanges that would not fit are left out, the oldest first."""
    client.ask("My name is Ana.", session_id=90)
    client.ask("Say " + "window " * 700, session_id=90, max_tokens=5)
    client.ask("Say " + "window " * 700, session_id=90, max_tokens=5)
    answer = client.ask("What is 7 plus 5?", session_id=90)
    assert answer["usage"]["prompt_tokens"] < 2048 - 200
    assert answer["result"]


@pytest.mark.parametrize(
    "path", ["/answer/123456", "/answer/x", "/answer/-1", "/answer/1.5", "/answer/" + "9" * 6000, "/answer/a/b/c"]
)
def test_an_unknown_session_is_not_found(client: Client, path: str) -> None:
    for method in ("GET", "DELETE"):
        reply = client.request(method, path)
        assert reply.status_code == 404
        assert reply.json()["error"]["type"] == "not_found_error"


def test_too_many_answers_at_once_are_told_to_come_back(open_client: Open) -> None:
    client = open_client(backend=FakeBackend(endless), threads=4, reserve=2)
    open_ones = [client.stream("Go on") for _ in range(2)]
    refused = client.post("/answer", {"prompt": "Me too"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_busy")
    assert int(refused.headers["Retry-After"]) > 0
    for reply in open_ones:
        reply.close()
    assert client.post("/answer", {"prompt": "Hi", "max_tokens": 1}).status_code == 200


def test_who_gets_no_slot_within_the_time_is_told_so(open_client: Open, backend: FakeBackend) -> None:
    client = open_client(backend=backend, max_seconds=1)
    client.edit_config(n_parallel=1)
    backend.reply(" On", threading.Event())
    with contextlib.closing(client.stream("Hi")) as stream:
        assert stream.next()["chunk"] == "On"
        reply = client.post("/answer", {"prompt": "Hi", "session_id": 4})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "timeout")
        assert int(reply.headers["Retry-After"]) > 0
    assert client.get("/answer/4").status_code == 404
    assert client.post("/answer", {"prompt": "Hi", "session_id": 4}).status_code == 200
