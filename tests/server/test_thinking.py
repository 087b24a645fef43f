"""Models that think, on real servers: how long they think, and where their thoughts go."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.support.families import GEMMA, GPT_OSS, LFM2, LLAMA, QWEN, Family, scripted_server
from tests.support.openai_api import chat, refused, stream
from tests.support.scripted import Scripts, marker
from tests.support.serving import Server, Stream

CHATS = "/v1/chat/completions"
THOUGHT = "Paris comes to mind, which is in France."
ANSWER = "It is Paris. Paris lies on the Seine."
AT_ONCE = "Paris, without a thought."
KEPT = "That is what was thought before."
WORDS = [f"step-{n:02}" for n in range(60)]
LONG = ", ".join(WORDS)
# What the long thought says.
ENDLESS, SEES, CALLS = marker("long"), marker("sees"), marker("calls")
SEEN = marker("seen")
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
# Qwen3.5's template opens the thought in the prompt.
QWEN35 = replace(QWEN, name="qwen3.5", template="Qwen3.5-4B")
# The seconds between two tokens, so that a thought can be ended while it is written.
PAUSE = 0.002

QWEN_SCRIPTS: Scripts = {
    "": QWEN.write(THOUGHT, ANSWER, ()),
    # The template closes the thought in the prompt if it is told that the model is not to think.
    ("", "ĊĊ"): AT_ONCE,
    # A thought that the model never ends by itself.
    ENDLESS: f"<think>\n{LONG}",
    (ENDLESS, "ĊĊ"): AT_ONCE,
    # A thought whose words are a marker, once a template writes them.
    SEES: QWEN.write(f"It is {SEEN}, remember that.", ANSWER, ()),
    SEEN: KEPT,
}
GPT_OSS_SCRIPTS: Scripts = {
    "": GPT_OSS.write(THOUGHT, ANSWER, ()),
    "Reasoning: low": GPT_OSS.write("", "I barely thought.", ()),
    "Reasoning: high": GPT_OSS.write("", "I thought hard.", ()),
    ENDLESS: f"<|channel|>analysis<|message|>{LONG}",
}
LFM2_SCRIPTS: Scripts = {
    "": LFM2.write(THOUGHT, ANSWER, ()),
    SEES: LFM2.write(f"It is {SEEN}, remember that.", ANSWER, ()),
    SEEN: KEPT,
}
GEMMA_SCRIPTS: Scripts = {"": GEMMA.write("", AT_ONCE, ()), "<|think|>": GEMMA.write(THOUGHT, ANSWER, ())}
QWEN35_SCRIPTS: Scripts = {"": f"{THOUGHT}\n</think>\n\n{ANSWER}", ENDLESS: LONG}
MODELS: dict[str, tuple[Family, Scripts]] = {
    "qwen3": (QWEN, QWEN_SCRIPTS),
    "gpt-oss": (GPT_OSS, GPT_OSS_SCRIPTS),
    "lfm2": (LFM2, LFM2_SCRIPTS),
    "gemma4": (GEMMA, GEMMA_SCRIPTS),
    "qwen3.5": (QWEN35, QWEN35_SCRIPTS),
    "llama3": (LLAMA, {"": AT_ONCE}),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with scripted_server(tmp_path_factory.mktemp("thinking"), MODELS, PAUSE) as running:
        yield running


def message_of(server: Server, words: str | list[dict[str, Any]] = "Which city?", **fields: Any) -> dict[str, Any]:
    return dict(chat(server, words, **{"model": "qwen3", **fields})["choices"][0]["message"])


def thought_of(message: dict[str, Any]) -> str:
    return (message.get("reasoning_content") or "").strip()


@pytest.mark.parametrize("model", ["qwen3", "gpt-oss", "lfm2", "qwen3.5"])
def test_a_model_thinks_by_itself(server: Server, model: str) -> None:
    reply = chat(server, "Which city?", model=model)
    message = reply["choices"][0]["message"]
    assert (thought_of(message), message["content"].strip()) == (THOUGHT, ANSWER)
    details = reply["usage"]["completion_tokens_details"]
    assert 0 < details["reasoning_tokens"] < reply["usage"]["completion_tokens"]


@pytest.mark.parametrize(
    "fields",
    [
        {"enable_thinking": False},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"think": False},
        {"reasoning_effort": "none"},
        {"thinking": {"type": "disabled"}},
        {"reasoning": {"enabled": False}},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_a_model_is_told_not_to_think(server: Server, fields: dict[str, Any]) -> None:
    message = message_of(server, **fields)
    assert (thought_of(message), message["content"].strip()) == ("", AT_ONCE)


def test_answers_of_hearths_own_are_told_so_too(server: Server) -> None:
    for fields in ({"think": False}, {"enable_thinking": False}, {"reasoning_effort": "none"}):
        answer = server.ask("Which city?", model="qwen3", **fields)
        assert (answer.get("reasoning"), answer["result"]) == (None, AT_ONCE)
        assert answer["usage"]["reasoning_tokens"] == 0


@pytest.mark.parametrize("field", [{"enable_thinking": True}, {"reasoning_effort": "high"}, {"think": True}])
def test_a_model_is_asked_to_think(server: Server, field: dict[str, Any]) -> None:
    assert thought_of(message_of(server, model="gemma4")) == ""
    message = message_of(server, model="gemma4", **field)
    assert (thought_of(message), message["content"].strip()) == (THOUGHT, ANSWER)


@pytest.mark.parametrize(("effort", "said"), [("low", "I barely thought."), ("high", "I thought hard.")])
def test_an_effort_reaches_the_template(server: Server, effort: str, said: str) -> None:
    assert message_of(server, model="gpt-oss", reasoning_effort=effort)["content"] == said
    kwargs = {"reasoning_effort": effort}
    assert message_of(server, model="gpt-oss", chat_template_kwargs=kwargs)["content"] == said
    assert server.ask("Which city?", model="gpt-oss", reasoning_effort=effort)["result"] == said


@pytest.mark.parametrize("model", ["qwen3", "gpt-oss", "qwen3.5"])
@pytest.mark.parametrize("budget", [1, 9])
def test_a_budget_ends_a_thought(server: Server, model: str, budget: int) -> None:
    sent = {"model": model, "thinking_budget": budget}
    reply = chat(server, ENDLESS, **sent)
    [choice] = reply["choices"]
    reasoning, content = choice["message"]["reasoning_content"], choice["message"]["content"]
    # The model has no other words than those that were to come next.
    begun = next((n for n, word in enumerate(WORDS) if word not in reasoning), len(WORDS))
    assert len(reasoning) > 0
    assert begun < 3 * budget
    assert content.endswith(WORDS[-1])
    assert "<" not in content
    assert choice["finish_reason"] == "stop"
    assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] < 60
    deltas = [event["choices"][0]["delta"] for event in stream(server, CHATS, **chat_of(ENDLESS), **sent)[:-1]]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == reasoning
    assert "".join(delta.get("content") or "" for delta in deltas) == content


def chat_of(words: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": words}]}


def test_a_budget_of_a_request_and_of_a_profile(server: Server) -> None:
    asked = server.ask(ENDLESS, model="qwen3", thinking_budget=4)
    assert asked["result"].endswith(WORDS[-1])
    assert asked["usage"]["reasoning_tokens"] < 60
    server.edit_config(
        "frugal", model="qwen3.gguf", n_ctx=8192, n_parallel=4, n_threads=1, temperature=0, thinking_budget=4
    )
    assert server.ask(ENDLESS, model="frugal")["result"] == asked["result"]
    # A budget that is not used up changes nothing.
    message = message_of(server, thinking_budget=1000)
    assert (thought_of(message), message["content"].strip()) == (THOUGHT, ANSWER)


def test_a_profile_that_does_not_think(server: Server) -> None:
    server.edit_config("quick", model="qwen3.gguf", n_ctx=8192, n_parallel=4, n_threads=1, temperature=0, thinking=False)
    assert server.ask("Which city?", model="quick")["result"] == AT_ONCE
    assert message_of(server, model="quick")["content"].strip() == AT_ONCE
    # The request goes first.
    assert message_of(server, model="quick", enable_thinking=True)["content"].strip() == ANSWER


def test_a_thought_is_ended_while_it_is_written(server: Server) -> None:
    sent = {"prompt": ENDLESS, "model": "qwen3", "session_id": 31, "stream": True}
    answer = Stream(server.post("/answer", sent, stream=True))
    events = [answer.next()]
    while not events[-1].get("reasoning", "").strip():
        events.append(answer.next())
    stopped = server.post("/answer/31/stop", {"what": "thinking"})
    assert stopped.json() == {"stopped": True}
    events += answer.rest()
    thought = "".join(event.get("reasoning", "") for event in events[:-2])
    summary = events[-2]
    assert summary["reasoning"].strip() == thought.strip()
    assert WORDS[-1] not in thought
    assert summary["result"].endswith(WORDS[-1])
    assert summary["finish_reason"] == "stop"
    # Nothing is in flight now.
    assert server.post("/answer/31/stop", {"what": "thinking"}).json() == {"stopped": False}


def test_to_end_a_thought_leaves_an_answer_alone(server: Server) -> None:
    """It does nothing once the model answers."""
    sent = {"prompt": ENDLESS, "model": "qwen3", "session_id": 32, "stream": True, "thinking_budget": 1}
    answer = Stream(server.post("/answer", sent, stream=True))
    while not answer.next().get("chunk", "").strip():
        pass
    server.post("/answer/32/stop", {"what": "thinking"})
    assert answer.rest()[-2]["result"].endswith(WORDS[-1])


def test_stopping_within_a_thought_keeps_it(server: Server) -> None:
    sent = {"prompt": ENDLESS, "model": "qwen3", "session_id": 33, "stream": True}
    answer = Stream(server.post("/answer", sent, stream=True))
    while not answer.next().get("reasoning", "").strip():
        pass
    assert server.post("/answer/33/stop", {}).json() == {"stopped": True}
    summary = answer.rest()[-2]
    assert (summary["finish_reason"], summary["result"]) == ("cancelled", "")
    thought = summary["reasoning"].strip()
    assert thought
    assert thought[: len(WORDS[0])] == WORDS[0][: len(thought)]


def test_what_max_tokens_cuts_within_a_thought_is_told_so(server: Server) -> None:
    [choice] = chat(server, ENDLESS, model="qwen3", max_tokens=5)["choices"]
    assert choice["finish_reason"] == "length"
    assert thought_of(choice["message"]).startswith(WORDS[0])
    assert not choice["message"]["content"]


def test_stop_strings_do_not_look_into_thoughts(server: Server) -> None:
    for model in ("qwen3", "gpt-oss", "lfm2"):
        message = message_of(server, model=model, stop=["Paris"])
        assert (thought_of(message), message["content"].strip()) == (THOUGHT, "It is")
        # Words of the thought alone.
        message = message_of(server, model=model, stop=["comes to mind"])
        assert message["content"].strip() == ANSWER


def test_a_stop_string_may_be_a_special_token(server: Server) -> None:
    for stop in ("</think>", "<|im_end|>"):
        [choice] = chat(server, "Which city?", model="qwen3", stop=[stop])["choices"]
        assert choice["finish_reason"] == "stop"
        assert thought_of(choice["message"]) == THOUGHT
        assert (choice["message"]["content"] or "").strip() in ("", ANSWER)


def test_thoughts_are_kept_in_sessions_and_over_restarts(server: Server) -> None:
    first = server.ask("Which city?", model="qwen3", session_id=41)
    assert first["reasoning"].strip() == THOUGHT
    kept = server.get("/answer/41").json()["messages"]
    assert [message["content"] for message in kept] == ["Which city?", ANSWER]
    assert kept[1]["reasoning"].strip() == THOUGHT
    assert "reasoning" not in kept[0]
    chat(server, "And now?", model="qwen3", session_id=41)
    assert [m.get("reasoning", "").strip() for m in server.get("/answer/41").json()["messages"]] == ["", THOUGHT] * 2
    before = server.get("/answer/41").json()
    server.stop()
    server.start()
    assert server.get("/answer/41").json() == before


def test_thoughts_are_handed_to_templates_that_want_them(server: Server) -> None:
    """The thought says a word that chooses the next answer, if it is in the prompt."""
    for session, kwargs, said in ((42, {"preserve_thinking": True}, KEPT), (43, {}, ANSWER)):
        assert server.ask(SEES, model="lfm2", session_id=session)["result"] == ANSWER
        assert server.ask("And?", model="lfm2", session_id=session, chat_template_kwargs=kwargs)["result"] == said


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thoughts_that_a_client_sends_back_reach_the_template(server: Server, name: str) -> None:
    call = {"id": "call12345", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    thought = {name: f"It is {SEEN}, remember that."}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Which city?"},
        {"role": "assistant", "content": "", "tool_calls": [call], **thought},
        {"role": "tool", "tool_call_id": "call12345", "content": "Paris"},
    ]
    assert message_of(server, messages, tools=[TOOL])["content"] == KEPT
    del messages[1][name]
    assert message_of(server, messages, tools=[TOOL])["content"].strip() == ANSWER


def test_many_think_at_once(server: Server) -> None:
    """Thoughts of one answer do not come into another's."""
    found: list[dict[str, Any]] = []
    cases: list[tuple[str, dict[str, Any]]] = [
        ("qwen3", {}),
        ("qwen3", {"enable_thinking": False}),
        ("gpt-oss", {}),
        ("qwen3", {"thinking_budget": 3}),
    ]

    def ask(model: str, fields: dict[str, Any]) -> None:
        words = ENDLESS if "thinking_budget" in fields else "Which city?"
        message = message_of(server, words, model=model, **fields)
        found.append({"thought": thought_of(message), "content": message["content"].strip(), **fields})

    threads = [threading.Thread(target=ask, args=case) for case in cases * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 * len(cases)
    for each in found:
        if "thinking_budget" in each:
            assert each["content"].endswith(WORDS[-1])
        elif "enable_thinking" in each:
            assert (each["thought"], each["content"]) == ("", AT_ONCE)
        else:
            assert (each["thought"], each["content"]) == (THOUGHT, ANSWER)


def test_a_model_without_thoughts_cannot_be_asked_for_them(server: Server) -> None:
    """To switch them off is no fault."""
    asked: list[dict[str, Any]] = [{"reasoning_effort": "high"}, {"enable_thinking": True}]
    for fields in asked:
        error = refused(server, **chat_of("Hi"), model="llama3", **fields)
        assert error["param"] == next(iter(fields))
    harmless: list[dict[str, Any]] = [{"reasoning_effort": "none"}, {"enable_thinking": False}, {"thinking_budget": 5}]
    for fields in harmless:
        assert message_of(server, "Hi", model="llama3", **fields)["content"] == AT_ONCE
