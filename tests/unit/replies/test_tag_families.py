"""The edges of families that write calls in tags: what is kept, what is no call, what is cut."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.backend.types import Mark
from services.replies.events import CallArguments, CallBegun, Reply, joined
from services.replies.formats import format_of
from tests.support.llama_replies import chat_format
from tests.support.replies import reply_of
from tests.unit.replies.reading import tool

TOOLS = [tool("edit", path="string", text="string", line="integer"), tool("edit_all", paths="array"), tool("ping")]
_QWEN, _GLM, _SEED, _M2 = "Qwen3.5-4B", "GLM-4.7-Flash", "ByteDance-Seed-OSS", "MiniMax-M2"


def read(template: str, *pieces: str, is_thinking: bool = False, tools: list[dict[str, Any]] | None = None) -> Reply:
    reader = format_of(chat_format(template)).reader(TOOLS if tools is None else tools, is_thinking)
    return reply_of([*(event for piece in pieces for event in reader.add(piece)), *reader.end()])


def calls(reply: Reply) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for call in reply.calls]


def test_a_text_is_streamed_while_it_is_written() -> None:
    reader = format_of(chat_format(_QWEN)).reader(TOOLS, False)
    assert not reader.add("<tool_call>\n<function=edit")
    assert [type(event) for event in reader.add(">\n")] == [CallBegun]
    assert reader.add("<parameter=text>\n") == [CallArguments(0, '{"text": "')]
    assert reader.add('one "two"') == [CallArguments(0, 'one \\"two\\"')]
    # A line break may be the end tag's.
    assert not reader.add("\n</para")
    assert reader.add("graph>") == [CallArguments(0, "\\n</paragraph>")]
    assert reader.add("\n</parameter>\n</function>\n</tool_call>") == [CallArguments(0, '"}')]


def test_names_that_begin_alike_are_told_apart() -> None:
    assert calls(read(_QWEN, "<function=edit_all><parameter=paths>[]</parameter></function>")) == [
        ("edit_all", {"paths": []})
    ]
    assert calls(read(_GLM, "<tool_call>edit_all<arg_key>paths</arg_key><arg_value>[1]</arg_value></tool_call>")) == [
        ("edit_all", {"paths": [1]})
    ]


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\n<function=unknown>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>",
        "Write <tool_call> and then <function=NAME>.",
        "<function=edit\n> is no call",
        "<tool_call>{}</tool_call>",
    ],
)
def test_what_is_no_call_is_content(text: str) -> None:
    assert read(_QWEN, text) == Reply(content=text)
    assert read(_QWEN, *text) == Reply(content=text)


def test_without_tools_a_call_is_content() -> None:
    text = "<tool_call>ping</tool_call>"
    assert read(_GLM, text, tools=[]) == Reply(content=text)


def test_text_around_calls_is_kept() -> None:
    one = "<tool_call>ping</tool_call>"
    reply = read(_GLM, f"First.\n{one}\nThen.\n\n{one}")
    assert (reply.content, [call.name for call in reply.calls]) == ("First.Then.", ["ping", "ping"])


def test_tags_within_a_value_are_its_text() -> None:
    value = "a <tool_call> </think> <arg_key> b"
    text = f"<tool_call>edit<arg_key>text</arg_key><arg_value>{value}</arg_value></tool_call>"
    assert calls(read(_GLM, text)) == [("edit", {"text": value})]


def test_only_the_tags_own_line_breaks_are_left_out() -> None:
    text = "<function=edit>\n<parameter=text>\n\n  a\n\n</parameter>\n</function>"
    assert calls(read(_QWEN, text)) == [("edit", {"text": "\n  a\n"})]
    text = "<seed:tool_call><function=edit><parameter=text>\na\n</parameter></function></seed:tool_call>"
    assert calls(read(_SEED, text)) == [("edit", {"text": "\na\n"})]


@pytest.mark.parametrize(
    "cut", ["<function=edit>", "<function=edit><parameter=text>ab", "<function=edit><parameter=line>1"]
)
def test_a_cut_call_is_not_whole(cut: str) -> None:
    reply = read(_QWEN, cut)
    assert not reply.calls
    assert reply.cut_call
    assert reply.cut_call.name == "edit"


def test_a_call_ends_a_thought_that_the_prompt_opened() -> None:
    reply = read(_QWEN, "I ping.\n<tool_call>\n<function=ping>\n</function>\n</tool_call>", is_thinking=True)
    assert (reply.reasoning, calls(reply), reply.content) == ("I ping.", [("ping", {})], "")


def test_what_only_looks_like_a_call_stays_a_thought() -> None:
    thought = "I could write <tool_call> and <function=unknown>"
    reply = read(_QWEN, f"{thought}\n</think>\n\nDone.", is_thinking=True)
    assert (reply.reasoning, reply.content) == (thought, "Done.")


def test_tokens_and_letters_are_read_alike() -> None:
    pieces = ("<tool_call>", "edit", "<arg_key>", "line", "</arg_key>", "<arg_value>", "3", "</arg_value>", "</tool_call>")
    assert calls(read(_GLM, *(Mark(piece) if "<" in piece else piece for piece in pieces))) == [("edit", {"line": 3})]


def test_a_section_holds_several_calls() -> None:
    text = (
        '<minimax:tool_call>\n<invoke name="ping">\n</invoke>\n<invoke name="edit">\n'
        '<parameter name="line">4</parameter>\n</invoke>\n</minimax:tool_call>'
    )
    assert calls(read(_M2, text)) == [("ping", {}), ("edit", {"line": 4})]


def test_events_do_not_depend_on_the_splits() -> None:
    text = "a\n<tool_call>edit<arg_key>line</arg_key>\n<arg_value>3</arg_value></tool_call>"
    reader = format_of(chat_format(_GLM)).reader(TOOLS, False)
    events = joined([*(event for letter in text for event in reader.add(letter)), *reader.end()])
    assert [type(event).__name__ for event in events] == ["Content", "CallBegun", "CallArguments"]
