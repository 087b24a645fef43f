"""What "auto" holds: every syntax that is read, from where a call has surely begun, and nothing that is content."""

from __future__ import annotations

from functools import cache

import pytest

from services.backend.types import Constraint
from services.replies.format import ReplyFormat
from services.replies.formats import format_of
from services.replies.syntax import is_prose
from services.replies.toolset import grouped
from tests.support.llama_replies import chat_format, pieces_in
from tests.support.real_models import chat_templates
from tests.support.replies import reply_of
from tests.unit.replies.guided import held, kept
from tests.unit.replies.reading import markers_of, tool

WEATHER = tool("get_weather", city="string", days="integer")
WEATHER["function"]["parameters"] |= {"required": ["city"], "additionalProperties": False}
TOOLS = [WEATHER, tool("ping")]
PARIS = '{"city": "Paris"}'
NS = "]<]minimax[>["

# A template, and a call in another syntax than the one that its model was taught, or without its outer tag.
OTHERS = [
    ("Qwen-Qwen3-0.6B", f'{{"name": "get_weather", "arguments": {PARIS}}}'),
    ("Qwen-Qwen3-0.6B", f'```json\n{{"name": "get_weather", "arguments": {PARIS}}}\n```'),
    ("Qwen-Qwen3-0.6B", f'I look.\n<tool_call>[{{"name": "get_weather", "arguments": {PARIS}}}]</tool_call>'),
    ("google-gemma-2-2b-it", f"Hm. <function=get_weather>{PARIS}</function>"),
    ("meta-llama-Llama-3.1-8B-Instruct", f'<|python_tag|>{{"name": "get_weather", "parameters": {PARIS}}}'),
    ("meta-llama-Llama-3.1-8B-Instruct", '<|python_tag|>get_weather.call(city="Paris")'),
    ("meta-llama-Llama-3.1-8B-Instruct", "[get_weather(city='Paris')]"),
    ("Qwen3-Coder", "<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>"),
    ("MiniMax-M2", '<invoke name="get_weather">\n<parameter name="city">Paris</parameter>\n</invoke>'),
    (
        "Kimi-K2-Instruct",
        f"<|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{PARIS}<|tool_call_end|>",
    ),
    (
        "deepseek-ai-DeepSeek-V3.1",
        f"<\uff5ctool\u2581call\u2581begin\uff5c>get_weather<\uff5ctool\u2581sep\uff5c>{PARIS}<\uff5ctool\u2581call\u2581end\uff5c>",
    ),
    (
        "ibm-granite-granite-3.3-2B-Instruct",
        f'<tool_call>[{{"name": "get_weather", "arguments": {PARIS}}}]',
    ),
    (
        "openai-gpt-oss-120b",
        f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant to=functions.get_weather<|channel|>commentary json"
        f"<|message|>{PARIS}",
    ),
]


def format_named(template: str) -> ReplyFormat:
    return format_of(chat_format(template))


def auto(template: str, parallel: bool = True) -> tuple[Constraint, tuple[str, ...]]:
    reply_format = format_named(template)
    constraint = reply_format.constraint(TOOLS, "auto", parallel)
    assert constraint
    return constraint, tuple(sorted(reply_format.tokens))


@pytest.mark.parametrize("parallel", [True, False], ids=["several", "one"])
@pytest.mark.parametrize(("template", "text"), OTHERS, ids=[f"{template[:20]}-{text[:12]!r}" for template, text in OTHERS])
def test_every_syntax_that_is_read_is_held(template: str, text: str, parallel: bool) -> None:
    constraint, tokens = auto(template, parallel)
    reader = format_named(template).reader(TOOLS, False)
    assert reply_of([*(event for piece in pieces_in(text) for event in reader.add(piece)), *reader.end()]).calls
    assert held(constraint, pieces_in(text), tokens) == "whole"
    assert held(constraint, pieces_in(text.replace("city", "town")), tokens) not in ("whole", "free", "begun")


@cache
def _templates() -> dict[str, str]:
    found: dict[str, str] = {}
    for template in chat_templates():
        found.setdefault(format_named(template).name, template)
    return found


PROSE = [
    "I write {} in front of a call.",
    "{} begins a call, and `{}` too.",
    "First {}\nthen the name",
    "{}",
    "{} {{",
]


@pytest.mark.parametrize("name", _templates())
def test_a_sentence_about_tags_is_free(name: str) -> None:
    """What people write about calls holds nothing, while tokens that nobody writes but to call begin one."""
    template = _templates()[name]
    reply_format = format_named(template)
    constraint, tokens = auto(template)
    for marker in filter(is_prose, markers_of(reply_format)):
        for sentence in PROSE:
            text = sentence.format(marker, marker)
            reader = reply_format.reader(TOOLS, False)
            assert not reply_of([*reader.add(text), *reader.end()]).calls
            found = held(constraint, [text], tokens)
            assert found == ("free" if constraint.triggers else "whole"), text


