"""Whatever a model writes, no reader raises, loses text, or depends on how the stream is split."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from services.replies.events import CallArguments, Content, Event, Reasoning
from services.replies.format import ReplyFormat
from services.replies.formats import format_of
from services.replies.json_scan import is_json
from tests.support.real_models import chat_templates
from tests.support.replies import reply_of
from tests.unit.replies.reading import TOOLS, chat_format, events_of, markers_of, tokens_of, tool, with_marks

WORDS = [
    "a",
    " ",
    "\n",
    "Hello",
    "{",
    "}",
    "[",
    "]",
    '"',
    ":",
    ",",
    "<",
    ">",
    "|",
    "\\",
    "é",
    "functions.",
    "to=",
    ";",
    "=",
    "(",
    ")",
]
JSON = [
    '{"name": "get", "arguments": {"a": "b"}}',
    '"name"',
    '"arguments"',
    '"parameters"',
    '"get"',
    "get",
    '{"a": 1}',
    "```json",
    "{}",
]
NO_TOOLS = [tool("\ufffe no such tool")]


@cache
def formats() -> list[ReplyFormat]:
    found = {format_of(chat_format(text)) for text in chat_templates().values()}
    return sorted(found, key=lambda each: (each.name, repr(each)))


@cache
def words(reply_format: ReplyFormat) -> list[str]:
    return sorted({*WORDS, *JSON, *filter(None, markers_of(reply_format)), *tokens_of(reply_format)})


@st.composite
def replies(draw: st.DrawFn) -> tuple[ReplyFormat, str]:
    reply_format = draw(st.sampled_from(formats()))
    return reply_format, "".join(draw(st.lists(st.sampled_from(words(reply_format)), max_size=24)))


@settings(max_examples=500, deadline=None)
@given(replies(), st.booleans(), st.booleans(), st.data())
def test_a_reader_never_fails_and_no_split_matters(
    reply: tuple[ReplyFormat, str], is_thinking: bool, continues: bool, data: st.DataObject
) -> None:
    reply_format, text = reply
    options: dict[str, Any] = {"is_thinking": is_thinking and reply_format.thoughts is not None, "continues": continues}
    whole = events_of(reply_format, [text], **options)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
    assert same(events_of(reply_format, pieces, **options)) == same(whole)
    assert same(events_of(reply_format, text, **options)) == same(whole)
    for call in reply_of(whole).calls:
        assert is_json(call.arguments)
        assert call.name in {each["function"]["name"] for each in TOOLS}


@settings(max_examples=500, deadline=None)
@given(replies(), st.data())
def test_marks_make_no_reader_fail(reply: tuple[ReplyFormat, str], data: st.DataObject) -> None:
    reply_format, text = reply
    pieces = with_marks(
        text, [*data.draw(st.lists(st.sampled_from(words(reply_format)), max_size=6)), *tokens_of(reply_format)]
    )
    events_of(reply_format, pieces)


@settings(max_examples=400, deadline=None)
@given(replies(), st.sampled_from(["none", "others"]))
def test_without_calls_no_text_is_lost(reply: tuple[ReplyFormat, str], tools: str) -> None:
    reply_format, text = reply
    events = events_of(reply_format, [text], tools=[] if tools == "none" else NO_TOOLS)
    texts = [event for event in events if isinstance(event, Content | Reasoning)]
    assert texts == events
    found = "".join(event.text for event in texts)
    assert bare(reply_format, found) == bare(reply_format, text)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(formats()), st.text(max_size=60))
def test_text_without_markers_is_content_as_it_is(reply_format: ReplyFormat, text: str) -> None:
    assume(not any(each in text for each in (*markers_of(reply_format), *tokens_of(reply_format), "to=")))
    assert reply_of(events_of(reply_format, text)).content == text


def same(events: Sequence[Event]) -> list[Any]:
    """Return events without made-up ids, which are random, and without where pieces of arguments end."""
    return [event if isinstance(event, Content | Reasoning | CallArguments) else event.name for event in events]


def bare(reply_format: ReplyFormat, text: str) -> str:
    """Return a text without what surrounds thoughts and content, and without white space."""
    tags = [*reply_format.skipped, *(tag for pair in reply_format.wraps for tag in pair)]
    if reply_format.thoughts:
        tags += [reply_format.thoughts.begins, reply_format.thoughts.ends]
    if reply_format.name == "harmony":
        tags += tokens_of(reply_format)
        # Headers are no text.
        text = re.sub(r"<\|\w+\|>|to=[^\s<]*|analysis", "", text)
    text = "".join(text.split())
    for tag in sorted(tags, key=len, reverse=True):
        text = text.replace("".join(tag.split()), "")
    return text


@pytest.mark.parametrize("reply_format", formats(), ids=lambda each: each.name)
def test_a_long_reply_takes_time_in_proportion(reply_format: ReplyFormat) -> None:
    begun = time.process_time()
    for opener in words(reply_format):
        events_of(reply_format, [opener * (20_000 // len(opener))])
    assert time.process_time() - begun < 0.1 * len(words(reply_format)) + 5
