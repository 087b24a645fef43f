"""Replies of /v1/chat/completions, written from what a reader found in a model's text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from services.answers.stream import Answer
from services.api.openai.schemas import ChatRequest, CompletionRequest
from services.api.openai.writers import ChatWriter, CompletionWriter, streamed_reply, whole_reply
from services.backend.types import Finish, FinishReason, TokenChoice
from services.replies.events import CallArguments, CallBegun, Content, Event, Reasoning, Reply
from tests.support.replies import reply_of

USER = {"role": "user", "content": "Go on"}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL: list[Event] = [CallBegun(0, "call_1", "weather"), CallArguments(0, '{"city": '), CallArguments(0, '"Rome"}')]
CUT: list[Event] = [CallBegun(0, "call_1", "weather"), CallArguments(0, '{"city": ')]


class ScriptedAnswer(Answer):
    """An answer whose events are known, with the choices of tokens that come with each."""

    def __init__(
        self, events: Sequence[Event], reason: FinishReason = "stop", choices: Sequence[Sequence[str]] = ()
    ) -> None:
        self.model = "Guide"
        self.summary = {"session_id": None}
        self.reply, self.given = Reply(), None
        self._events = events
        self._ended: FinishReason = reason
        self._tokens = choices
        self._choices: list[TokenChoice] = []

    @property
    def queue_position(self) -> int | None:
        return 0

    @property
    def n_read(self) -> int:
        return 0

    def choices_from(self, first: int) -> list[TokenChoice]:
        return self._choices[first:]

    @property
    def finish(self) -> Finish:
        return Finish("length" if self.reply.is_cut else self._ended, 10, 4, 7, 3)

    def events(self) -> Iterator[Event | None]:
        for n, event in enumerate(self._events):
            self._choices += [TokenChoice(each.encode(), -0.5) for each in (self._tokens[n] if self._tokens else ())]
            yield None
            yield event
        self._choices += [
            TokenChoice(each.encode(), -0.5) for each in self._tokens[len(self._events) :][:1] for each in each
        ]
        self.reply = reply_of(self._events)


def body_of(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"messages": [USER], "tools": [WEATHER], **fields})


def whole(answer: Answer, **fields: Any) -> dict[str, Any]:
    body = body_of(**fields)
    return whole_reply(ChatWriter(body), body, [answer])


def streamed(answer: Answer, **fields: Any) -> list[dict[str, Any]]:
    body = body_of(stream=True, **fields)
    events = [event for event in streamed_reply(ChatWriter(body), body, [answer]) if event.startswith("data: ")]
    assert events[-1] == "data: [DONE]\n\n"
    return [json.loads(event.removeprefix("data: ")) for event in events[:-1]]


def added_up(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client adds up from a stream's chunks."""
    message: dict[str, Any] = {"content": None}
    calls: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        delta = chunk["choices"][0]["delta"]
        for name in ("content", "reasoning_content", "reasoning"):
            if delta.get(name):
                message[name] = (message.get(name) or "") + delta[name]
        for piece in delta.get("tool_calls", ()):
            call = calls.setdefault(piece["index"], {"arguments": ""})
            assert ("id" in piece) == ("type" in piece) == ("name" in piece["function"]) == ("name" not in call)
            call |= {"id": piece["id"], "name": piece["function"]["name"]} if "id" in piece else {}
            call["arguments"] += piece["function"]["arguments"]
    return {**message, "calls": [calls[index] for index in sorted(calls)]}


def test_thoughts_stand_beside_the_text() -> None:
    events: list[Event] = [Reasoning("Let me"), Reasoning(" see."), Content("It is"), Content(" so.")]
    reply = whole(ScriptedAnswer(events))
    message = reply["choices"][0]["message"]
    assert message["content"] == "It is so."
    assert message["reasoning_content"] == message["reasoning"] == "Let me see."
    assert reply["usage"]["completion_tokens_details"] == {"reasoning_tokens": 3}
    assert reply["choices"][0]["finish_reason"] == "stop"
    parts = added_up(streamed(ScriptedAnswer(events)))
    assert (parts["content"], parts["reasoning_content"], parts["reasoning"]) == ("It is so.", *["Let me see."] * 2)


@pytest.mark.parametrize("fields", [{"include_reasoning": False}, {"reasoning": {"exclude": True}}])
def test_thoughts_may_be_left_out(fields: dict[str, Any]) -> None:
    events: list[Event] = [Reasoning("Let me see."), Content("It is so.")]
    message = whole(ScriptedAnswer(events), **fields)["choices"][0]["message"]
    assert {"reasoning_content", "reasoning"}.isdisjoint(message)
    assert "reasoning_content" not in added_up(streamed(ScriptedAnswer(events), **fields))


