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

    def __init__(self, pieces: list[str], reason: FinishReason, was_closed: bool) -> None:
        self._pieces = pieces
        self._was_closed = was_closed
        self.finish: Finish | None = None
        self._reason = reason
        self.choices = [TokenChoice(b"x", 0.0)] * 5
        self.n_choices = 2

    def chunks(self, _poll: Callable[[], None]) -> Iterator[str]:
        yield from self._pieces
        self.finish = Finish(self._reason, 3, 1, 9, 4, was_closed=self._was_closed)


def answer_of(
    pieces: list[str],
    reason: FinishReason = "stop",
    reader: Reader | None = None,
    was_closed: bool = False,
    **options: Any,
) -> tuple[Answer, list[Event | None]]:
    chosen = Chosen("P", Profile(model="a.gguf"))

    def finished(reply: Reply, finish: Finish) -> dict[str, Any]:
        return summary(reply, None, chosen, finish)

    if reader is None:
        reader = format_of(ChatFormat(chat_templates()["Qwen-Qwen3-0.6B"], "", "", ())).reader(TOOLS, False)
    generation = cast(Generation, Scripted(pieces, reason, was_closed))
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


@pytest.mark.parametrize(
    ("reason", "was_closed", "is_given"),
    [("length", False, True), ("length", True, False), ("cancelled", False, True), ("stop", False, True)],
)
@pytest.mark.parametrize("behind", ["", "}", "}\n</tool_call>"])
def test_a_call_that_ends_with_the_last_token_is_whole_unless_its_end_was_forced(
    reason: FinishReason, was_closed: bool, is_given: bool, behind: str
) -> None:
    answer, _ = answer_of([CALL.partition("}")[0], "}", behind], reason, was_closed=was_closed)
    assert bool(answer.reply.calls) == is_given
    assert bool(answer.reply.cut_call) != is_given
    assert answer.finish.reason == reason
    assert ("tool_calls" in answer.summary) == is_given


def test_a_call_that_was_given_up_behind_its_beginning_is_not_told_as_whole() -> None:
    answer, events = answer_of([CALL.replace("1", "one"), "\nDone."])
    assert any(isinstance(event, CallBegun) for event in events)
    assert answer.reply.calls == ()
    assert "one" in answer.reply.content
    assert answer.finish.reason == answer.summary["finish_reason"] == "length"


def test_code_up_to_the_end_is_whole_only_if_the_model_ended_it() -> None:
    python = ({"type": "function", "function": {"name": "python", "parameters": {"type": "object"}}},)
    template = ChatFormat(chat_templates()["meetkai-functionary-medium-v3.1"], "", "", ())
    for reason, is_whole in (("stop", True), ("length", False), ("cancelled", False)):
        reader = format_of(template).reader(python, False)
        answer, _ = answer_of(["<|python_tag|>print(1)"], cast(FinishReason, reason), reader)
        assert bool(answer.reply.calls) == is_whole
        assert bool(answer.reply.cut_call) != is_whole


def test_chunks_are_the_content_alone() -> None:
    said = [Mark("<think>"), "Hm", Mark("</think>"), "A", " b"]
    reader = format_of(ChatFormat(chat_templates()["Qwen-Qwen3-0.6B"], "", "", ())).reader((), False)
    answer = Answer(cast(Generation, Scripted(said, "stop", False)), reader, lambda: None, lambda *_: {}, ExitStack(), "P")
    assert answer.whole() == "A b"


def test_a_text_keeps_its_white_space() -> None:
    _, events = answer_of([" a", Mark("<x>"), " "], reader=PlainReader(), trims=False)
    assert events == [Content(" a"), None, Content(" ")]
    _, events = answer_of([" a", " "], reader=PlainReader(), trims_start=False)
    assert events == [Content(" a"), None]


def test_only_choices_of_what_was_read_are_told() -> None:
    answer, _ = answer_of(["a"])
    assert len(answer.choices) == 2
