"""Real models' chat templates, each with twelve conversations, as the reference implementation renders them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.backend.types import ChatFormat
from services.prompts.chat_template import ChatTemplate, chat_template
from tests.support.real_models import chat_templates
from tests.support.reference_templates import NOW, Refused, continued_reference, reference

Message = dict[str, Any]
SPECIALS = ("<|im_start|>", "<|im_end|>", "<|eot_id|>", "[TOOL_CALLS]", "<think>", "</think>", "[INST]", "<s>", "</s>")


@dataclass(frozen=True)
class Conversation:
    """Messages as a client of OpenAI's API sends them."""

    messages: Sequence[Message]
    tools: Sequence[Message] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    continues: bool = False


def templates() -> Mapping[str, str]:
    return chat_templates()


def system(text: str) -> Message:
    return {"role": "system", "content": text}


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str | None, *calls: Message, thought: str = "") -> Message:
    made: Message = {"role": "assistant", "content": text}
    if calls:
        made["tool_calls"] = list(calls)
    return {**made, "reasoning_content": thought} if thought else made


def call(name: str, call_id: str, **arguments: Any) -> Message:
    written = json.dumps(arguments, ensure_ascii=False)
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": written}}


def result(text: str, call_id: str, name: str = "get_weather") -> Message:
    return {"role": "tool", "tool_call_id": call_id, "name": name, "content": text}


def tool(name: str, about: str, parameter: str) -> Message:
    properties = {parameter: {"type": "string", "description": f"The {parameter} that is wanted"}}
    parameters = {"type": "object", "properties": properties, "required": [parameter]}
    return {"type": "function", "function": {"name": name, "description": about, "parameters": parameters}}


TOOLS = [tool("get_weather", "Tells the weather", "city"), tool("get_time", "Tells the time", "zone")]
# Nine letters and digits, which Mistral's templates insist on.
FIRST, SECOND = "aB3dE6gH9", "zY8xW5vU2"
ASKED = user("How warm is it in Lima?")
MARKUP = 'Größe & <b>"x"</b> 漢字 😀 {{ x }} {% y %} a\\b <|im_end|>'

CONVERSATIONS = {
    "plain": Conversation([user("Hello there")]),
    "system": Conversation([system("Answer in verse."), user("Hello there")]),
    "turns": Conversation(
        [system("Be brief."), user("One"), assistant("Two"), user("Three"), assistant("Four"), user("Five")]
    ),
    "tools": Conversation([system("Be brief."), ASKED], TOOLS),
    "call": Conversation([ASKED, assistant(None, call("get_weather", FIRST, city="Lima")), result("19 C", FIRST)], TOOLS),
    "parallel": Conversation(
        [
            ASKED,
            assistant(None, call("get_weather", FIRST, city="Lima"), call("get_time", SECOND, zone="PET")),
            result("19 C", FIRST),
            result("14:30", SECOND, "get_time"),
        ],
        TOOLS,
    ),
    "text and call": Conversation(
        [ASKED, assistant("Let me look.", call("get_weather", FIRST, city="Lima")), result("19 C", FIRST)], TOOLS
    ),
    "rounds": Conversation(
        [
            system("Be brief."),
            ASKED,
            assistant(None, call("get_weather", FIRST, city="Lima")),
            result("19 C", FIRST),
            assistant(None, call("get_time", SECOND, zone="PET")),
            result("14:30", SECOND, "get_time"),
            assistant("It is 19 C."),
            user("And now?"),
        ],
        TOOLS,
    ),
    "thoughts": Conversation(
        [
            user("One"),
            assistant("Two", thought="Counting on."),
            user("How warm is it in Lima?"),
            assistant(None, call("get_weather", FIRST, city="Lima"), thought="A tool knows."),
            result("19 C", FIRST),
        ],
        TOOLS,
    ),
    "thinking on": Conversation([user("Hello there")], variables={"enable_thinking": True, "thinking": True}),
    "thinking off": Conversation([user("Hello there")], variables={"enable_thinking": False, "thinking": False}),
    "prefill": Conversation([user("Count."), assistant("One, two,")], continues=True),
    "markup": Conversation([system(MARKUP), user(MARKUP), assistant(MARKUP), user(f"Again: {MARKUP}")]),
}

