"""What models of today write, read from real servers: thoughts, text and calls in the form of each family."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.support.families import FAMILIES, GLM, GPT_OSS, KIMI, Call, Family, scripted_server
from tests.support.openai_api import stream
from tests.support.scripted import Scripts, marker
from tests.support.serving import Server, Stream

CHATS = "/v1/chat/completions"
THOUGHT = "The user wants the weather, and the time there after it."
TEXT = "Let me look that up for you."
ANSWER = "In Paris it is sunny, 21 °C, and just past noon. 🌞"
CALLS = (Call("get_weather", {"city": "Paris, France", "station": 10381}), Call("clock", {"zone": "Europe/Paris"}))
ALONE = Call("get_weather", {"city": "Rome, Italy", "station": 20573})
CLOCK: dict[str, Any] = {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "station": {"type": "integer"}},
                "required": ["city", "station"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "clock",
            "description": "The time in a zone.",
            "parameters": CLOCK,
        },
    },
]
# Keys of scripts.
ANSWERS, IN_THOUGHTS, ONLY_CALL, UNKNOWN = marker(1), marker(2), marker(3), marker(4)
# Families whose thoughts may hold the signs of calls as they are. GLM's and Kimi's models call out of a thought.
QUOTING = [family for family in FAMILIES if family.thinks and family not in (GPT_OSS, GLM, KIMI)]
# More tokens than any script has: an answer that has lost its way ends here.
MOST = 160


def calls_of(family: Family) -> tuple[Call, ...]:
    return CALLS if family.has_several_calls else CALLS[:1]


def scripts_of(family: Family) -> Scripts:
    thought = THOUGHT if family.thinks else ""
    text = TEXT if family.has_text_before_calls else ""
    quoted = f"{THOUGHT} I could write {family.write('', '', CALLS[1:])} for it."
    return {
        "": family.write(thought, text, calls_of(family)),
        ANSWERS: family.write(thought, ANSWER, ()),
        **({IN_THOUGHTS: family.write(quoted, ANSWER, ())} if family in QUOTING else {}),
        ONLY_CALL: family.write(thought, "", [ALONE]),
        UNKNOWN: family.write("", "", [Call("launch_rockets", {"count": 12345})]),
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = {family.name: (family, scripts_of(family)) for family in FAMILIES}
    with scripted_server(tmp_path_factory.mktemp("formats"), models) as running:
        yield running


def body(family: Family, words: str = "What is the weather in Paris?", **fields: Any) -> dict[str, Any]:
    """A chat with both tools."""
    messages = [{"role": "user", "content": words}]
    kwargs = {"chat_template_kwargs": dict(family.is_asked_to_think)} if family.is_asked_to_think else {}
    return {"model": family.name, "messages": messages, "tools": TOOLS, "max_tokens": MOST, **kwargs, **fields}


def whole(server: Server, sent: dict[str, Any]) -> dict[str, Any]:
    reply = server.post(CHATS, sent)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def joined(events: list[Any]) -> dict[str, Any]:
    """The choice that a stream's events add up to, in the shape of a whole reply's; checks the events' order."""
    assert events[-1] == "[DONE]"
    message: dict[str, Any] = {"reasoning_content": "", "content": "", "tool_calls": []}
    choice: dict[str, Any] = {"message": message, "finish_reason": None, "logprobs": {"content": []}}
    for event in events[:-1]:
        assert choice["finish_reason"] is None
        [part] = event["choices"]
        delta = part["delta"]
        for name in ("reasoning_content", "content"):
            message[name] += delta.get(name) or ""
        for call in delta.get("tool_calls") or ():
            add_call(message["tool_calls"], call)
        choice["logprobs"]["content"] += (part.get("logprobs") or {"content": []})["content"]
        choice["finish_reason"] = part["finish_reason"]
    return choice


def add_call(calls: list[Any], delta: dict[str, Any]) -> None:
    if delta["index"] == len(calls):
        # The first delta of a call says which it is.
        assert delta["id"]
        assert delta["type"] == "function"
        calls.append({"id": delta["id"], "name": delta["function"]["name"], "pieces": []})
    else:
        assert delta["index"] == len(calls) - 1
        assert not delta["function"].get("name")
    calls[-1]["pieces"].append(delta["function"].get("arguments") or "")


