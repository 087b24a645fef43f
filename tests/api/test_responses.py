"""/v1/responses: items and their events, stored responses, conversations, and responses in the background."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from auth.identity import MASTER
from services.errors import StorageFailed
from services.sessions import responses as stored_responses
from services.sessions.responses import KEPT_FOR, StoredResponse
from tests.api.test_anthropic import events_of
from tests.api.test_jobs import on_disk
from tests.api.test_openai_tools import ARGUMENTS, MARKS, TEMPLATE, THOUGHT, call, prompt_of
from tests.support.fake_backend import FakeBackend
from tests.support.in_process import Client
from tests.support.openai_api import CLOCK, FRANCE, WEATHER
from tests.support.serving import wait_for

RESPONSES, COUNT = "/v1/responses", "/v1/responses/input_tokens"
TOOLS: list[Any] = [{"type": "function", **each["function"]} for each in (WEATHER, CLOCK)]  # type: ignore[dict-item]
NAMES = {"get_weather", "clock"}
CLOCK_CHOICE = {"type": "function", "name": "clock"}
LARK = {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"}
PATCH = {"type": "custom", "name": "apply_patch", "description": "Edit a file.", "format": LARK}
# Thoughts that nobody can open take room and no place in a prompt.
BALLAST = {"type": "reasoning", "summary": [], "encrypted_content": "!" * 600_000}


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend(template=TEMPLATE, specials=MARKS)


@pytest.fixture
def client(client: Client) -> Client:
    client.edit_config("Guide", template=None)
    return client


def respond(client: Client, words: Any = FRANCE, key: str | None = None, **fields: Any) -> dict[str, Any]:
    """The whole reply to a response, which must succeed."""
    headers = fields.pop("headers", {})
    reply = client.post(RESPONSES, {"model": "Guide", "input": words} | fields, key=key or client.key, headers=headers)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def refused(client: Client, words: Any = FRANCE, status: int = 400, **fields: Any) -> dict[str, Any]:
    key = fields.pop("key", client.key)
    reply = client.post(RESPONSES, {"model": "Guide", "input": words, **fields}, key=key)
    assert reply.status_code == status, reply.text
    return dict(reply.json()["error"])


def streamed(client: Client, words: Any = FRANCE, **fields: Any) -> list[dict[str, Any]]:
    """The events of a stream, whose numbers follow each other."""
    reply = client.post(RESPONSES, {"model": "Guide", "input": words, "stream": True, **fields})
    assert reply.headers["Content-Type"].startswith("text/event-stream")
    events = events_of(reply)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    return events


def text_of(response: dict[str, Any]) -> str:
    (message,) = [item for item in response["output"] if item["type"] == "message"]
    return str(message["content"][0]["text"])


def item(call_id: str, output: str = "Sunny.", kind: str = "function_call_output") -> dict[str, Any]:
    """What a call returned."""
    return {"type": kind, "call_id": call_id, "output": output}


def in_state(client: Client, id_: str, *states: str) -> dict[str, Any]:
    """Wait until a response is in one of these states; return it."""

    def look() -> dict[str, Any] | None:
        now: dict[str, Any] = client.get(f"{RESPONSES}/{id_}").json()
        return now if now["status"] in states else None

    return dict(wait_for(look))


def test_a_whole_reply(client: Client, backend: FakeBackend) -> None:
    backend.reply("Paris", " it is.")
    told = respond(client, instructions="Be brief.", temperature=0, metadata={"a": "b"}, max_output_tokens=50)
    part = {"type": "output_text", "annotations": [], "logprobs": [], "text": "Paris it is."}
    (message,) = told["output"]
    wanted = {"type": "message", "role": "assistant", "status": "completed", "content": [part]}
    assert message == {"id": message["id"], **wanted}
    asked = {"instructions": "Be brief.", "temperature": 0, "metadata": {"a": "b"}, "max_output_tokens": 50}
    wanted = {"object": "response", "status": "completed", "model": "Guide", "tools": [], "tool_choice": "auto"}
    unset = dict.fromkeys(["error", "incomplete_details", "previous_response_id", "top_p"])
    assert told.items() >= {**asked, **wanted, **unset, "parallel_tool_calls": True, "store": True}.items()
    assert told["created_at"] <= told["completed_at"]
    usage = told["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert prompt_of(backend).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user")
    assert client.get(f"{RESPONSES}/{told['id']}").json() == told
    counted = client.post(COUNT, {"input": FRANCE, "instructions": "Be brief."}).json()
    assert counted == {"object": "response.input_tokens", "input_tokens": usage["input_tokens"]}


def test_thoughts_text_and_calls_are_items_in_their_order(client: Client, backend: FakeBackend) -> None:
    said = (*THOUGHT, "I look.\n", *call(), "\n", *call("clock", "{}"))
    backend.reply(*said)
    told = respond(client, tools=TOOLS)
    thought, text, first, second = told["output"]
    assert (thought["content"], thought["summary"]) == ([{"type": "reasoning_text", "text": "The user asks."}], [])
    assert text["content"][0]["text"] == "I look."
    assert (first["name"], first["arguments"], first["status"]) == ("get_weather", ARGUMENTS, "completed")
    assert (second["type"], second["name"], second["arguments"]) == ("function_call", "clock", "{}")
    assert len({each["id"] for each in told["output"]} | {first["call_id"], second["call_id"]}) == 6
    assert 0 < told["usage"]["output_tokens_details"]["reasoning_tokens"] < told["usage"]["output_tokens"]
    backend.reply(*said)
    alone = respond(client, tools=TOOLS, parallel_tool_calls=False, reasoning={"summary": "auto"})
    assert [each["type"] for each in alone["output"]] == ["reasoning", "message", "function_call"]
    thought = alone["output"][0]
    assert (thought["summary"], "content" in thought) == ([{"type": "summary_text", "text": "The user asks."}], False)


@pytest.mark.parametrize("summary", [None, "auto"])
def test_a_stream_has_its_events_in_order(client: Client, backend: FakeBackend, summary: str | None) -> None:
    backend.reply(*THOUGHT, "I look.\n", *call(), "\n", *call("clock", "{}"))
    events = streamed(client, tools=TOOLS, reasoning={"summary": summary})
    kinds = list(dict.fromkeys((event["output_index"], event["type"]) for event in events[2:-1]))
    part, told = ("reasoning_summary_part", "reasoning_summary_text") if summary else ("content_part", "reasoning_text")
    names = [
        [f"{part}.added", f"{told}.delta", f"{told}.done", f"{part}.done"],
        ["content_part.added", "output_text.delta", "output_text.done", "content_part.done"],
        *[["function_call_arguments.delta", "function_call_arguments.done"]] * 2,
    ]
    assert kinds == [
        (n, f"response.{name}")
        for n, inner in enumerate(names)
        for name in ("output_item.added", *inner, "output_item.done")
    ]
    assert events[-1]["type"] == "response.completed"
    last = events[-1]["response"]
    assert client.get(f"{RESPONSES}/{last['id']}").json() == last
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == last["output"]
    for n, whole in enumerate(last["output"]):
        mine = [event for event in events[2:-1] if event["output_index"] == n]
        assert {event.get("item_id", whole["id"]) for event in mine} == {whole["id"]} == {mine[0]["item"]["id"]}
        assert (mine[0]["item"]["status"], whole["status"]) == ("in_progress", "completed")
        (end,) = [event for event in mine if event["type"].endswith(("text.done", "arguments.done"))]
        assert "".join(event.get("delta", "") for event in mine) == end.get("text", end.get("arguments"))
    assert [event["response"]["status"] for event in events[:2]] == ["in_progress"] * 2
    assert {event["response"]["id"] for event in (*events[:2], events[-1])} == {last["id"]}


def test_thoughts_are_carried_back_by_who_does_not_read_them(client: Client, backend: FakeBackend) -> None:
    backend.reply(*THOUGHT, *call())
    told = respond(client, tools=TOOLS, store=False, include=["reasoning.encrypted_content"], reasoning={"summary": "auto"})
    thought, called = told["output"]
    for left_out in ("summary", "encrypted_content"):
        backend.reply("Sunny.")
        carried = {**thought, left_out: [] if left_out == "summary" else None}
        respond(client, [{"role": "user", "content": FRANCE}, carried, called, item(called["call_id"])], tools=TOOLS)
        assert "<think>\nThe user asks.\n</think>" in prompt_of(backend)
    foreign = {"type": "reasoning", "summary": [], "encrypted_content": "gAAAAABo-x_9"}
    backend.reply("Sunny.")
    respond(client, [{"role": "user", "content": FRANCE}, foreign, called, item(called["call_id"])], tools=TOOLS)
    assert "<think>" not in prompt_of(backend)


@pytest.mark.parametrize(
    ("choice", "callable_", "shown"),
    [
        ("auto", NAMES, NAMES),
        ("none", set(), set()),
        ("required", NAMES, NAMES),
        ({"type": "function", "name": "clock"}, {"clock"}, NAMES),
        ({"type": "allowed_tools", "mode": "auto", "tools": [CLOCK_CHOICE]}, {"clock"}, {"clock"}),
        ({"type": "allowed_tools", "mode": "required", "tools": [CLOCK_CHOICE]}, {"clock"}, {"clock"}),
    ],
)
def test_choices_of_tools(client: Client, backend: FakeBackend, choice: Any, callable_: set[str], shown: set[str]) -> None:
    backend.reply(*call("clock", "{}"))
    told = respond(client, tools=TOOLS, tool_choice=choice)
    assert told["tool_choice"] == choice
    constraint = backend.requests[-1].sampling.constraint
    assert {name for name in NAMES if constraint and name in constraint.source} == callable_
    assert {name for name in NAMES if name in prompt_of(backend)} == shown


def test_a_custom_tool_and_its_history(client: Client, backend: FakeBackend) -> None:
    backend.reply(*call("apply_patch", json.dumps({"input": "*** Begin\nä"})))
    events = streamed(client, tools=[PATCH, *TOOLS])
    last = events[-1]["response"]
    (called,) = last["output"]
    assert (called["type"], called["name"], called["input"]) == ("custom_tool_call", "apply_patch", "*** Begin\nä")
    assert [event["type"] for event in events[2:-1]] == [
        f"response.{name}"
        for name in (
            "output_item.added",
            "custom_tool_call_input.delta",
            "custom_tool_call_input.done",
            "output_item.done",
        )
    ]
    assert last["tools"][0] == PATCH
    assert LARK["definition"] in prompt_of(backend)
    output = item(called["call_id"], "Done.", "custom_tool_call_output")
    history = [{"role": "user", "content": FRANCE}, called, output]
    for words, fields in (([output], {"previous_response_id": last["id"]}), (history, {})):
        backend.reply("It is done.")
        assert text_of(respond(client, words, tools=[PATCH, *TOOLS], **fields)) == "It is done."
        assert '{"name": "apply_patch", "arguments": {"input": "*** Begin\\nä"}}' in prompt_of(backend)
        assert "<tool_response>Done.</tool_response>" in prompt_of(backend)


def test_why_an_answer_is_not_whole(client: Client, backend: FakeBackend) -> None:
    backend.reply("One two three")
    told = respond(client, max_output_tokens=2)
    assert (told["status"], told["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert told["output"][0]["status"] == "incomplete"
    backend.reply("I look.\n", *call())
    events = streamed(client, tools=TOOLS, max_output_tokens=24)
    cut = events[-1]["response"]
    assert events[-1]["type"] == "response.incomplete"
    # A client would run the call.
    assert [each["type"] for each in cut["output"]] == ["message"]
    ends = [event for event in events if event["type"] == "response.output_item.done"]
    assert [(each["item"]["type"], each["item"]["status"]) for each in ends] == [
        ("message", "completed"),
        ("function_call", "incomplete"),
    ]
    assert not [event for event in events if event["type"] == "response.function_call_arguments.done"]
    # What was said goes on.
    backend.reply("Yes.")
    respond(client, "Go on.", previous_response_id=cut["id"])
    assert "<tool_call>" not in prompt_of(backend)


def test_an_answer_in_a_form(client: Client, backend: FakeBackend) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string", "default": None}}}
    form = {"type": "json_schema", "name": "city", "schema": schema, "strict": True}
    backend.reply('{"city": "Paris"}')
    told = respond(client, text={"format": form, "verbosity": "low"})
    assert (text_of(told), told["text"]["format"]) == ('{"city": "Paris"}', form)
    constraint = backend.requests[-1].sampling.constraint
    assert constraint
    assert '"city"' in constraint.source
    backend.reply("{}")
    respond(client, text={"format": {"type": "json_object"}})
    assert backend.requests[-1].sampling.constraint
    assert "schema" in refused(client, text={"format": {"type": "json_schema", "name": "x"}})["message"]


def test_items_are_referred_to(client: Client, backend: FakeBackend) -> None:
    backend.reply(*THOUGHT, "I look.\n", *call())
    first = respond(client, "My name is Zoe.", tools=TOOLS)
    (asked,) = client.get(f"{RESPONSES}/{first['id']}/input_items").json()["data"]
    references: list[Any] = [{"type": "item_reference", "id": each["id"]} for each in (asked, *first["output"])]
    del references[0]["type"]
    backend.reply("Zoe.")
    respond(client, [*references, item(first["output"][-1]["call_id"])], tools=TOOLS)
    prompt = prompt_of(backend)
    assert "My name is Zoe." in prompt
    assert "The user asks.\n</think>\n\nI look.<tool_call>" in prompt
    missing = refused(client, [{"type": "item_reference", "id": "msg_none"}])
    assert (missing["code"], missing["param"]) == ("item_not_found", "input.0.id")


def test_input_items_come_in_pages(client: Client) -> None:
    words = [{"role": "user", "content": f"Word {n}"} for n in range(5)]
    path = f"{RESPONSES}/{respond(client, words)['id']}/input_items"
    first = client.get(f"{path}?limit=2&order=asc").json()
    assert ([each["content"] for each in first["data"]], first["has_more"]) == (["Word 0", "Word 1"], True)
    rest = client.get(f"{path}?limit=3&order=asc&after={first['last_id']}").json()
    assert ([each["content"] for each in rest["data"]], rest["has_more"]) == (["Word 2", "Word 3", "Word 4"], False)
    assert client.get(path).json()["data"] == [*first["data"], *rest["data"]][::-1]
    for query in ("limit=0", "limit=x", "order=up", "after=none"):
        assert client.get(f"{path}?{query}").status_code == 400


def test_responses_branch_and_end_where_one_is_deleted(client: Client, backend: FakeBackend) -> None:
    first = respond(client, "I am Zoe.", instructions="Be brief.")["id"]
    second = respond(client, "I am 7.", previous_response_id=first)["id"]
    third = respond(client, "I am tall.", previous_response_id=second)["id"]
    other = respond(client, "I am 8.", previous_response_id=first)["id"]

    def told(previous: str) -> set[str]:
        respond(client, FRANCE, previous_response_id=previous, store=False)
        return {words for words in ("Zoe", "7", "tall", "8", "Be brief") if words in prompt_of(backend)}

    assert (told(third), told(other), told(first)) == ({"Zoe", "7", "tall"}, {"Zoe", "8"}, {"Zoe"})
    assert client.delete(f"{RESPONSES}/{second}").json() == {"id": second, "object": "response", "deleted": True}
    gone = refused(client, previous_response_id=third)
    assert (gone["param"], gone["code"]) == ("previous_response_id", "previous_response_not_found")
    assert told(other) == {"Zoe", "8"}
    assert client.delete(f"{RESPONSES}/{second}").status_code == 404
    # And nothing of it stays.
    assert (b"I am 7." in on_disk(client), b"I am 8." in on_disk(client)) == (False, True)


def test_what_is_not_to_be_stored_is_not(client: Client) -> None:
    told = respond(client, "Nobody keeps this.", store=False)
    assert told["store"] is False
    assert client.get(f"{RESPONSES}/{told['id']}").status_code == 404
    assert refused(client, previous_response_id=told["id"])["code"] == "previous_response_not_found"
    assert b"Nobody keeps this." not in on_disk(client)


def test_another_keys_responses_are_unseen(client: Client, key: str) -> None:
    told = respond(client, "I am Zoe.", background=False)
    path, asked = f"{RESPONSES}/{told['id']}", client.get(f"{RESPONSES}/{told['id']}/input_items").json()
    replies = [
        client.get(path, key=key),
        client.delete(path, key=key),
        client.get(f"{path}/input_items", key=key),
        client.post(f"{path}/cancel", key=key),
    ]
    assert [reply.status_code for reply in replies] == [404] * 4
    assert refused(client, previous_response_id=told["id"], key=key)["code"] == "previous_response_not_found"
    assert refused(client, [{"id": asked["first_id"]}], key=key)["code"] == "item_not_found"
    assert client.post(COUNT, {"input": "x", "previous_response_id": told["id"]}, key=key).status_code == 400
    assert client.get(path).json() == told


def test_a_long_chain_leaves_out_its_first_turns(client: Client, backend: FakeBackend) -> None:
    def begun(previous: str | None, n: int) -> tuple[str, int, str]:
        words = [{"role": "user", "content": f"turn {n} {'word ' * 250}"}]
        developer = [{"role": "developer", "content": "Be kind."}] if previous is None else []
        backend.reply("Yes.")
        fields = {"truncation": "auto", "previous_response_id": previous} if previous else {}
        told = respond(client, developer + words, max_output_tokens=9, **fields)
        prompt = prompt_of(backend)
        assert prompt.startswith("<|im_start|>system\nBe kind.<|im_end|>\n")
        turns = [m for m in range(n + 1) if f"turn {m} " in prompt]
        assert turns == list(range(turns[0], n + 1))
        return told["id"], turns[0], prompt

    id_: str | None = None
    firsts: list[int] = []
    before = ""
    for n in range(16):
        id_, first, prompt = begun(id_, n)
        if firsts and first == firsts[-1]:
            assert prompt.startswith(before.removesuffix("<|im_start|>assistant\n"))
        firsts.append(first)
        before = prompt
    # The window moves seldom, and far, so that prompts begin alike.
    assert firsts == sorted(firsts)
    assert 1 < len(set(firsts)) <= 5
    for truncation in ("disabled", None):
        error = refused(client, previous_response_id=id_, truncation=truncation)
        assert (error["code"], error["param"]) == ("context_length_exceeded", "input")


def test_a_conversation_keeps_calls_until_they_are_answered(client: Client, backend: FakeBackend) -> None:
    backend.reply(*THOUGHT, *call())
    told = respond(client, "I am Zoe.", tools=TOOLS, conversation={"id": "conv_7"})
    assert told["conversation"] == {"id": "conv_7"}
    assert client.get("/answer/7").status_code == 404
    backend.reply("Sunny", ", Zoe.")
    respond(client, [item(told["output"][-1]["call_id"])], tools=TOOLS, conversation="conv_7")
    assert "The user asks.\n</think>\n\n<tool_call>" in prompt_of(backend)
    assert [each["content"] for each in client.get("/answer/7").json()["messages"]] == ["I am Zoe.", "Sunny, Zoe."]
    backend.reply("Zoe.")
    respond(client, "Who am I?", conversation="7")
    prompt = prompt_of(backend)
    assert (prompt.count("I am Zoe."), "<tool_call>" in prompt) == (1, False)
    error = refused(client, conversation="7", previous_response_id=told["id"])
    assert "previous_response_id" in error["message"]


def test_a_conversation_that_is_forgotten_takes_its_responses_along(client: Client) -> None:
    ids = [respond(client, f"Secret {n}", conversation="7")["id"] for n in range(2)]
    other = respond(client, "Kept", conversation="8")["id"]
    assert client.delete("/answer/7").status_code == 200
    assert [client.get(f"{RESPONSES}/{id_}").status_code for id_ in (*ids, other)] == [404, 404, 200]
    assert b"Secret" not in on_disk(client)


def test_a_response_in_the_background(client: Client, backend: FakeBackend) -> None:
    go_on = threading.Event()
    backend.reply("Pa", go_on, "ris.")
    queued = respond(client, background=True)
    assert (queued["status"], queued["background"], queued["output"]) == ("queued", True, [])
    running = in_state(client, queued["id"], "in_progress")
    assert running["id"] == queued["id"]
    waiting = refused(client, previous_response_id=queued["id"])
    assert "it is queued" in waiting["message"]
    go_on.set()
    done = in_state(client, queued["id"], "completed")
    assert (text_of(done), done["background"]) == ("Paris.", True)
    respond(client, previous_response_id=queued["id"])
    for fields in ({"stream": True}, {"store": False}):
        assert refused(client, background=True, **fields)["message"].startswith("background")


def test_a_response_in_the_background_is_cancelled(client: Client, backend: FakeBackend) -> None:
    in_front = respond(client)["id"]
    backend.reply("Pa", threading.Event())
    id_ = respond(client, background=True)["id"]
    in_state(client, id_, "in_progress")
    for _ in range(2):
        assert client.post(f"{RESPONSES}/{id_}/cancel").json()["status"] == "cancelled"
    wait_for(lambda: client.get("/status").json()["answers"]["running"] == 0)
    assert client.get(f"{RESPONSES}/{id_}").json()["status"] == "cancelled"
    assert "it is cancelled" in refused(client, previous_response_id=id_)["message"]
    assert client.post(f"{RESPONSES}/{in_front}/cancel").status_code == 400


def test_a_response_in_the_background_that_fails_says_why(client: Client, backend: FakeBackend) -> None:
    reply = client.post(RESPONSES, {"input": FRANCE, "model": "nobody", "background": True})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
    backend.reply("Pa", RuntimeError("broken"))
    broken = in_state(client, respond(client, background=True)["id"], "failed")
    assert (broken["error"]["code"], broken["output"], broken["usage"]) == ("server_error", [], None)
    assert "broken" not in broken["error"]["message"]
    # As a kill leaves it between storing the response and its job.
    stored = StoredResponse(MASTER, "resp_0", status="queued", body={"id": "resp_0", "status": "queued"})
    client.parts.stores.responses.add(stored)
    assert client.get(f"{RESPONSES}/resp_0").json()["status"] == "failed"


def test_a_restart_goes_on_with_responses_in_the_background(
    open_client: Callable[..., Client], backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as nobody:
        nobody.setattr("services.jobs.jobs.WORKERS", 0)
        client = open_client(backend=backend)
        client.edit_config("Guide", template=None)
        first, second = (respond(client, background=True)["id"] for _ in range(2))
        assert client.post(f"{RESPONSES}/{second}/cancel").json()["status"] == "cancelled"
        assert client.get(f"{RESPONSES}/{first}").json()["status"] == "queued"
    backend.reply("Paris.")
    client.restart()
    assert text_of(in_state(client, first, "completed")) == "Paris."
    assert client.get(f"{RESPONSES}/{second}").json()["status"] == "cancelled"


def test_a_response_in_the_background_is_computed_once_by_its_name(client: Client, backend: FakeBackend) -> None:
    once = {"Idempotency-Key": "once"}
    ids = {respond(client, background=True, headers=once)["id"] for _ in range(2)}
    done = in_state(client, *ids, "completed")
    assert respond(client, background=True, headers=once) == done
    assert len(backend.requests) == 1


def test_an_error_in_a_stream_is_its_last_event(client: Client, backend: FakeBackend) -> None:
    backend.reply("Par", RuntimeError("broken"))
    events = streamed(client)
    assert (events[-1]["type"], events[-1]["response"]["status"]) == ("response.failed", "failed")
    assert events[-1]["response"]["error"]["code"] == "server_error"
    assert backend.leases == 0


def test_a_stream_that_is_left_leaves_nothing(client: Client, backend: FakeBackend) -> None:
    backend.reply("Pa", threading.Event())
    reply = client.post(RESPONSES, {"input": FRANCE, "stream": True}, stream=True)
    lines = reply.iter_lines(chunk_size=1)
    assert next(lines) == b"event: response.created"
    assert backend.leases == 1
    reply.close()
    assert (backend.leases, client.parts.stores.responses.everything()) == (0, [])


def test_an_answer_that_is_stopped_is_not_whole(client: Client, backend: FakeBackend) -> None:
    backend.reply("Paris", threading.Event())
    reply = client.post(RESPONSES, {"input": FRANCE, "stream": True, "conversation": "7"}, stream=True)
    lines = reply.iter_lines(chunk_size=1)
    while b"output_text.delta" not in next(lines):
        pass
    assert client.post("/answer/7/stop").json()["stopped"]
    told = json.loads([line for line in lines if line][-1].removeprefix(b"data: "))["response"]
    assert (told["status"], text_of(told), told["output"][0]["status"]) == ("incomplete", "Paris", "incomplete")
    respond(client, "Go on.", previous_response_id=told["id"])
    assert "\nParis<|im_end|>" in prompt_of(backend)


def test_what_cannot_be_stored_is_no_success(client: Client, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: StoredResponse) -> None:
        raise StorageFailed("the disk is full")

    monkeypatch.setattr(client.parts.stores.responses, "add", full)
    assert streamed(client)[-1]["type"] == "response.failed"
    assert refused(client, status=500)["message"] == "the disk is full"
    assert backend.leases == 0


def test_responses_count_for_the_megabytes_of_their_key(client: Client) -> None:
    key, _ = client.mint(limits={"storage_mb": 1})
    words = [BALLAST, {"role": "user", "content": FRANCE}]
    first = respond(client, words, key)["id"]
    for fields in ({}, {"background": True}):
        error = refused(client, words, 403, key=key, **fields)
        assert (error["code"], error["param"]) == ("storage_limit", "limits.storage_mb")
    respond(client, words, key, store=False)
    client.restart()
    refused(client, words, 403, key=key)
    assert client.delete(f"{RESPONSES}/{first}", key=key).status_code == 200
    respond(client, words, key)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"input": None}, "input is missing"),
        ({"input": [{"type": "magic"}]}, "magic"),
        ({"input": [{"role": "user"}]}, "content is missing"),
        ({"input": [{"type": "function_call", "call_id": "a", "name": "f"}]}, "arguments is missing"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "images"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "custom", "name": "clock"}}, "no custom tool clock"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "two tools"),
        ({"tools": [{"type": "custom", "name": "x", "format": {"type": "grammar"}}]}, "grammar is missing"),
        ({"conversation": "a b"}, "conversation"),
        ({"memory_k": 1}, "memory_k"),
        ({"include": ["magic"]}, "include"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"truncation": "middle"}, "truncation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"input": "word " * 5000}, "context"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(client: Client, fields: dict[str, Any], told: str) -> None:
    words = fields.pop("input", FRANCE)
    assert told in refused(client, words, **fields)["message"]


def test_a_first_response_may_be_truncated(client: Client) -> None:
    respond(client, truncation="auto")


def test_background_goes_on_after_calls(client: Client, backend: FakeBackend) -> None:
    backend.reply(*call())
    called = respond(client, tools=TOOLS, conversation="7")["output"][-1]
    backend.reply("Sunny.")
    id_ = respond(client, [item(called["call_id"])], tools=TOOLS, conversation="7", background=True)["id"]
    assert in_state(client, id_, "completed", "failed")["error"] is None


def test_calls_outlive_a_failed_response(client: Client, backend: FakeBackend) -> None:
    backend.reply(*call())
    called = respond(client, tools=TOOLS, conversation="7")["output"][-1]
    outputs = [item(called["call_id"])]
    backend.reply("Pa", RuntimeError("broken"))
    failed = respond(client, outputs, tools=TOOLS, conversation="7", background=True)
    in_state(client, failed["id"], "failed")
    respond(client, outputs, tools=TOOLS, conversation="7")


def test_a_conversation_outlives_a_deleted_response(client: Client, backend: FakeBackend) -> None:
    backend.reply(*call())
    first = respond(client, tools=TOOLS, conversation="7")
    backend.reply(*call())
    respond(client, [item(first["output"][-1]["call_id"])], tools=TOOLS, conversation="7")
    client.delete(f"{RESPONSES}/{first['id']}")
    respond(client, "Something else.", conversation="7")


def test_a_conversation_that_has_only_called_is_forgotten(client: Client, backend: FakeBackend) -> None:
    backend.reply(*call())
    told = respond(client, "Secret", tools=TOOLS, conversation="7")
    client.delete("/answer/7")
    assert client.get(f"{RESPONSES}/{told['id']}").status_code == 404


def test_kept_replies_of_a_forgotten_conversation(client: Client, backend: FakeBackend) -> None:
    once = {"Idempotency-Key": "once"}
    backend.reply("Secret.")
    respond(client, conversation="7", headers=once)
    client.delete("/answer/7")
    again = client.post(RESPONSES, {"model": "Guide", "input": FRANCE, "conversation": "7"}, headers=once)
    assert ("Idempotent-Replayed" in again.headers, b"Secret." in on_disk(client)) == (False, False)


def test_another_request_of_the_same_name_is_refused(client: Client) -> None:
    respond(client, background=True, headers={"Idempotency-Key": "once"})
    again = client.post(RESPONSES, {"input": "Else", "background": True}, headers={"Idempotency-Key": "once"})
    assert (again.status_code, (again.json()["error"] or {}).get("code")) == (422, "name_taken")


def test_a_bad_name_is_refused(client: Client) -> None:
    body = {"input": FRANCE, "background": True}
    assert client.post(RESPONSES, body, headers={"Idempotency-Key": "x" * 257}).status_code == 400


def test_the_same_name_twice_at_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    enqueue, once, states = client.parts.jobs.enqueue, {"Idempotency-Key": "once"}, []

    def late(*arguments: Any) -> None:
        monkeypatch.setattr(client.parts.jobs, "enqueue", enqueue)
        states.append(respond(client, background=True, headers=once)["status"])
        enqueue(*arguments)

    monkeypatch.setattr(client.parts.jobs, "enqueue", late)
    id_ = respond(client, background=True, headers=once)["id"]
    assert in_state(client, id_, "completed", "failed")["status"] == "completed"


def test_a_deleted_response_stays_deleted(client: Client, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    backend.reply("Pa", go_on, "ris.")
    id_ = respond(client, background=True)["id"]
    in_state(client, id_, "in_progress")
    table = client.parts.stores.responses
    remove = table.remove

    def slowly(owner: str, removed: str) -> bool:
        found = remove(owner, removed)
        go_on.set()
        wait_for(lambda: client.parts.stores.jobs.unfinished() == [])
        return found

    monkeypatch.setattr(table, "remove", slowly)
    assert client.delete(f"{RESPONSES}/{id_}").status_code == 200
    assert client.get(f"{RESPONSES}/{id_}").status_code == 404


def test_expired_responses_leave_room(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    key, _ = client.mint(limits={"storage_mb": 1})
    words = [BALLAST, {"role": "user", "content": FRANCE}]
    respond(client, words, key)
    later = time.time() + KEPT_FOR + 1
    monkeypatch.setattr(stored_responses, "time", SimpleNamespace(time=lambda: later))
    client.parts.stores.responses.tidy()
    respond(client, words, key)


def test_a_conversation_keeps_all_of_its_input(client: Client, backend: FakeBackend) -> None:
    talk = [("user", "I am Zoe."), ("assistant", "Hello."), ("user", FRANCE)]
    words = [{"role": role, "content": content} for role, content in talk]
    reply = client.post(RESPONSES, {"input": words, "conversation": "7"})
    if reply.status_code == 200:
        respond(client, "Who am I?", conversation="7")
        assert "I am Zoe." in prompt_of(backend)


def test_a_conversation_that_fits_is_not_too_long(client: Client) -> None:
    first = f"{'word ' * 1650}"
    chained = respond(client, first, max_output_tokens=9)["id"]
    respond(client, "More.", previous_response_id=chained, truncation="disabled")
    respond(client, first, max_output_tokens=9, conversation="7")
    respond(client, "More.", conversation="7", truncation="disabled")


def test_truncation_is_told_as_it_is(client: Client) -> None:
    assert respond(client, conversation="7")["truncation"] == "auto"


def test_a_response_is_created_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(10**9, 2 * 10**9))
    monkeypatch.setattr("services.api.openai.responses.shapes.time", SimpleNamespace(time=lambda: next(seconds)))
    queued = respond(client, background=True)
    assert in_state(client, queued["id"], "completed")["created_at"] == queued["created_at"]


def test_items_are_found_by_the_ids_that_are_listed(client: Client) -> None:
    told = respond(client, [{"id": "msg_mine", "role": "user", "content": FRANCE}])
    listed = client.get(f"{RESPONSES}/{told['id']}/input_items").json()["first_id"]
    respond(client, [{"type": "item_reference", "id": listed}])


@pytest.mark.parametrize(
    "said",
    [
        ("Paris", " it is."),
        (*THOUGHT, "Paris."),
        ("I look.", *call(), "\nSo."),
    ],
)
def test_logprobs_are_those_of_the_text(client: Client, backend: FakeBackend, said: Sequence[Any]) -> None:
    backend.reply(*said)
    told = respond(client, tools=TOOLS, include=["message.output_text.logprobs"])
    for message in [each for each in told["output"] if each["type"] == "message"]:
        part = message["content"][0]
        assert "".join(each["token"] for each in part["logprobs"]).strip() == part["text"]
