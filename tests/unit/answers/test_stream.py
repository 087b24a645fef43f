"""An answer as events: read, trimmed, added up, and told as cut where a call was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, cast

import pytest

from services.answers.plain_reader import PlainReader
from services.answers.stream import Answer, summary
from services.backend.protocols import Generation
from services.backend.types import ChatFormat, Finish, FinishReason, Mark, TokenChoice
from services.models.profile import Chosen, Profile
from services.replies.events import CallArguments, CallBegun, Content, Event, Reasoning, Reply
from services.replies.formats import format_of
from services.replies.reader import Reader
from tests.support.real_models import chat_templates

TOOLS = ({"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}},)
CALL = '<tool_call>\n{"name": "look", "arguments": {"a": 1}}\n</tool_call>'


class Scripted:
    """A generation of these pieces; "" is a silence."""

    def __init__(self, pieces: list[str], reason: FinishReason = "stop") -> None:
        self._pieces = pieces
        self.finish: Finish | None = None
        self._reason = reason
        self.choices = [TokenChoice(b"x", 0.0)] * 5
        self.n_choices = 2

    def chunks(self, _poll: Callable[[], None]) -> Iterator[str]:
        yield from self._pieces
        self.finish = Finish(self._reason, 3, 1, 9, 4)


def answer_of(
    pieces: list[str], reason: FinishReason = "stop", reader: Reader | None = None, **options: bool
) -> tuple[Answer, list[Event | None]]:
    chosen = Chosen("P", Profile(model="a.gguf"))

    def finished(reply: Reply, finish: Finish) -> dict[str, Any]:
        return summary(reply, None, chosen, finish)

    if reader is None:
        reader = format_of(ChatFormat(chat_templates()["Qwen-Qwen3-0.6B"], "", "", ())).reader(TOOLS, False)
    generation = cast(Generation, Scripted(pieces, reason))
    answer = Answer(generation, reader, lambda: None, finished, ExitStack(), "P", **options)
    return answer, list(answer.events())


def test_an_answer_is_read_into_its_parts() -> None:
    said = ["", Mark("<think>"), "\nHm", "", ".\n", Mark("</think>"), "\n\nSee: ", CALL, ""]
    answer, events = answer_of(said)
    assert events.count(None) >= 3
    told = [event for event in events if event]
    assert "".join(event.text for event in told if isinstance(event, Reasoning)) == "Hm."
    assert "".join(event.text for event in told if isinstance(event, Content)) == "See:"
    assert next(type(event) for event in told if isinstance(event, CallBegun | CallArguments)) is CallBegun
    assert answer.reply.reasoning == "Hm."
    assert [(call.name, call.arguments) for call in answer.reply.calls] == [("look", '{"a": 1}')]
    assert answer.summary["result"] == "See:"
    assert answer.summary["reasoning"] == "Hm."
    assert [call["function"]["name"] for call in answer.summary["tool_calls"]] == ["look"]
    assert answer.summary["usage"] == {
        "prompt_tokens": 3,
        "cached_tokens": 1,
        "completion_tokens": 9,
        "reasoning_tokens": 4,
    }


@pytest.mark.parametrize("reason", ["stop", "length", "cancelled"])
def test_a_reply_whose_call_was_cut_is_not_told_as_whole(reason: FinishReason) -> None:
    for cut in range(CALL.index("1"), CALL.index("}")):
        answer, _ = answer_of([CALL[:cut]], reason)
        assert answer.reply.calls == ()
        assert answer.finish.reason == answer.summary["finish_reason"] == ("length" if reason == "stop" else reason)
        assert "tool_calls" not in answer.summary


def test_chunks_are_the_content_alone() -> None:
    said = [Mark("<think>"), "Hm", Mark("</think>"), "A", " b"]
    reader = format_of(ChatFormat(chat_templates()["Qwen-Qwen3-0.6B"], "", "", ())).reader((), False)
    answer = Answer(cast(Generation, Scripted(said)), reader, lambda: None, lambda *_: {}, ExitStack(), "P")
    assert answer.whole() == "A b"


def test_a_text_keeps_its_white_space() -> None:
    _, events = answer_of([" a", Mark("<x>"), " "], reader=PlainReader(), trims=False)
    assert events == [Content(" a"), None, Content(" ")]
    _, events = answer_of([" a", " "], reader=PlainReader(), trims_start=False)
    assert events == [Content(" a"), None]


def test_only_choices_of_what_was_read_are_told() -> None:
    answer, _ = answer_of(["a"])
    assert len(answer.choices) == 2