WITH_TOOLS = {name for name, talk in CONVERSATIONS.items() if talk.tools}
WITH_CALLS = WITH_TOOLS - {"tools"}
WITH_SYSTEM = {name for name, talk in CONVERSATIONS.items() if talk.messages[0]["role"] == "system"}
# What differs from the reference, and why: templates, conversations, the reason.
DIFFERENCES: list[tuple[set[str], set[str], str]] = [
    (
        {
            "CohereForAI-c4ai-command-r-plus-tool_use",
            *(f"NousResearch-Hermes-{name}-8B-tool_use" for name in ("2-Pro-Llama-3", "3-Llama-3.1")),
        },
        CONVERSATIONS.keys() - WITH_TOOLS,
        "the reference fails without tools, since None cannot be looped over; ours are undefined there",
    ),
    (
        {"google-gemma-2-2b-it"},
        WITH_SYSTEM | WITH_TOOLS,
        "the template refuses system messages and knows no tools: they are in the first user message and in words",
    ),
    (
        {
            "HuggingFaceTB-SmolLM3-3B",
            "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
            "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
            "deepseek-ai-DeepSeek-V3.1",
            "llama-cpp-rwkv-world",
            "microsoft-Phi-3.5-mini-instruct",
        },
        WITH_TOOLS,
        "the template passes over tools; ours are in words in the system message",
    ),
    (
        {"LFM2-8B-A1B", "LFM2.5-Instruct", "ibm-granite-granite-3.3-2B-Instruct"},
        WITH_CALLS,
        "the template passes over calls; ours are in words",
    ),
    (
        {"llama-cpp-deepseek-r1"},
        WITH_TOOLS,
        "the reference fails, since its tojson does not write what `map` makes; ours does, as llama.cpp's",
    ),
    (
        {"Kimi-K2-Instruct", "Kimi-K2-Thinking"},
        WITH_CALLS,
        "the reference refuses to let the template append to a list of its own; ours lets it, as llama.cpp does",
    ),
    (
        {f"meta-llama-Llama-{name}-Instruct" for name in ("3.1-8B", "3.2-3B", "3.3-70B")},
        {"parallel"},
        "the template refuses several calls in a message: they are in a message each",
    ),
    (
        {"GigaChat3-10B-A1.8B", "GigaChat3.1-10B-A1.8B", "openai-gpt-oss-120b"},
        {"parallel"},
        "the template writes the first call of a message alone: they are in a message each",
    ),
]


@pytest.fixture(autouse=True)
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.prompts.sandbox.local_time", lambda: NOW)
    monkeypatch.setattr("services.prompts.chat_template.local_time", lambda: NOW)


@cache
def compiled(name: str) -> ChatTemplate:
    return chat_template(ChatFormat(templates()[name], "<s>", "</s>", SPECIALS))


def ours(name: str, talk: Conversation) -> str:
    return compiled(name).render(talk.messages, talk.tools, variables=talk.variables, continues=talk.continues).text


def is_as_the_reference(text: str, name: str, talk: Conversation) -> bool:
    """Return whether a text is the reference's, in one of the forms in which users of transformers give messages."""
    return any(_reference(name, talk, messages) == text for messages in _forms(talk))


def _reference(name: str, talk: Conversation, messages: Sequence[Message]) -> str | None:
    functions = json.dumps([each["function"] for each in talk.tools], indent=4, ensure_ascii=False)
    variables = {"date_string": NOW.strftime("%d %b %Y"), "datetime": NOW.strftime("%b %d %Y"), "functions": functions}
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    template = templates()[name]
    try:
        if talk.continues:
            return continued_reference(template, messages, **tokens, **variables, **talk.variables)
        return reference(template, messages, talk.tools, **tokens, **variables, **talk.variables)
    except Refused:
        return None


def _forms(talk: Conversation) -> list[list[Message]]:
    fields = ("reasoning_content", "reasoning", "thinking", "thought", "chunks", "")
    forms: list[list[Message]] = []
    for as_object, content, thought_field in product((True, False), ("", None, "absent"), fields):
        form = [_in_form(message, as_object, content, thought_field) for message in talk.messages]
        if form not in forms:
            forms.append(form)
    return forms


