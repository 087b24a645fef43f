"""How an answer is read and held: the tools, the form that was asked for, and plain texts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.answers.plain_reader import PlainReader
from services.answers.reading import Reading, reading_of
from services.answers.request import AnswerRequest, ThinkingWish
from services.backend.types import ChatFormat, Constraint, Mark, Prompt
from services.errors import InvalidRequest
from services.models.profile import Profile
from services.prompts.chat import ChatForm
from services.prompts.chat_template import chat_template
from services.prompts.form import Form
from services.prompts.text import TextForm
from services.replies.events import Reply
from tests.support.real_models import chat_templates
from tests.support.replies import reply_of

PROFILE = Profile(model="a.gguf")
SCHEMA = Constraint("json_schema", json.dumps({"type": "object", "required": ["name", "arguments"]}))
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>'


class Words:
    """A model whose tokens are the characters."""

    n_ctx = 100
    chat_format = ChatFormat("", "", "", ())

    def tokenize(self, prompt: Prompt) -> list[int]:
        return [ord(letter) for letter in prompt.text]


def reading(name: str = "Qwen-Qwen3-0.6B", tail: str = "", form: Form | None = None, **fields: Any) -> Reading:
    template = chat_template(ChatFormat(chat_templates()[name], "", "", ()))
    chat = ChatForm(template, ({"role": "user", "content": "Hi"},))
    asked = AnswerRequest("Hi", **fields)
    return reading_of(asked, PROFILE, form or chat, Words(), tail)  # type: ignore[arg-type]


def read(found: Reading, *pieces: str) -> Reply:
    reader = found.reader()
    return reply_of([event for piece in pieces for event in reader.add(piece)] + reader.end())


def test_a_chat_is_read_with_its_thoughts() -> None:
    found = reading(tail="<|im_start|>assistant\n<think>\n")
    assert found.marks
    assert found.thoughts
    assert found.thoughts.is_open
    assert found.thoughts.budget is None
    assert "</think>" in found.thoughts.closing
    assert read(found, "a", Mark("</think>"), "b") == Reply("a", "b")


def test_a_model_that_is_not_to_think_closes_its_thought_without_a_word() -> None:
    found = reading(tail="<|im_start|>assistant\n<think>\n", thinking=ThinkingWish(enabled=False))
    assert found.thoughts
    assert found.thoughts.budget == 0
    assert found.thoughts.closing.strip() == "</think>"


@pytest.mark.parametrize(("enabled", "is_free"), [(None, True), (True, True), (False, False)])
def test_no_grammar_lets_a_thought_begin_that_is_not_wanted(enabled: bool | None, is_free: bool) -> None:
    own = ChatFormat(chat_templates()["Qwen-Qwen3-0.6B"], "", "", ("<think>", "</think>"))
    form = ChatForm(chat_template(own), ({"role": "user", "content": "Hi"},))
    found = reading(form=form, tools=(WEATHER,), thinking=ThinkingWish(enabled=enabled))
    assert found.constraint
    assert ("<think>" in found.constraint.source) is is_free


def test_a_text_is_read_as_it_is() -> None:
    found = reading(form=TextForm(Prompt("Once")), constraint=SCHEMA)
    assert (found.marks, found.thoughts, found.constraint) == (False, None, SCHEMA)
    assert isinstance(found.reader(), PlainReader)
    assert read(found, "<think>a</think>", Mark("<x>"), CALL) == Reply("", "<think>a</think>" + CALL)


@pytest.mark.parametrize(
    ("name", "call"),
    [("Qwen-Qwen3-0.6B", CALL), ("Qwen3-Coder", "<tool_call>\n<function=weather>\n</function>\n</tool_call>")],
)
@pytest.mark.parametrize("choice", ["auto", "required", "weather"])
def test_calls_are_read_where_tools_may_be_called(name: str, call: str, choice: str) -> None:
    found = reading(name, tools=(WEATHER,), tool_choice=choice)
    assert found.constraint
    # A call that may begin without a tag has a grammar from the first token on.
    assert bool(found.constraint.triggers) == (choice == "auto" and name == "Qwen3-Coder")
    assert [each.name for each in read(found, call).calls] == ["weather"]


@pytest.mark.parametrize(("choice", "is_repeated"), [("required", True), ("weather", False)])
def test_a_tool_by_its_name_is_called_once(choice: str, is_repeated: bool) -> None:
    """Instructor and LangChain ask so for an object, without parallel_tool_calls; weak models write it again and again."""
    found = reading(tools=(WEATHER,), tool_choice=choice)
    assert found.constraint
    assert (")*" in found.constraint.source) is is_repeated


def test_a_thought_ends_in_front_of_a_call_where_the_reader_ends_it() -> None:
    tail = "<|im_start|>assistant\n<think>\n"
    with_tools = reading("Qwen3.5-4B", tail=tail, tools=(WEATHER,))
    assert with_tools.thoughts
    assert with_tools.thoughts.breaks == ("<tool_call>",)
    for tools in ((), (WEATHER,)):
        without = reading("Qwen3.5-4B", tail=tail, tools=tools, tool_choice="none")
        assert without.thoughts
        assert without.thoughts.breaks == ()


def test_calls_are_text_where_none_may_be_called() -> None:
    found = reading(tools=(WEATHER,), tool_choice="none", constraint=SCHEMA)
    assert found.constraint
    assert SCHEMA.source in found.constraint.source
    assert read(found, CALL) == Reply("", CALL)


@pytest.mark.parametrize("name", ["Qwen-Qwen3-0.6B", "meta-llama-Llama-3.1-8B-Instruct"])
@pytest.mark.parametrize("argument", ["arguments", "parameters"])
def test_an_answer_by_a_schema_is_no_call_however_it_looks(name: str, argument: str) -> None:
    text = json.dumps({"name": "weather", argument: {}})
    found = reading(name, tools=(WEATHER,), constraint=SCHEMA)
    assert read(found, text) == Reply("", text)


def test_beside_a_schema_tools_can_still_be_called() -> None:
    found = reading(tools=(WEATHER,), constraint=SCHEMA)
    assert found.constraint
    assert (found.constraint.kind, found.constraint.triggers) == ("lark", ())
    assert found.constraint.source.startswith("start: calls | answer\n")
    assert [call.name for call in read(found, CALL).calls] == ["weather"]
    forced = reading(tools=(WEATHER,), constraint=SCHEMA, tool_choice="required")
    assert forced.constraint == reading(tools=(WEATHER,), tool_choice="required").constraint


def test_a_tool_that_is_not_there_is_refused_by_name() -> None:
    for tools in ((), (WEATHER,)):
        with pytest.raises(InvalidRequest, match='no tool "clock"') as refused:
            reading(tools=tools, tool_choice="clock")
        assert refused.value.param == "tool_choice"
