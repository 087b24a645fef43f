"""What models of each family write is read right: whole, at every split, as text and with marks."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.backend.types import Mark
from services.replies.events import CallArguments, CallBegun, Content, Reasoning, Reply, ToolCall
from services.replies.format import ReplyFormat
from services.replies.formats import format_of
from tests.support.real_models import chat_templates
from tests.support.replies import reply_of
from tests.unit.replies.reading import TOOLS, chat_format, events_of, tokens_of, with_marks, without_ids

PHI = "{% if tools %}<|tool|>{{ tools }}<|/tool|>{% endif %}"
SMOLLM3 = "<tool_call> {{ xml_tools }} <think>"
THINKING = "{{ messages }}<thinking>"
MAGISTRAL = "[SYSTEM_PROMPT][THINK][TOOL_CALLS][ARGS]"
GENERIC = "{{ messages }}"
NEMO = "mistralai-Mistral-Nemo-Instruct-2407"
R1 = "llama-cpp-deepseek-r1"
V31 = "deepseek-ai-DeepSeek-V3.1"
R7B = "CohereForAI-c4ai-command-r7b-12-2024-tool_use"
LLAMA = "meta-llama-Llama-3.1-8B-Instruct"
GPT_OSS = "openai-gpt-oss-120b"
QWEN = "Qwen-Qwen3-0.6B"

PARIS = '{"city": "Paris"}'


def weather(arguments: str = PARIS, call_id: str = "") -> ToolCall:
    return ToolCall("get_weather", arguments, call_id)


@dataclass(frozen=True)
class Case:
    template: str
    text: str
    content: str = ""
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    is_thinking: bool = False
    is_broken: bool = False
    specials: tuple[str, ...] = field(default=())

    @property
    def reply(self) -> Reply:
        return Reply(self.reasoning, self.content, self.calls, is_broken=self.is_broken)


HERMES_CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
TWO = (weather(), ToolCall("add", '{"a": 1, "b": 1e999}'))

CASES = [
    # Hermes, Qwen
    Case(QWEN, "Hello, world!\n", "Hello, world!\n"),
    Case(QWEN, f"<think>\nHm.\n\nSo.\n</think>\n\n{HERMES_CALL}", "", "Hm.\n\nSo.", (weather(),)),
    Case(QWEN, f"I look.\n\n{HERMES_CALL}\n\nDone.", "I look.Done.", "", (weather(),)),
    Case(
        QWEN,
        f'{HERMES_CALL}\n<tool_call>\n{{"name": "add", "arguments": {{"a": 1, "b": 1e999}}}}\n</tool_call>',
        calls=TWO,
    ),
    Case(QWEN, f"<think>I may write {HERMES_CALL} here</think>Hi", "Hi", f"I may write {HERMES_CALL} here"),
    Case(QWEN, '<tool_call>{"arguments": {"city": "Paris"}, "name": "get_weather"}</tool_call>', calls=(weather(),)),
    Case(QWEN, '<tool_call>{"name": "get_weather"}</tool_call>', calls=(weather("{}"),)),
    Case(QWEN, '<tool_call>{"name":"get_weather","arguments":"{\\"city\\": \\"Paris\\"}"}</tool_call>', calls=(weather(),)),
    Case(QWEN, '<tool_call>{"name": "get_weather", "arguments": null}', calls=(weather("{}"),)),
    Case(
        QWEN,
        '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
    ),
    Case(
        QWEN,
        "Write <tool_call> before a call, and </tool_call> after.",
        "Write <tool_call> before a call, and </tool_call> after.",
    ),
    Case(
        QWEN,
        '<tool_call>{"name": "get_weather", "arguments": {"city": Paris}}</tool_call>',
        '<tool_call>{"name": "get_weather", "arguments": {"city": Paris}}</tool_call>',
        is_broken=True,
    ),
    Case(
        QWEN,
        '<tool_call>{"name": "get", "arguments": {"a": "</tool_call>"}}</tool_call>',
        calls=(ToolCall("get", '{"a": "</tool_call>"}'),),
    ),
    Case(
        QWEN,
        '<tool_call>{"name": "get", "arguments": {"a": "\\ud83d", "a":  1.0}}</tool_call>',
        calls=(ToolCall("get", '{"a": "\\ud83d", "a":  1.0}'),),
    ),
    Case(
        QWEN,
        '<tool_call>{"name": "get", "arguments": {"a": "x\ny"}}</tool_call>',
        calls=(ToolCall("get", '{"a": "x\\ny"}'),),
    ),
    Case(QWEN, '{"name": "get_weather", "arguments": {"city": "Paris"}}', calls=(weather(),)),
    Case(QWEN, '{"city": "Paris"}', '{"city": "Paris"}'),
    Case(QWEN, f"<tool_call><tool_call>{HERMES_CALL}", "<tool_call><tool_call>", "", (weather(),)),
    Case("Qwen-QwQ-32B", "Let me see.\n</think>\n\nIt is 42.", "It is 42.", "Let me see.", is_thinking=True),
    Case("Qwen-QwQ-32B", "<think>\nLet me see.\n</think>\n\nIt is 42.", "It is 42.", "Let me see.", is_thinking=True),
    Case("Qwen-Qwen2.5-7B-Instruct", HERMES_CALL, calls=(weather(),)),
    Case("NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", f"Hi{HERMES_CALL}", "Hi", "", (weather(),)),
    Case("ibm-granite-granite-4.0", HERMES_CALL, calls=(weather(),)),
    Case("Reka-Edge", f"I think\n</think>\n\n{HERMES_CALL}", "", "I think", (weather(),), is_thinking=True),
    Case(SMOLLM3, f"<think>a</think>\n{HERMES_CALL}", "", "a", (weather(),)),
    # The generic form
    Case(GENERIC, f"Hm.\n{HERMES_CALL}", "Hm.", "", (weather(),)),
    Case(GENERIC, f"<function=get_weather>{PARIS}</function>", calls=(weather(),)),
    Case(
        GENERIC,
        f"<function=get>{{}}</function><function=other>{PARIS}</function>",
        f"<function=other>{PARIS}</function>",
        "",
        (ToolCall("get", "{}"),),
    ),
    Case(GENERIC, "<think>a</think>b", "<think>a</think>b"),
    Case(GENERIC, "<think>a</think>b", "b", "a", specials=("<think>", "</think>")),
    Case(THINKING, "<thinking>a</thinking> b", "b", "a"),
    Case("{{ '<seed:think>' }}", "<seed:think>a</seed:think>b", "b", "a"),
    # gpt-oss
    Case(GPT_OSS, "<|channel|>final<|message|>Hello, world!\nHi", "Hello, world!\nHi"),
    Case(
        GPT_OSS,
        "<|channel|>commentary<|message|>Hello<|end|><|start|>assistant<|channel|>final<|message|>Bye<|return|>",
        "Hello\n\nBye",
    ),
    Case(
        GPT_OSS,
        "<|channel|>analysis<|message|>I'm\nthinking<|end|><|start|>assistant<|channel|>final<|message|>Hello",
        "Hello",
        "I'm\nthinking",
    ),
    Case(
        GPT_OSS,
        "I'm thinking<|end|><|start|>assistant<|channel|>final<|message|>Hello",
        "Hello",
        "I'm thinking",
        is_thinking=True,
    ),
    *(
        Case(
            GPT_OSS,
            f"<|channel|>analysis<|message|>Hm<|end|><|start|>assistant{header}<|message|>{PARIS}<|call|>",
            "",
            "Hm",
            (weather(),),
        )
        for header in (
            " to=functions.get_weather<|channel|>analysis",
            "<|channel|>analysis to=functions.get_weather",
            " to=functions.get_weather<|channel|>commentary json",
            " to=functions.get_weather<|channel|>analysis <|constrain|>json",
            "<|channel|>commentary to=functions.get_weather <|constrain|>json",
            "<|channel|>commentary to=get_weather<|constrain|>json",
        )
    ),
    Case(GPT_OSS, f" to=functions.get_weather<|channel|>analysis<|message|>{PARIS}", calls=(weather(),)),
    Case(
        GPT_OSS,
        f"<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
        f"<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{PARIS}<|call|>",
        "I look.",
        "",
        (weather(),),
    ),
    Case(
        GPT_OSS,
        "<|channel|>commentary to=python <|constrain|>code<|message|>print(1)<|call|>",
        "<|channel|>commentary to=python <|constrain|>code<|message|>print(1)",
    ),
    Case(
        GPT_OSS,
        "<|channel|>commentary to=assistant<|channel|>analysis<|message|>a<|end|>"
        "<|start|>assistant<|channel|>final<|message|>b",
        "b",
        "a",
    ),
    Case(GPT_OSS, '{"a": 1}', '{"a": 1}'),
    Case(GPT_OSS, "<|channel|>anal"),
    Case(GPT_OSS, "<|channel|>commentary to=functions.get_weather <|constrain|>js"),
    # Llama
    Case(LLAMA, '{"name": "get_weather", "parameters": {"city": "Paris"}}', calls=(weather(),)),
    Case(LLAMA, '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Paris"}}', calls=(weather(),)),
    Case(LLAMA, '{"type": "function", "name": "get_weather", "parameters": {"city": "Paris"}}', calls=(weather(),)),
    Case(
        LLAMA,
        '{"type": "function", "function": {"name": "get_weather", "parameters": {"city": "Paris"}}}',
        calls=(weather(),),
    ),
    Case(
        LLAMA,
        '{"name": "get_weather", "parameters": {"city": "Paris"}}; {"name": "get", "parameters": {}}',
        calls=(weather(), ToolCall("get", "{}")),
    ),
    Case(LLAMA, '[{"name": "get_weather", "parameters": {"city": "Paris"}}]', calls=(weather(),)),
    Case(LLAMA, '<|python_tag|>get_weather.call(city="Paris", days=2)', calls=(weather('{"city": "Paris", "days": 2}'),)),
    Case(LLAMA, "<|python_tag|>print(1)", "<|python_tag|>print(1)"),
    Case(LLAMA, '{"name": "Ada", "parameters": 1}', '{"name": "Ada", "parameters": 1}'),
    Case(LLAMA, 'See {"name": "get_weather", "parameters": {}}', 'See {"name": "get_weather", "parameters": {}}'),
    Case(
        "meta-llama-Llama-3.2-3B-Instruct", '{"name": "get_weather", "parameters": {"city": "Paris"}}', calls=(weather(),)
    ),
    # Mistral
    Case(
        NEMO,
        '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "123456789"}]',
        calls=(weather(call_id="123456789"),),
    ),
    Case(
        NEMO,
        '[TOOL_CALLS] [{"name": "get", "arguments": {}, "id": "000000001"}, '
        '{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "000000002"}]',
        calls=(ToolCall("get", "{}", "000000001"), weather(call_id="000000002")),
    ),
    Case(
        "Mistral-Small-3.2-24B-Instruct-2506",
        f"Hi[TOOL_CALLS]get_weather[CALL_ID]123456789[ARGS]{PARIS}",
        "Hi",
        "",
        (weather(call_id="123456789"),),
    ),
    Case(
        "Mistral-Small-3.2-24B-Instruct-2506",
        f"[TOOL_CALLS]get[CALL_ID]000000001[ARGS]{{}}[TOOL_CALLS]get_weather[CALL_ID]000000002[ARGS]{PARIS}",
        calls=(ToolCall("get", "{}", "000000001"), weather(call_id="000000002")),
    ),
    Case("Mistral-Small-3.2-24B-Instruct-2506", "[TOOL_CALLS]other[ARGS]{}", "[TOOL_CALLS]other[ARGS]{}"),
    Case(MAGISTRAL, "[THINK]Hm[/THINK]Hello", "Hello", "Hm"),
    Case(
        "mistralai-Ministral-3-14B-Reasoning-2512",
        "[THINK]see [TOOL_CALLS]get[ARGS]{}[/THINK]Hello",
        "Hello",
        "see [TOOL_CALLS]get[ARGS]{}",
    ),
    # DeepSeek
    Case(R1, "I'm\nthinking</think>Hello", "Hello", "I'm\nthinking", is_thinking=True),
    Case(
        R1,
        "</think><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
        f"{PARIS}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>get\n```json\n{{}}```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        calls=(weather(), ToolCall("get", "{}")),
        is_thinking=True,
    ),
    Case(
        V31,
        f"Hm</think>Hi<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get<｜tool▁sep｜>{{}}<｜tool▁call▁end｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{PARIS}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "Hi",
        "Hm",
        (ToolCall("get", "{}"), weather()),
        is_thinking=True,
    ),
    Case(
        V31,
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>no<｜tool▁sep｜>{}",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>no<｜tool▁sep｜>{}",
    ),
    # Granite, Phi, Nemotron, Apriel
    Case("ibm-granite-granite-3.3-2B-Instruct", "<think>a</think><response>Hello</response>", "Hello", "a"),
    Case("ibm-granite-granite-3.3-2B-Instruct", "Use </response> so.", "Use </response> so."),
    Case(
        "ibm-granite-granite-3.3-2B-Instruct",
        '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris"}}]',
        calls=(weather(),),
    ),
    Case(PHI, '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris"}}]<|/tool_call|>', calls=(weather(),)),
    Case(PHI, 'functools[{"name": "get_weather", "arguments": {"city": "Paris"}}]', calls=(weather(),)),
    Case(
        "NVIDIA-Nemotron-Nano-v2",
        'Hm\n</think>\n\n<TOOLCALL>[{"name": "get_weather", "arguments": {"city": "Paris"}}, '
        '{"name": "get", "arguments": {}}]</TOOLCALL>\n',
        "",
        "Hm",
        (weather(), ToolCall("get", "{}")),
        is_thinking=True,
    ),
    Case(
        "unsloth-Apriel-1.5",
        'Hi\n<tool_calls>[{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "7"}]</tool_calls>',
        "Hi",
        "",
        (weather(),),
    ),
    Case("Apriel-1.6-15b-Thinker-fixed", "a\n[BEGIN FINAL RESPONSE]\nb", "b", "a", is_thinking=True),
    # Apertus
    Case("Apertus-8B-Instruct", "<|inner_prefix|>a<|inner_suffix|>b", "b", "a"),
    Case(
        "Apertus-8B-Instruct",
        'Hi<|tools_prefix|>[{"get_weather": {"city": "Paris"}}, {"get": {}}]<|tools_suffix|>',
        "Hi",
        "",
        (weather(), ToolCall("get", "{}")),
    ),
    # Cohere
    Case(R7B, "<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>Hello, world!<|END_RESPONSE|>", "Hello, world!", "a"),
    Case(
        R7B,
        "<|START_THINKING|>a<|END_THINKING|><|START_ACTION|>[\n"
        '    {"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Paris"}},\n'
        '    {"tool_call_id": "1", "tool_name": "get", "parameters": {}}\n]<|END_ACTION|>',
        "",
        "a",
        (weather(call_id="0"), ToolCall("get", "{}", "1")),
    ),
    Case("Cohere2MoE", "a<|END_THINKING|><|START_TEXT|>Hello<|END_TEXT|>", "Hello", "a", is_thinking=True),
    Case(
        "CohereForAI-c4ai-command-r-plus-tool_use",
        'Action:\n```json\n[{"tool_name": "get_weather", "parameters": {"city": "Paris"}}]\n```',
        calls=(weather(),),
    ),
]
IDS = [f"{n}-{case.template[:24]}" for n, case in enumerate(CASES)]


@cache
def format_for(template: str, specials: tuple[str, ...]) -> ReplyFormat:
    # Of a model that is told of tools by its template.
    return format_of(chat_format(chat_templates().get(template, template) + "{{ tools }}", specials))


def format_in(case: Case) -> ReplyFormat:
    return format_for(case.template, case.specials)


def read(case: Case, pieces: Sequence[str]) -> Reply:
    return reply_of(events_of(format_in(case), pieces, is_thinking=case.is_thinking))


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_reply_is_read_whole(case: Case) -> None:
    assert read(case, [case.text]) == case.reply


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_reply_is_read_at_every_split(case: Case) -> None:
    whole = events_of(format_in(case), [case.text], is_thinking=case.is_thinking)
    for at in range(len(case.text) + 1):
        pieces = [case.text[:at], case.text[at:]]
        assert events_of(format_in(case), pieces, is_thinking=case.is_thinking) == whole, pieces
    assert events_of(format_in(case), case.text, is_thinking=case.is_thinking) == whole


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(CASES), st.data())
def test_a_reply_is_read_however_it_is_split(case: Case, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(case.text)), max_size=12)))
    pieces = [case.text[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
    assert read(case, pieces) == case.reply


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_reply_is_read_with_marks(case: Case) -> None:
    pieces = [*with_marks(case.text, tokens_of(format_in(case))), Mark("<|turn_end|>")]
    assert read(case, pieces) == case.reply


def test_marks_that_no_reader_knows_are_left_out() -> None:
    pieces = ["Hel", Mark("<|unused|>"), "lo", Mark("<|eot_id|>"), Mark("</think>")]
    assert read(Case(QWEN, ""), pieces) == Reply(content="Hello")


def test_a_mark_begins_a_thought_anywhere_and_its_text_at_the_beginning() -> None:
    pieces = ["Hello. ", Mark("<think>"), "Hm", Mark("</think>"), " <think>So</think>", " Bye <think>now"]
    assert read(Case(QWEN, ""), pieces) == Reply("Hm\n\nSo", "Hello.Bye <think>now")


def test_a_call_that_was_cut_is_no_call() -> None:
    reply = read(Case(QWEN, ""), ['<tool_call>{"name": "get_weather", "arguments": {"city": "Pa'])
    assert reply == Reply(cut_call=weather('{"city": "Pa'))


@pytest.mark.parametrize("behind", ["", "}", "}\n</tool", ', "id": "1'])
def test_a_call_is_whole_when_its_arguments_are(behind: str) -> None:
    reply = read(Case(QWEN, ""), ['<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}' + behind])
    assert reply == Reply(calls=(weather(),))


def test_events_come_as_soon_as_they_are_sure() -> None:
    reader = format_for(QWEN, ()).reader(TOOLS, False)
    assert reader.add("<think>a") == [Reasoning("a")]
    assert reader.add("b </thi") == [Reasoning("b")]
    assert reader.add("nk>c") == [Content("c")]
    assert reader.add('<tool_call>{"name": "get", "arguments": ') == []
    begun, arguments = reader.add('{"a')
    assert [without_ids(begun), arguments] == [CallBegun(0, "", "get"), CallArguments(0, '{"a')]
    assert reader.add('": 1') == [CallArguments(0, '": 1')]


def test_without_tools_calls_are_content() -> None:
    reply_format = format_for(QWEN, ("<tool_call>", "</tool_call>"))
    pieces = with_marks(HERMES_CALL, ["<tool_call>", "</tool_call>"])
    assert reply_of(events_of(reply_format, pieces, tools=())) == Reply(content=HERMES_CALL)


def test_a_continued_message_keeps_its_white_space() -> None:
    thinking = events_of(format_for(QWEN, ()), [" thinking</think>Hello"], is_thinking=True, continues=True)
    assert reply_of(thinking) == Reply(" thinking", "Hello")
    answering = events_of(format_for(QWEN, ()), [' {"name": "get"}'], continues=True)
    assert reply_of(answering) == Reply(content=' {"name": "get"}')


def test_mistral_gets_ids_as_its_templates_want_them() -> None:
    reply = reply_of(events_of(format_for(MAGISTRAL, ()), ["[TOOL_CALLS]get[ARGS]{}"]))
    assert re.fullmatch("[A-Za-z0-9]{9}", reply.calls[0].id)


@pytest.mark.parametrize(
    ("template", "tail", "is_thinking"),
    [
        (QWEN, "<|im_start|>assistant\n", False),
        (QWEN, "<|im_start|>assistant\n<think>\n", True),
        (QWEN, "<|im_start|>assistant\n<think>\nOkay, so", True),
        (QWEN, "<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        (QWEN, "What is <think>?<|im_end|>\n<|im_start|>assistant\n", False),
        (GPT_OSS, "<|start|>assistant", False),
        (GPT_OSS, "<|start|>assistant<|channel|>analysis<|message|>We", True),
        (GPT_OSS, "<|channel|>analysis<|message|>We<|end|><|start|>assistant<|channel|>final<|message|>", False),
        ("Apriel-1.6-15b-Thinker-fixed", "<|begin_assistant|>\nHere are my reasoning steps:\n", True),
        ("google-gemma-2-2b-it", "<think>", False),
    ],
)
def test_a_prompt_says_whether_it_ends_within_a_thought(template: str, tail: str, is_thinking: bool) -> None:
    assert format_for(template, ("<|im_end|>", "<|im_start|>", "<|start|>")).is_thinking(tail) == is_thinking


def test_a_long_reply_takes_time_in_proportion() -> None:
    text = f"<think>{'a<b ' * 20_000}</think>" + HERMES_CALL.replace("Paris", "x" * 50_000) + "\n" * 20_000 + "<" * 20_000
    begun = time.process_time()
    reader = format_for(QWEN, ()).reader(TOOLS, False)
    for letter in text:
        reader.add(letter)
    reader.end()
    assert time.process_time() - begun < 5
