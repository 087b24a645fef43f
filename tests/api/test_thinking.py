"""Thoughts over /answer: told apart from the answer, streamed, stored, limited and ended."""

from __future__ import annotations

import json
import threading
from typing import Any
from urllib.parse import urlencode

import pytest

from services.backend.types import Mark
from tests.support.fake_backend import FakeBackend, Piece
from tests.support.in_process import Client

# A template that thinks by its own choice, shows the last answer's thoughts, and can be told not to.
THINKER = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.reasoning_content and loop.index0 >= messages | length - 2 %}"
    "<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}{% endif %}"
)
THOUGHT: tuple[Piece, ...] = (Mark("<think>"), "\nTwo and two", " are four.\n", Mark("</think>"), "\n\nFour", ".")


@pytest.fixture
def thinker(client: Client) -> Client:
    client.edit_config(template=None, chat_template=THINKER)
    return client


def shown(client: Client, session: int) -> list[dict[str, str]]:
    return list(client.get(f"/answer/{session}").json()["messages"])


def test_thoughts_are_no_part_of_the_answer(thinker: Client, backend: FakeBackend) -> None:
    backend.reply(*THOUGHT)
    answer = thinker.ask("What is 2 plus 2?", session_id=1)
    assert (answer["result"], answer["reasoning"]) == ("Four.", "Two and two are four.")
    assert 5 <= answer["usage"]["reasoning_tokens"] < answer["usage"]["completion_tokens"]
    assert shown(thinker, 1)[1] == {"type": "ai", "content": "Four.", "reasoning": "Two and two are four."}
    backend.reply("Hello.")
    answer = thinker.ask("Hello", session_id=2)
    assert "reasoning" not in answer
    assert answer["usage"]["reasoning_tokens"] == 0
    assert shown(thinker, 2)[1] == {"type": "ai", "content": "Hello."}


def test_a_stream_has_thoughts_and_then_the_answer(thinker: Client, backend: FakeBackend) -> None:
    backend.reply(*THOUGHT)
    *events, whole, done = thinker.stream("What is 2 plus 2?", session_id=1).rest()
    assert done == "[DONE]"
    assert events[0]["queue_position"] == 0
    kinds = ["reasoning" if "reasoning" in event else "chunk" for event in events]
    assert kinds == sorted(kinds, reverse=True)
    assert "".join(event.get("reasoning", "") for event in events) == whole["reasoning"] == "Two and two are four."
    assert "".join(event.get("chunk", "") for event in events) == whole["result"] == "Four."


def test_thoughts_are_kept_over_a_restart_and_reach_the_template(thinker: Client, backend: FakeBackend) -> None:
    backend.reply(*THOUGHT)
    thinker.ask("What is 2 plus 2?", session_id=1)
    thinker.restart()
    assert shown(thinker, 1)[1]["reasoning"] == "Two and two are four."
    prompt = thinker.get("/answer/1/prompt?prompt=And+3?").json()["prompt"]
    assert "<think>Two and two are four.</think>Four.\n<|user|>And 3?" in prompt
    assert thinker.get("/sessions?q=two+and+two").json()["sessions"] == []
    # As a person reads it in the file.
    thinker.close()
    stored = json.loads((thinker.data / "sessions.json").read_text(encoding="utf-8"))
    assert stored["1"]["messages"][1] == {"type": "ai", "content": "Four.", "reasoning": "Two and two are four."}
    thinker.open()


def test_a_request_that_is_sent_again_gets_its_thoughts_again(thinker: Client, backend: FakeBackend) -> None:
    backend.reply(*THOUGHT)
    body, headers = {"prompt": "What is 2 plus 2?", "session_id": 1}, {"Idempotency-Key": "sum"}
    first = thinker.post("/answer", body, headers=headers).json()
    assert first["reasoning"] == "Two and two are four."
    assert thinker.post("/answer", body, headers=headers).json() == first


WAYS_OFF: list[dict[str, Any]] = [
    {"think": False},
    {"thinking": False},
    {"enable_thinking": False},
    {"reasoning_effort": "none"},
    {"think": "none"},
    {"thinking_budget": 0},
    {"chat_template_kwargs": {"enable_thinking": False}},
    {"think": False, "reasoning_effort": "none", "enable_thinking": False},
]


