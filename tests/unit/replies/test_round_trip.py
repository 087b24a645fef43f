"""What a template writes of a model's calls, a model would write: it is read back as the calls that it was made from."""

from __future__ import annotations

import json

import pytest

from services.replies.events import joined
from services.replies.formats import format_of
from tests.support.llama_replies import chat_format, pieces_in, splits
from tests.support.real_models import chat_templates
from tests.support.replies import reply_of
from tests.support.written_calls import CALLS, TOOLS, written

# Templates that write calls; the others' models are taught them in training alone, or not at all.
_WRITERS = [name for name, text in chat_templates().items() if "tool_calls" in text]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("template", _WRITERS)
def test_a_call_is_read_back(template: str, name: str) -> None:
    tool, arguments = CALLS[name]
    reply_format = format_of(chat_format(template))
    output = written(template, [(tool, arguments)])
    whole = None
    for split in [pieces_in(output), *splits(pieces_in(output), limit=8)]:
        reader = reply_format.reader(TOOLS, False)
        events = joined([*(event for piece in split for event in reader.add(piece)), *reader.end()])
        reply = reply_of(events)
        assert [(call.name, json.loads(call.arguments)) for call in reply.calls] == [(tool, arguments)], output
        assert not reply.content.strip(), output
        seen = [(type(event), getattr(event, "text", "")) for event in events]
        assert whole in (None, seen)
        whole = seen


@pytest.mark.parametrize("template", _WRITERS)
def test_several_calls_are_read_back(template: str) -> None:
    calls = [CALLS["plain"], CALLS["lines"]]
    try:
        output = written(template, calls)
    except ValueError:
        pytest.skip("the template writes one call a message")
    reader = format_of(chat_format(template)).reader(TOOLS, False)
    reply = reply_of([*(event for piece in pieces_in(output) for event in reader.add(piece)), *reader.end()])
    found = [(call.name, json.loads(call.arguments)) for call in reply.calls]
    assert found in (calls, calls[:1]), output