def called(message: dict[str, Any]) -> list[tuple[str, Any]]:
    """The calls of a whole or joined message: the name and the arguments of each."""
    calls = message.get("tool_calls") or []
    assert len({call["id"] for call in calls}) == len(calls)
    functions = [call.get("function") or {**call, "arguments": "".join(call["pieces"])} for call in calls]
    return [(function["name"], json.loads(function["arguments"])) for function in functions]


def expected(family: Family) -> list[tuple[str, Any]]:
    return [(call.name, call.arguments) for call in calls_of(family)]


each_family = pytest.mark.parametrize("family", FAMILIES, ids=[family.name for family in FAMILIES])
each_quoting = pytest.mark.parametrize("family", QUOTING, ids=[family.name for family in QUOTING])


@each_family
def test_thoughts_text_and_calls_are_told_apart(server: Server, family: Family) -> None:
    reply = whole(server, body(family))
    [choice] = reply["choices"]
    message = choice["message"]
    assert (message.get("reasoning_content") or "").strip() == (THOUGHT if family.thinks else "")
    assert (message.get("reasoning") or "") == (message.get("reasoning_content") or "")
    assert (message["content"] or "").strip() == (TEXT if family.has_text_before_calls else "")
    assert called(message) == expected(family)
    assert choice["finish_reason"] == "tool_calls"
    details = reply["usage"].get("completion_tokens_details") or {}
    assert (details.get("reasoning_tokens", 0) > 0) == family.thinks


@each_family
def test_a_stream_says_what_a_whole_reply_says(server: Server, family: Family) -> None:
    sent = body(family)
    [choice] = whole(server, sent)["choices"]
    streamed = joined(stream(server, CHATS, **sent))
    for name in ("reasoning_content", "content"):
        assert streamed["message"][name] == (choice["message"].get(name) or "")
    assert called(streamed["message"]) == called(choice["message"])
    functions = [call["function"]["arguments"] for call in choice["message"]["tool_calls"]]
    assert ["".join(call["pieces"]) for call in streamed["message"]["tool_calls"]] == functions
    assert streamed["finish_reason"] == "tool_calls"


def test_calls_come_as_they_are_written(tmp_path: Path) -> None:
    families = FAMILIES[:3]
    models = {family.name: (family, scripts_of(family)) for family in families}
    with scripted_server(tmp_path, models, pause=0.02) as server:
        for family in families:
            streamed = joined(stream(server, CHATS, **body(family)))
            assert all(len(call["pieces"]) > 2 for call in streamed["message"]["tool_calls"])


@each_family
@pytest.mark.parametrize("words", ["What is the weather in Paris?", ANSWERS])
def test_logprobs_fit_what_was_written(server: Server, family: Family, words: str) -> None:
    sent = body(family, words, logprobs=True, top_logprobs=2)
    reply = whole(server, sent)
    tokens = reply["choices"][0]["logprobs"]["content"]
    text = b"".join(bytes(token["bytes"]) for token in tokens).decode()
    script = scripts_of(family)["" if words != ANSWERS else ANSWERS]
    # A token that ends the answer is none of it.
    assert script.removesuffix("<|call|>") in text
    assert len(tokens) in (reply["usage"]["completion_tokens"], reply["usage"]["completion_tokens"] - 1)
    assert all(token["logprob"] > -0.01 for token in tokens)
    assert all(token["top_logprobs"][0]["token"] == token["token"] for token in tokens)
    assert joined(stream(server, CHATS, **sent))["logprobs"]["content"] == tokens


@each_family
def test_results_reach_the_model(server: Server, family: Family) -> None:
    first = whole(server, body(family))["choices"][0]["message"]
    chat: list[dict[str, Any]] = [{"role": "user", "content": "What is the weather in Paris?"}, first]
    results = [f"It is sunny. {ANSWERS}", f"It is noon. {ANSWERS}"]
    for call, result in zip(first["tool_calls"], results, strict=False):
        chat.append({"role": "tool", "tool_call_id": call["id"], "content": result})
    [choice] = whole(server, {**body(family), "messages": chat})["choices"]
    assert choice["message"]["content"].strip() == ANSWER
    assert not choice["message"].get("tool_calls")
    assert choice["finish_reason"] == "stop"