def test_an_answer_may_hold_prompts_of_python() -> None:
    constraint, tokens = auto("meetkai-functionary-medium-v3.2")
    text = "all\nTry it:\n>>> print(1)\n1\n"
    assert held(constraint, [text], tokens) == "whole"
    assert held(constraint, [f"{text}>>>get_weather\n{PARIS}"], tokens) == "whole"
    assert held(constraint, [f'{text}>>>get_weather\n{{"town": "Paris"}}'], tokens) not in ("whole", "begun")


def test_recipients_count_in_headers_alone() -> None:
    constraint, tokens = auto("openai-gpt-oss-120b")
    assert held(constraint, pieces_in("<|channel|>final<|message|>Write to=functions.get_weather so."), tokens) == "free"
    constraint, tokens = auto("muse-glimmer")
    text = " to=user<|message|><atem:function_calls>\n<atem:invoke name='x'>"
    assert held(constraint, pieces_in(text), tokens) == "free"


@pytest.mark.parametrize(
    ("template", "call"),
    [
        ("Qwen-Qwen3-0.6B", f'<tool_call>\n{{"name": "get_weather", "arguments": {PARIS}}}\n</tool_call>'),
        ("meta-llama-Llama-3.1-8B-Instruct", f'{{"name": "get_weather", "parameters": {PARIS}}}'),
        ("Mistral-Small-3.2-24B-Instruct-2506", f"[TOOL_CALLS]get_weather[CALL_ID]123456789[ARGS]{PARIS}"),
    ],
)
def test_behind_the_only_call_comes_the_end(template: str, call: str) -> None:
    one, tokens = auto(template, parallel=False)
    assert kept(one, pieces_in(call), tokens) == "whole"
    assert kept(one, pieces_in(f"{call}\nIt rains."), tokens) not in ("whole", "begun")
    several, _ = auto(template, parallel=True)
    assert kept(several, pieces_in(f"{call}\nIt rains."), tokens) == "whole"


def test_a_lazy_constraint_says_whether_one_call_is_enough() -> None:
    for parallel in (True, False):
        assert auto("GLM-4.6", parallel)[0].once is not parallel


@pytest.mark.parametrize(
    ("names", "most", "expected"),
    [
        (["b", "ab"], 2, {"ab": ["ab"], "b": ["b"]}),
        (["get", "get_more", "put"], 8, {"get": ["get", "get_more"], "put": ["put"]}),
        (["ab", "ac", "b"], 2, {"a": ["ab", "ac"], "b": ["b"]}),
        (["ab", "ba"], 1, {"": ["ab", "ba"]}),
        ([], 3, {}),
    ],
)
def test_names_are_grouped_by_their_beginnings(names: list[str], most: int, expected: dict[str, list[str]]) -> None:
    assert grouped(names, most) == expected


BREAKS = {
    "Qwen3-Coder": ("<tool_call>",),
    "GLM-4.6": ("<tool_call>",),
    "Kimi-K2-Instruct": ("<|tool_calls_section_begin|>", "<|tool_call_begin|>"),
    "openai-gpt-oss-120b": ("<|start|>", "<|channel|>"),
    "Qwen-Qwen3-0.6B": (),
}


@pytest.mark.parametrize("template", BREAKS)
def test_the_texts_that_end_a_thought(template: str) -> None:
    assert format_named(template).thought_breaks(TOOLS) == BREAKS[template]


def test_without_tools_only_the_answers_own_part_ends_a_thought() -> None:
    assert format_named("GLM-4.6").thought_breaks([]) == ()
    assert format_named("Kimi-K3").thought_breaks([]) == ("<|open|>response<|sep|>",)


@pytest.mark.parametrize("template", [name for name in chat_templates() if format_named(name).breaks])
def test_breaks_are_those_of_the_reader(template: str) -> None:
    """A thought ends in front of a call that begins with a break; without tools it goes on."""
    reply_format = format_named(template)
    constraint = reply_format.constraint(TOOLS, "required", False)
    assert constraint
    assert constraint.triggers == ()
    for text in reply_format.thought_breaks([]):
        reader = reply_format.reader([], True)
        events = [*reader.add(f"Hm.{text}"), *reader.end()]
        assert reply_of(events).reasoning == "Hm."


@pytest.mark.parametrize(
    ("template", "call"),
    [
        ("Kimi-K2-Instruct", f"functions.get_weather:0<|tool_call_argument_begin|>{PARIS}<|tool_call_end|>"),
        ("Qwen3-Coder", "\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>"),
        ("GLM-4.6", "get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call>"),
    ],
)
def test_a_call_may_begin_with_any_break(template: str, call: str) -> None:
    """A thought may end with it, so that "required" has to go on from there."""
    reply_format = format_named(template)
    constraint = reply_format.constraint(TOOLS, "required", False)
    assert constraint
    text = reply_format.thought_breaks(TOOLS)[-1] + call
    assert kept(constraint, pieces_in(text), tuple(sorted(reply_format.tokens))) == "whole"