@pytest.mark.parametrize("fields", WAYS_OFF)
def test_thinking_is_switched_off(thinker: Client, backend: FakeBackend, fields: dict[str, Any]) -> None:
    thinker.ask("Hello", **fields)
    request = backend.requests[-1]
    assert backend.models()[0].text(request.tokens).endswith("<|assistant|><think></think>")
    assert request.thoughts
    assert (request.thoughts.budget, request.thoughts.is_open, request.marks) == (0, False, True)


@pytest.mark.parametrize(
    ("profile", "fields", "budget"),
    [
        ({}, {}, None),
        ({}, {"thinking_budget": 30}, 30),
        ({}, {"think": True, "thinking_budget": 30}, 30),
        ({"thinking_budget": 20}, {}, 20),
        ({"thinking_budget": 20}, {"thinking_budget": 30}, 30),
        ({"thinking": False}, {}, 0),
        ({"thinking": False}, {"think": True}, None),
        ({"thinking": False, "thinking_budget": 20}, {"think": True}, None),
        ({"thinking": "low"}, {"think": False}, 0),
        ({"chat_template_kwargs": {"enable_thinking": False}}, {}, 0),
        ({"chat_template_kwargs": {"enable_thinking": False}}, {"thinking": True}, None),
    ],
)
def test_the_request_goes_before_the_profile(
    thinker: Client, backend: FakeBackend, profile: dict[str, Any], fields: dict[str, Any], budget: int | None
) -> None:
    thinker.edit_config(**profile)
    thinker.ask("Hello", **fields)
    request = backend.requests[-1]
    assert request.thoughts
    assert request.thoughts.budget == budget
    is_off = backend.models()[-1].text(request.tokens).endswith("<think></think>")
    assert is_off == (budget == 0)


def test_a_budget_ends_the_thought_and_the_model_answers(thinker: Client, backend: FakeBackend) -> None:
    backend.reply(Mark("<think>"), "one two three four five six seven", Mark("</think>"), "\n\nSeven.")
    answer = thinker.ask("Count", thinking_budget=3)
    assert answer["reasoning"].startswith("one two three")
    assert "five" not in answer["reasoning"]
    assert answer["result"] == "Seven."


def test_a_thought_is_ended_by_its_reader(thinker: Client, backend: FakeBackend) -> None:
    goes_on = threading.Event()
    backend.reply(Mark("<think>"), "Hm, let me see", goes_on, " and see and see", Mark("</think>"), "Done.")
    stream = thinker.stream("Think", session_id=1)
    assert stream.next()["reasoning"]
    assert thinker.post("/answer/1/stop", {"what": "thinking"}).json() == {"stopped": True}
    goes_on.set()
    *_, whole, _done = stream.rest()
    assert (whole["result"], whole["finish_reason"]) == ("Done.", "stop")
    assert "and see and see" not in whole["reasoning"]
    assert thinker.post("/answer/1/stop", {"what": "thinking"}).json() == {"stopped": False}


@pytest.mark.parametrize("body", [{"what": "everything"}, {"what": None}, {"what": 1}, {"which": "thinking"}])
def test_nothing_else_can_be_stopped(client: Client, body: dict[str, Any]) -> None:
    reply = client.post("/answer/1/stop", body)
    assert reply.status_code == 400
    assert next(iter(body)) in reply.json()["message"]


def test_what_is_stopped_within_a_thought_never_happened(thinker: Client, backend: FakeBackend) -> None:
    backend.reply(Mark("<think>"), "Hm, let me see", threading.Event())
    stream = thinker.stream("Think", session_id=1)
    assert stream.next()["reasoning"]
    assert thinker.post("/answer/1/stop", {"what": "answer"}).json() == {"stopped": True}
    *_, whole, _done = stream.rest()
    assert (whole["result"], whole["finish_reason"]) == ("", "cancelled")
    assert thinker.get("/answer/1").status_code == 404