@each_quoting
def test_calls_in_thoughts_are_thoughts(server: Server, family: Family) -> None:
    [choice] = whole(server, body(family, IN_THOUGHTS))["choices"]
    assert choice["message"]["content"].strip() == ANSWER
    assert not choice["message"].get("tool_calls")
    assert choice["finish_reason"] == "stop"
    assert "Europe/Paris" in choice["message"]["reasoning_content"]


@each_family
def test_a_call_without_tools_is_text(server: Server, family: Family) -> None:
    sent = {name: value for name, value in body(family, UNKNOWN).items() if name != "tools"}
    [choice] = whole(server, sent)["choices"]
    assert not choice["message"].get("tool_calls")
    assert choice["finish_reason"] == "stop"
    assert all(part in choice["message"]["content"] for part in ("launch_rockets", "count", "12345"))
    streamed = joined(stream(server, CHATS, **sent))
    assert streamed["message"]["content"] == choice["message"]["content"]
    assert not streamed["message"]["tool_calls"]


@each_family
def test_a_call_is_held_to_the_tools_of_the_request(server: Server, family: Family) -> None:
    """The model wants to call another one, with other arguments."""
    reply = server.post(CHATS, body(family, UNKNOWN))
    assert reply.status_code == 200, reply.text
    [choice] = reply.json()["choices"]
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}
    for name, arguments in called(choice["message"]):
        jsonschema.validate(arguments, schemas[name])
    assert choice["message"].get("tool_calls") or choice["message"]["content"] or choice["finish_reason"] == "length"


@each_family
def test_a_cut_call_is_not_given_as_whole(server: Server, family: Family) -> None:
    n_all = whole(server, body(family))["usage"]["completion_tokens"]
    for n in range(n_all - 2, 1, -4):
        [choice] = whole(server, body(family, max_tokens=n))["choices"]
        calls = called(choice["message"])
        assert calls == expected(family)[: len(calls)], n
        if len(calls) < len(calls_of(family)):
            assert choice["finish_reason"] == "length"
        if n >= n_all - 6:
            assert joined(stream(server, CHATS, **body(family, max_tokens=n)))["finish_reason"] == choice["finish_reason"]


@each_family
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_call_that_has_to_come_does(server: Server, family: Family, choice: Any) -> None:
    sent = body(family, ONLY_CALL, tool_choice=choice, parallel_tool_calls=False)
    [got] = whole(server, sent)["choices"]
    assert called(got["message"]) == [(ALONE.name, ALONE.arguments)]
    assert (got["message"].get("reasoning_content") or "").strip() == (THOUGHT if family.thinks else "")
    assert got["finish_reason"] in ("tool_calls", "stop")


@each_family
def test_a_call_is_forced_from_a_model_that_wants_to_talk(server: Server, family: Family) -> None:
    clock = {"name": "clock", "parameters": {**CLOCK, "properties": {"zone": {"enum": ["Europe/Paris"]}}}}
    tools = [TOOLS[0], {"type": "function", "function": clock}]
    choice = {"type": "function", "function": {"name": "clock"}}
    sent = body(family, ANSWERS, tools=tools, tool_choice=choice, parallel_tool_calls=False, max_tokens=300)
    [got] = whole(server, sent)["choices"]
    assert called(got["message"]) == [("clock", {"zone": "Europe/Paris"})]
    assert got["finish_reason"] == "tool_calls"
    assert not (got["message"]["content"] or "").strip()


@each_family
def test_an_answer_of_hearths_own_has_its_reasoning(server: Server, family: Family) -> None:
    kwargs: dict[str, Any] = {"chat_template_kwargs": dict(family.is_asked_to_think)} if family.is_asked_to_think else {}
    answer = server.ask(ANSWERS, model=family.name, **kwargs)
    assert answer["result"] == ANSWER
    assert (answer.get("reasoning") or "").strip() == (THOUGHT if family.thinks else "")
    assert (answer["usage"]["reasoning_tokens"] > 0) == family.thinks
    sent = {"prompt": ANSWERS, "model": family.name, "stream": True, **kwargs}
    events = Stream(server.post("/answer", sent, stream=True)).rest()
    assert events[-1] == "[DONE]"
    assert "".join(event.get("chunk", "") for event in events[:-2]) == ANSWER
    assert "".join(event.get("reasoning", "") for event in events[:-2]) == answer.get("reasoning", "")
    assert events[-2]["result"] == ANSWER
