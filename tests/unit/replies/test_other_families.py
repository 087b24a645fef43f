"""The edges of Kimi, LFM2, Gemma 4, MiniMax M3, Functionary, Muse and Solar."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.backend.types import Constraint
from services.replies.events import Reply
from services.replies.formats import format_of
from tests.support.llama_replies import chat_format, pieces_in
from tests.support.replies import reply_of
from tests.unit.replies.reading import tool

TOOLS = [tool("find", where="string", n="integer"), tool("ping"), tool("python", code="string")]
_NS = "]<]minimax[>["


def read(template: str, text: str, is_thinking: bool = False, marked: bool = True, continues: bool = False) -> Reply:
    reader = format_of(chat_format(template)).reader(TOOLS, is_thinking, continues)
    pieces = pieces_in(text) if marked else [text]
    return reply_of([*(event for piece in pieces for event in reader.add(piece)), *reader.end()])


def calls(reply: Reply) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for call in reply.calls]


@pytest.mark.parametrize(
    ("template", "text", "expected"),
    [
        (
            "LFM2-8B-A1B",
            "<|tool_call_start|>[find('it\\'s', n=0x10), ping()]<|tool_call_end|>",
            [{"where": "it's", "n": 16}, {}],
        ),
        ("LFM2-8B-A1B", '<|tool_call_start|>find(where="""a\n"b""")<|tool_call_end|>', [{"where": 'a\n"b'}]),
        ("LFM2-8B-A1B", "<|tool_call_start|>[find(where=None)", [{"where": None}]),
        (
            "google-gemma-4-31B-it",
            '<|tool_call>call:find{where:<|"|>{a}, "b"<|"|>,n:-1}<tool_call|>',
            [{"where": '{a}, "b"', "n": -1}],
        ),
        ("google-gemma-4-31B-it", "<|tool_call>call:find{where:Paris,n:2}", [{"where": "Paris", "n": 2}]),
        ("meetkai-functionary-medium-v3.2", 'all\nI look.>>>find\n{"n": 1}>>>ping\n{}', [{"n": 1}, {}]),
        ("meetkai-functionary-medium-v3.2", "python\nprint(1)\n", [{"code": "print(1)\n"}]),
        ("meetkai-functionary-medium-v3.1", "<|python_tag|>print(1)", [{"code": "print(1)"}]),
        ("fireworks-ai-llama-3-firefunction-v2", ' functools[{"name": "ping", "arguments": {}}]', [{}]),
        (
            "upstage-Solar-Open-100B",
            "<|tool_calls|><|tool_call:begin|>a1<|tool_call:name|>ping<|tool_call:args|>{}<|tool_call:end|>",
            [{}],
        ),
        (
            "MiniMax-M3",
            f'{_NS}<tool_call>{_NS}<invoke name="find">{_NS}<where>a<b{_NS}</where>{_NS}</invoke>',
            [{"where": "a<b"}],
        ),
    ],
)
def test_a_call_is_read(template: str, text: str, expected: list[Any]) -> None:
    assert [arguments for _, arguments in calls(read(template, text))] == expected


def test_kimis_ids_are_the_models_own() -> None:
    text = "<|tool_call_begin|>functions.find:12<|tool_call_argument_begin|>{}"
    [call] = read("Kimi-K2-Instruct", text).calls
    assert (call.name, call.id) == ("find", "functions.find:12")


def test_k3_may_write_all_arguments_as_json() -> None:
    text = (
        '<|open|>tools<|sep|><|open|>call tool="find" index="1"<|sep|><|open|>json type="object"<|sep|>{"n": 1e999}'
        "<|close|>json<|sep|><|close|>call<|sep|><|close|>tools<|sep|>"
    )
    [call] = read("Kimi-K3", text).calls
    assert call.arguments == '{"n": 1e999}'


def test_k3s_response_ends_a_thought_that_is_not_closed() -> None:
    reply = read("Kimi-K3", "Hm.<|open|>response<|sep|>Yes.<|close|>response<|sep|>", is_thinking=True)
    assert (reply.reasoning, reply.content) == ("Hm.", "Yes.")


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("LFM2-8B-A1B", "A list: [1, 2] and [find](url)."),
        ("meetkai-functionary-medium-v3.1", "<function=unknown>{}</function>"),
        ("google-gemma-4-31B-it", "call:find{n:1}"),
        ("fireworks-ai-llama-3-firefunction-v2", "from functools import reduce"),
        ("muse-glimmer", "plain text without a header"),
    ],
)
def test_what_is_no_call_is_content(template: str, text: str) -> None:
    assert read(template, text) == Reply(content=text)


def test_functionary_continues_an_answer_without_a_recipient() -> None:
    assert read("meetkai-functionary-medium-v3.2", "world\nand all", continues=True) == Reply(content="world\nand all")


def test_muse_reads_messages_by_their_recipients() -> None:
    call = '<atem:function_calls>\n<atem:invoke name="ping">\n</atem:invoke>\n</atem:function_calls>'
    text = f" to=self<|message|>Hm, {call}?<|eom|><|start|>assistant to=user<|message|>I ping.<|eom|>"
    text += f"<|start|>assistant to=ping<|message|>{call}<|eot|>"
    reply = read("muse-glimmer", text)
    assert (reply.reasoning, reply.content, calls(reply)) == (f"Hm, {call}?", "I ping.", [("ping", {})])


def test_solars_parts_are_told_apart() -> None:
    text = "<|think|>Hm.<|end|><|begin|>assistant<|content|>Yes.<|end|>"
    reply = read("upstage-Solar-Open-100B", text)
    assert (reply.reasoning, reply.content) == ("Hm.", "Yes.")


def test_a_schema_stands_in_the_tags_around_an_answer() -> None:
    schema = Constraint("json_schema", '{"type": "integer"}')
    for template, begins in (
        ("Kimi-K3", "response"),
        ("upstage-Solar-Open-100B", "<|content|>"),
        ("muse-glimmer", "to=user"),
    ):
        framed = format_of(chat_format(template)).framed(schema)
        assert framed.kind == "lark"
        assert begins in framed.source


@pytest.mark.parametrize(("template", "openings"), [("Kimi-K3", True), ("Spark2.5", True), ("LFM2-8B-A1B", False)])
def test_whether_a_prompt_opens_a_thought(template: str, openings: bool) -> None:
    reply_format = format_of(chat_format(template))
    tail = reply_format.thoughts.begins if reply_format.thoughts else "<think>"
    assert reply_format.is_thinking(f"…{tail}") is openings
