from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.replies.events import Reply, ToolCall
from services.replies.formats import format_of
from services.replies.wording import call_in_words, result_in_words, tools_in_words
from tests.support.replies import reply_of
from tests.unit.replies.reading import TOOLS, chat_format, events_of, tool

GENERIC = format_of(chat_format("{{ messages }}"))
OBJECTS = st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.booleans()), max_size=3)


@given(st.text(min_size=1), OBJECTS)
def test_a_call_in_words_is_read_as_that_call(name: str, arguments: dict[str, Any]) -> None:
    call = ToolCall(name, json.dumps(arguments))
    events = events_of(GENERIC, call_in_words(call), tools=[tool(name)])
    assert reply_of(events) == Reply(calls=(call,))


def test_arguments_stay_the_models_own() -> None:
    assert '{"a": 1e999,  "a": "\\ud800"}' in call_in_words(ToolCall("get", '{"a": 1e999,  "a": "\\ud800"}'))
    assert '"arguments": {}' in call_in_words(ToolCall("get", ""))
    assert '"arguments": "not JSON \\""' in call_in_words(ToolCall("get", 'not JSON "'))


def test_tools_are_described_whole() -> None:
    words = tools_in_words(TOOLS)
    assert all(json.dumps(each) in words for each in TOOLS)
    assert "<tool_call>" in words


def test_a_result_is_told_apart() -> None:
    assert result_in_words("get", "42") == '<tool_response name="get">\n42\n</tool_response>'
    assert result_in_words("", "42") == "<tool_response>\n42\n</tool_response>"