def _in_form(message: Message, as_object: bool, content: str | None, thought_field: str) -> Message:
    made = {name: value for name, value in message.items() if name != "reasoning_content"}
    if calls := message.get("tool_calls"):
        functions = [
            {**each["function"], **({"arguments": json.loads(each["function"]["arguments"])} if as_object else {})}
            for each in calls
        ]
        made["tool_calls"] = [{**each, "function": function} for each, function in zip(calls, functions, strict=True)]
        if message["content"] is None and content == "absent":
            del made["content"]
        elif message["content"] is None:
            made["content"] = content
    if thought := message.get("reasoning_content"):
        if thought_field == "chunks":
            text = [{"type": "text", "text": message["content"]}] if message["content"] else []
            made["content"] = [{"type": "thinking", "thinking": thought}, *text]
        elif thought_field:
            made[thought_field] = thought
    return made


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_conversations_are_rendered_as_by_the_reference(conversation: str) -> None:
    talk = CONVERSATIONS[conversation]
    same = {name: is_as_the_reference(ours(name, talk), name, talk) for name in templates()}
    differing = {name for names, conversations, _ in DIFFERENCES if conversation in conversations for name in names}
    assert {name for name, is_same in same.items() if not is_same} == differing


def orders_of(talk: Conversation) -> list[list[str]]:
    """The texts of a conversation in the orders in which they may be: a call's result follows it, or all the calls.

    Thoughts, and a text beside calls, are not among them: some templates drop them, as the reference shows.
    """
    by_place: list[str] = []
    by_call: list[str] = []
    results = {message["tool_call_id"]: message["content"] for message in talk.messages if message["role"] == "tool"}
    for message in talk.messages:
        for each in message.get("tool_calls", []):
            words = [each["function"]["name"], *json.loads(each["function"]["arguments"]).values()]
            by_place += words
            by_call += [*words, results[each["id"]]]
        if "tool_calls" not in message and message["role"] != "system":
            by_place.append(message["content"])
            by_call += [message["content"]] if message["role"] != "tool" else []
    return [by_place, by_call]


def is_in_order(words: Sequence[str], text: str) -> bool:
    for word in words:
        _, found, text = text.partition(word)
        if not found:
            return False
    return True


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_nothing_of_a_conversation_is_lost(conversation: str) -> None:
    talk = CONVERSATIONS[conversation]
    for name in templates():
        text = ours(name, talk)
        assert all(each["content"] in text for each in talk.messages if each["role"] == "system"), name
        assert all(each["function"]["name"] in text and "that is wanted" in text for each in talk.tools), name
        assert any(is_in_order(words, text) for words in orders_of(talk)), (name, text)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Any messages in any order; each text is a number of its own and what looks like a special token."""
    numbers = iter(range(100, 999))
    messages: list[Message] = []
    kinds = st.sampled_from(["user", "assistant", "system", "developer", "calls", "tool"])
    for kind in draw(st.lists(kinds, min_size=1, max_size=8)):
        said = f"w{next(numbers)}{draw(st.sampled_from(['', '<|im_end|>z', ' [INST]z']))}"
        if kind == "tool":
            messages.append(result(said, f"call_{next(numbers)}"))
        elif kind == "calls":
            ids = [f"call_{next(numbers)}{'x' * 20}" for _ in range(draw(st.integers(1, 3)))]
            messages.append(assistant(None, *(call("get_weather", each, city=f"w{next(numbers)}{said}") for each in ids)))
            messages += [result(f"w{next(numbers)}", each) for each in ids[: draw(st.integers(0, 3))]]
        else:
            messages.append({"role": kind, "content": said})
    tools = draw(st.sampled_from([[], TOOLS, [{"type": "function", "function": {"name": "get_weather"}}]]))
    return Conversation(messages, tools, continues=kind == "assistant" and draw(st.booleans()))


@settings(deadline=None, max_examples=200)
@given(talk=conversations(), data=st.data())
def test_any_conversation_is_rendered_whole(talk: Conversation, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(templates())))
    prompt = compiled(name).render(talk.messages, talk.tools, continues=talk.continues)
    assert not talk.continues or prompt.text.endswith(talk.messages[-1]["content"])
    for word in re.findall(r"w\d\d\d", json.dumps(talk.messages)):
        assert word in prompt.text, (name, prompt.text)
    for found in re.finditer(r"w\d\d\d ?(<\|im_end\|>|\[INST\])z", prompt.text):
        assert found.span(1) in prompt.typed, (name, found[0])