def test_calls_come_as_they_are_written() -> None:
    choice = whole(ScriptedAnswer(CALL))["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    function = {"name": "weather", "arguments": '{"city": "Rome"}'}
    assert choice["message"]["tool_calls"] == [{"id": "call_1", "type": "function", "function": function}]
    chunks = streamed(ScriptedAnswer(CALL))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    opened = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    assert deltas[1] == {"tool_calls": [opened]}
    assert deltas[2] == {"tool_calls": [{"index": 0, "function": {"arguments": '{"city": '}}]}
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert added_up(chunks)["calls"] == [{"id": "call_1", **function}]


def test_text_around_calls_is_kept() -> None:
    second: list[Event] = [CallBegun(1, "call_2", "weather"), CallArguments(1, "{}")]
    events: list[Event] = [Content("I look. "), *CALL, *second, Content("Done.")]
    choice = whole(ScriptedAnswer(events))["choices"][0]
    assert choice["message"]["content"] == "I look. Done."
    assert [call["id"] for call in choice["message"]["tool_calls"]] == ["call_1", "call_2"]
    parts = added_up(streamed(ScriptedAnswer(events)))
    assert parts["content"] == "I look. Done."
    assert [call["arguments"] for call in parts["calls"]] == ['{"city": "Rome"}', "{}"]


def test_one_call_may_be_all_that_is_wanted() -> None:
    second: list[Event] = [CallBegun(1, "call_2", "weather"), CallArguments(1, "{}")]
    fields = {"parallel_tool_calls": False}
    choice = whole(ScriptedAnswer([*CALL, *second]), **fields)["choices"][0]
    assert [call["id"] for call in choice["message"]["tool_calls"]] == ["call_1"]
    assert [call["id"] for call in added_up(streamed(ScriptedAnswer([*CALL, *second]), **fields))["calls"]] == ["call_1"]


@pytest.mark.parametrize(("events", "reason"), [(CUT, "stop"), (CUT, "length"), (CALL, "length"), (CALL, "cancelled")])
def test_nothing_that_was_cut_is_given_as_whole(events: list[Event], reason: FinishReason) -> None:
    choice = whole(ScriptedAnswer(events, reason))["choices"][0]
    assert choice["finish_reason"] == "length"
    assert ("tool_calls" in choice["message"]) == (events is CALL)
    assert streamed(ScriptedAnswer(events, reason))[-1]["choices"][0]["finish_reason"] == "length"


def test_the_older_form_has_one_call() -> None:
    fields = {"tools": None, "functions": [WEATHER["function"]]}
    choice = whole(ScriptedAnswer(CALL), **fields)["choices"][0]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"] == {"name": "weather", "arguments": '{"city": "Rome"}'}
    assert "tool_calls" not in choice["message"]
    deltas = [chunk["choices"][0]["delta"] for chunk in streamed(ScriptedAnswer(CALL), **fields)]
    assert deltas[1] == {"function_call": {"name": "weather", "arguments": ""}}
    assert "".join(delta["function_call"]["arguments"] for delta in deltas[1:-1]) == '{"city": "Rome"}'


def test_each_chunk_has_its_own_tokens() -> None:
    events: list[Event] = [Reasoning("Hm."), Content("It is"), Content(" so.")]
    tokens = [["<think>", "Hm", "."], ["</think>", "It", " is"], [" so", "."], ["<|end|>"]]
    chunks = streamed(ScriptedAnswer(events, choices=tokens), logprobs=True)
    told = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert told[0] is None
    assert [[token["token"] for token in each["content"]] for each in told[1:]] == tokens
    reply = whole(ScriptedAnswer(events, choices=tokens), logprobs=True)
    content = reply["choices"][0]["logprobs"]["content"]
    assert [token["token"] for token in content] == [token for each in tokens for token in each]
    assert content[0]["bytes"] == list(b"<think>")


def test_a_completions_offsets_are_those_of_its_text() -> None:
    events: list[Event] = [Content("é🙂"), Content(" ok")]
    tokens = [["é", "🙂"], [" ok"], ["<|end|>"]]
    body = CompletionRequest.model_validate({"prompt": "x", "logprobs": 0, "echo": None})
    choice = whole_reply(CompletionWriter(body), body, [ScriptedAnswer(events, choices=tokens)])["choices"][0]
    assert choice["text"] == "é🙂 ok"
    assert choice["logprobs"]["text_offset"] == [0, 1, 2, 5]
    chunks = list(streamed_reply(CompletionWriter(body), body, [ScriptedAnswer(events, choices=tokens)]))
    data = [json.loads(chunk.removeprefix("data: ")) for chunk in chunks if chunk.startswith("data: {")]
    assert [each["choices"][0]["logprobs"]["text_offset"] for each in data] == [[0, 1], [2], [5]]