BAD: list[tuple[dict[str, Any], str]] = [
    ({"think": "much"}, "think"),
    ({"think": 1}, "think"),
    ({"thinking": "1"}, "thinking"),
    ({"enable_thinking": "yes"}, "enable_thinking"),
    ({"reasoning_effort": "huge"}, "reasoning_effort"),
    ({"reasoning_effort": True}, "reasoning_effort"),
    ({"thinking_budget": -1}, "thinking_budget"),
    ({"thinking_budget": 1.5}, "thinking_budget"),
    ({"chat_template_kwargs": []}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
    ({"think": True, "enable_thinking": False}, "enable_thinking"),
    ({"think": "low", "reasoning_effort": "high"}, "reasoning_effort"),
    ({"think": False, "reasoning_effort": "low"}, "reasoning_effort"),
]


@pytest.mark.parametrize(("fields", "param"), BAD)
def test_a_wish_that_cannot_be_is_refused_by_name(client: Client, fields: dict[str, Any], param: str) -> None:
    reply = client.post("/answer", {"prompt": "Hi", **fields})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("fields", [{"think": True}, {"reasoning_effort": "low"}, {"think": "high"}])
def test_a_model_that_has_no_thoughts_is_not_asked_for_some(client: Client, fields: dict[str, Any]) -> None:
    name = next(iter(fields))
    for template in ("{chat_history} {input}", None):
        client.edit_config(template=template)
        reply = client.post("/answer", {"prompt": "Hi", **fields})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, name)
        # Not to think is what such a model does.
        for off in ({"think": False}, {"reasoning_effort": "none"}, {"thinking_budget": 5}):
            assert client.post("/answer", {"prompt": "Hi", **off}).status_code == 200


@pytest.mark.parametrize("path", ["/api/generate", "/api", "/chat_completion", "/generate"])
def test_clients_that_know_no_thoughts_get_the_answer_alone(thinker: Client, backend: FakeBackend, path: str) -> None:
    said = [{"role": "user", "content": "Hi"}]
    bodies: dict[str, dict[str, Any]] = {
        "/api/generate": {"prompt": "Hi"},
        "/api": {"inputs": said},
        "/chat_completion": {"job_id": "1", "messages": said},
        "/generate": {"job_id": "2", "content": "Hi"},
    }
    backend.reply(*THOUGHT)
    reply = thinker.post(path, bodies[path])
    assert reply.status_code == 200
    assert "Four" in reply.text
    assert "Two" not in reply.text
    assert "think" not in reply.text


def test_a_text_that_is_continued_has_no_thoughts(thinker: Client, backend: FakeBackend) -> None:
    backend.reply("<think>a</think>", Mark("<|end|>"), " b")
    reply = thinker.post("/api", {"inputs": "Once upon"}).json()
    assert reply["answer"]["content"] == "<think>a</think> b"
    assert not backend.requests[-1].marks
    assert backend.requests[-1].thoughts is None


def test_a_long_thought_keeps_the_connection_of_a_client_that_knows_none(
    thinker: Client, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.api.http.sse._SILENCE", 0.0)
    backend.reply(*THOUGHT)
    reply = thinker.post("/api/generate", {"prompt": "Hi"})
    assert reply.text.count(": waiting\n\n") > 3


def test_the_prompt_is_shown_with_the_thinking_that_is_asked_for(thinker: Client) -> None:
    def shown_with(**fields: str) -> str:
        reply = thinker.get("/answer/1/prompt?" + urlencode({"prompt": "Hi", **fields}))
        assert reply.status_code == 200, reply.text
        return str(reply.json()["prompt"])

    assert not shown_with().endswith("<think></think>")
    off = [{"think": "false"}, {"enable_thinking": "false"}, {"thinking": "false"}, {"reasoning_effort": "none"}]
    for fields in (*off, {"thinking_budget": "0"}, {"chat_template_kwargs": '{"enable_thinking": false}'}):
        assert shown_with(**fields).endswith("<think></think>"), fields
    assert not shown_with(think="high", thinking_budget="5").endswith("<think></think>")
    for fields in ({"think": "maybe"}, {"thinking_budget": "x"}, {"chat_template_kwargs": "{"}, {"enable_thinking": "1"}):
        reply = thinker.get("/answer/1/prompt?" + urlencode(fields))
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, next(iter(fields)))
