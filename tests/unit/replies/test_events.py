from services.replies.events import (
    CallArguments,
    CallBegun,
    Content,
    Event,
    Reasoning,
    Reply,
    ReplyBuilder,
    ToolCall,
    joined,
)
from tests.support.replies import reply_of


def test_a_reply_adds_up() -> None:
    events: list[Event] = [
        Reasoning("a"),
        Reasoning("b"),
        Content("c"),
        CallBegun(0, "x", "f"),
        CallArguments(0, '{"a"'),
        CallArguments(0, ":1}"),
    ]
    assert reply_of(events) == Reply("ab", "c", (ToolCall("f", '{"a":1}', "x"),))


def test_a_call_that_was_cut_is_told_apart() -> None:
    reply = reply_of([CallBegun(0, "x", "f"), CallArguments(0, "{}"), CallBegun(1, "y", "g"), CallArguments(1, '{"a')])
    assert reply.calls == (ToolCall("f", "{}", "x"),)
    assert reply.cut_call == ToolCall("g", '{"a', "y")
    assert reply.is_cut


def test_a_call_that_was_given_up_is_content() -> None:
    reply = reply_of([CallBegun(0, "x", "f"), CallArguments(0, "{"), Content("<f>{oops")])
    assert reply == Reply(content="<f>{oops", is_broken=True)
    assert reply.is_cut


def test_a_whole_call_at_the_end_counts_unless_its_end_was_forced() -> None:
    builder = ReplyBuilder()
    for event in (CallBegun(0, "x", "f"), CallArguments(0, '{"a": 1}')):
        builder.add(event)
    call = ToolCall("f", '{"a": 1}', "x")
    assert builder.reply() == Reply(calls=(call,))
    assert builder.reply(was_closed=True) == Reply(cut_call=call)


def test_neighbours_are_joined() -> None:
    events: list[Event] = [
        Content("a"),
        Content("b"),
        CallBegun(0, "", "f"),
        CallArguments(0, "{"),
        CallArguments(0, "}"),
        Content("c"),
    ]
    assert joined(events) == [Content("ab"), CallBegun(0, "", "f"), CallArguments(0, "{}"), Content("c")]


def test_a_call_is_described_as_openai_has_it() -> None:
    described = ToolCall("f", "{}", "x").described()
    assert described == {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}
