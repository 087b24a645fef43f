"""Messages in the form that each template takes: nothing is lost, nothing refused that can be written in another way."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.backend.types import ChatFormat
from services.errors import BadModelFile, InvalidRequest
from services.prompts.chat import ChatForm
from services.prompts.chat_template import ChatTemplate, chat_template
from services.prompts.fit import PromptFitter
from services.prompts.form import PROBE, Exchange

Message = dict[str, Any]
PLAIN = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
# As Phi 3.5's, which passes over roles that it does not know.
DROPS = PLAIN.replace(
    "[{{ m.role }}]{{ m.content }}",
    "{% if m.role in ('system', 'user', 'assistant') %}[{{ m.role }}]{{ m.content }}{% endif %}",
)
# As Gemma 2's and Mistral's, which want roles that alternate and refuse system messages.
ALTERNATES = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) or m.role not in ('user', 'assistant') %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
)
CALLS = (
    "{% for tool in tools or [] %}<tool>{{ tool.function | tojson }}{% endfor %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% for c in m.tool_calls or [] %}"
    "<call>{{ c.function.name }} {{ ARGUMENTS }}{% endfor %}{% endfor %}"
)
AS_TEXT = CALLS.replace("ARGUMENTS", "c.function.arguments")
AS_OBJECT = CALLS.replace("ARGUMENTS", "c.function.arguments | tojson")
TOOL = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}},
}
U, V = ({"role": "user", "content": text} for text in ("one", "two"))
S, T = ({"role": "system", "content": text} for text in ("be kind", "be brief"))
A = {"role": "assistant", "content": "yes"}


def template(source: str, specials: tuple[str, ...] = ()) -> ChatTemplate:
    return chat_template(ChatFormat(source, "<s>", "</s>", specials))


def text(source: str, *messages: Message, **options: Any) -> str:
    return template(source).render(messages, **options).text


def calling(arguments: str, call_id: str = "call_1", content: str | None = None, name: str = "look") -> Message:
    call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": content, "tool_calls": [call]}


def result(content: str, call_id: str = "call_1") -> Message:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def test_what_a_template_does_not_know_is_put_into_words() -> None:
    talk = [U, calling('{"at": "the moon"}', content="Let me see."), result("it is full"), V]
    for source in (PLAIN, DROPS, ALTERNATES, ""):
        written = text(source, *talk, tools=[TOOL])
        places = [written.index(word) for word in ('"at": {"type"', "one", "Let me see.", "the moon", "it is full", "two")]
        assert sorted(places[1:]) == places[1:], written
    assert text(ALTERNATES, *talk).count("[user]") == 2


def test_arguments_are_given_as_text_or_as_an_object() -> None:
    assert "<call>look {'at" not in text(AS_TEXT, U, calling('{"at":"x"}'))
    # As text, they are the model's own bytes.
    assert '<call>look {"at":"x"}' in text(AS_TEXT, U, calling('{"at":"x"}'))
    assert '<call>look {"at": "x"}' in text(AS_OBJECT, U, calling('{"at":"x"}'))
    assert "<call>look {}" in text(AS_OBJECT, U, calling(""))


@pytest.mark.parametrize(
    "arguments", ['{"at": 1e999}', '{"at": 1, "at": 2}', '{"at": ', "[1]", '{"at": "\\ud800"}', '{"at": NaN']
)
def test_arguments_that_cannot_be_an_object_stay_as_they_are(arguments: str) -> None:
    written = text(AS_OBJECT, U, calling(arguments), result("seen"), V)
    # What is no JSON is a text.
    assert arguments in written or json.dumps(arguments) in written
    assert "seen" in written
    assert "[tool]" not in written


def test_content_is_what_the_template_wants_of_a_call() -> None:
    with_none = (
        "{% for m in messages %}{% if m.content is not none %}[{{ m.role }}]{{ m.content }}.{% endif %}"
        "{% for c in m.tool_calls or [] %}<{{ c.function.name }}{{ c.function.arguments | tojson }}>{% endfor %}"
        "{% endfor %}"
    )
    assert text(with_none, U, calling("{}")) == "[user]one.<look{}>"
    with_text = with_none.replace("m.content is not none", "m.content | length or m.role == 'user'")
    assert text(with_text, U, calling("{}")) == "[user]one.<look{}>"
    if_there = with_none.replace("m.content is not none", "'content' in m")
    assert text(if_there, U, calling("{}")) == "[user]one.<look{}>"


def test_calls_come_one_at_a_time_where_a_template_writes_one() -> None:
    single = AS_OBJECT.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]")
    both = {**calling("{}"), "tool_calls": [*calling("{}")["tool_calls"], *calling('{"at": "y"}', "call_2")["tool_calls"]]}
    written = text(single, U, both, result("first"), result("second", "call_2"))
    assert written == '[user]one[assistant]<call>look {}[tool]first[assistant]<call>look {"at": "y"}[tool]second'


def test_ids_are_shortened_where_a_template_insists() -> None:
    insists = AS_OBJECT.replace(
        "{{ c.function.name }}",
        "{% if c.id | length != 9 %}{{ raise_exception('9') }}{% endif %}{{ c.function.name }} {{ c.id }}",
    ).replace("[{{ m.role }}]", "[{{ m.role }}{{ m.tool_call_id }}]")
    written = text(insists, U, calling("{}"), result("seen"))
    short = written.partition("look ")[2][:9]
    assert f"[tool{short}]seen" in written
    assert written == text(insists, U, calling("{}"), result("seen"))
    assert "look abcDEF123 {}" in text(insists, U, calling("{}", "abcDEF123"))


def test_system_messages_are_the_users_where_a_template_refuses_them() -> None:
    assert text(ALTERNATES, S, T, U) == "[user]be kind\nbe brief\none"
    assert text(ALTERNATES, S, U, A, T, V) == "[user]be kind\none[assistant]yes[user]be brief\ntwo"
    assert text(ALTERNATES, S) == "[user]be kind"
    assert text(ALTERNATES, A, U) == "[user][assistant]yes[user]one"
    assert text(ALTERNATES, U, V, A, A, V) == "[user]one\ntwo[assistant]yes\nyes[user]two"
    # As DeepSeek R1's, which writes the last one alone.
    last = (
        "{% set ns = namespace(s='') %}{% for m in messages if m.role == 'system' %}{% set ns.s = m.content %}{% endfor %}"
        "{{ ns.s }}{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    )
    assert text(last, S, T, U) == "be kind\nbe brief[user]one"
    assert text(last, S, U, A, T, V) == "be kind[user]one[assistant]yes[user]be brief[user]two"


def test_developers_are_the_system_where_a_template_does_not_know_them() -> None:
    developer = {**S, "role": "developer"}
    assert text(PLAIN, developer, U) == text(PLAIN, S, U)
    assert text("{# developer #}" + PLAIN, developer, U).startswith("[developer]be kind")


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_thoughts_reach_the_templates_that_want_them(field: str) -> None:
    thinking = PLAIN.replace("{{ m.content }}", "{% if m.thinking %}({{ m.thinking }}){% endif %}{{ m.content }}")
    said = {**A, field: "hm"}
    assert text(thinking, U, said, V) == "[user]one[assistant](hm)yes[user]two[assistant]"
    assert text(PLAIN, U, said, V) == "[user]one[assistant]yes[user]two[assistant]"
    assert text(PLAIN.replace("{{ m.content }}", "{{ m | tojson }}"), U, said, V).count("hm") == 0
    form = ChatForm(template(thinking), (V,))
    assert form.fill([Exchange("one", "yes", "hm")], "two").text == "[user]one[assistant](hm)yes[user]two[assistant]"


def test_optional_fields_of_tools_are_there_if_a_template_wants_them() -> None:
    wants = AS_OBJECT.replace(
        "{{ tool.function | tojson }}",
        "{{ tool.function.name + tool.function.description + (tool.function.parameters.properties | join(',')) }}",
    )
    assert text(wants, U, tools=[TOOL]).startswith("<tool>lookat")


VARIABLES = PLAIN + "{% if enable_thinking is defined %}({{ enable_thinking }}{{ note }}){% endif %}"


def test_variables_reach_the_template_and_are_plain_text() -> None:
    assert text(VARIABLES, U, variables={"enable_thinking": False}).endswith("(False)")
    assert not text(VARIABLES, U).endswith(")")
    prompt = template(VARIABLES, ("<|end|>",)).render([U], variables={"enable_thinking": True, "note": "<|end|>"})
    assert [prompt.text[start:stop] for start, stop in prompt.typed] == ["<|end|>"]


@pytest.mark.parametrize(
    "name", ["messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "raise_exception", "range"]
)
def test_variables_that_are_not_the_requests_are_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"chat_template_kwargs: {name} cannot be set") as refused:
        text(PLAIN, U, variables={name: "x"})
    assert refused.value.param == "chat_template_kwargs"


def test_a_variable_does_not_replace_the_tools() -> None:
    """As in FireFunction's template, which takes them as a text."""
    as_text = PLAIN + "{{ functions }}"
    assert "look" in text(as_text, U, tools=[TOOL])
    assert text(as_text, U, variables={"functions": "[1]"}).endswith("[1]")
    with pytest.raises(InvalidRequest, match="functions holds the request's tools"):
        text(as_text, U, tools=[TOOL], variables={"functions": "[1]"})


def test_a_variable_that_a_template_refuses_is_at_fault() -> None:
    picky = PLAIN + "{% if effort is defined and effort != 'low' %}{{ raise_exception('effort should be low') }}{% endif %}"
    with pytest.raises(InvalidRequest, match=r"with effort.*should be low") as refused:
        text(picky, U, variables={"effort": "high"})
    assert refused.value.param == "chat_template_kwargs"
    with pytest.raises(InvalidRequest, match="with effort"):
        text(PLAIN + "{{ 1 + effort if effort is defined else '' }}", U, variables={"effort": "high"})


def test_forms_with_other_variables_share_nothing() -> None:
    def form(**kwargs: Any) -> ChatForm:
        return ChatForm(template(VARIABLES), (U,), kwargs=kwargs)

    assert form(enable_thinking=True).key != form(enable_thinking=False).key
    assert form(enable_thinking=True).key == form(enable_thinking=True).key
    assert form(enable_thinking=True).bare().text == f"[user]{PROBE}[assistant](True)"
    # Words of the caller's own are in no text that others share.
    assert form(note="secret").bare().text == PROBE


def continued(source: str, *messages: Message) -> str:
    return text(source, *messages, continues=True)


TRIMS = PLAIN.replace("{{ m.content }}", "{{ m.content | trim }}</s>")


@pytest.mark.parametrize("begun", ["One, ", " One,\n\n", "", "x", "One <|end|> two"])
def test_a_last_message_is_continued_where_its_text_ends(begun: str) -> None:
    last = {"role": "assistant", "content": begun}
    assert continued(TRIMS, U, last) == f"[user]one</s>[assistant]{begun.lstrip()}"
    behind = TRIMS + "Write an action:{{ eos_token }}"
    assert continued(behind, U, last) == f"[user]one</s>[assistant]{begun.lstrip()}"
    prompt = template(TRIMS, ("<|end|>", "</s>")).render([U, last], continues=True)
    assert [prompt.text[start:stop] for start, stop in prompt.typed] == ["<|end|>"] * begun.count("<|end|>")


def test_a_thought_is_continued_too() -> None:
    thinking = PLAIN.replace(
        "{{ m.content }}",
        "{% if m.reasoning_content %}<think>{{ m.reasoning_content | trim }}</think>{% endif %}{{ m.content }}",
    )
    for last in ({**A, "content": "", "reasoning_content": "hm, "}, {**A, "content": "<think>hm, "}):
        assert continued(thinking, U, last) == "[user]one[assistant]<think>hm, "
    assert continued(thinking, U, {**A, "reasoning": "hm"}) == "[user]one[assistant]<think>hm</think>yes"
    assert continued(PLAIN, U, {**A, "content": "<think>hm, "}) == "[user]one[assistant]<think>hm, "


@pytest.mark.parametrize(
    ("source", "last", "reason"),
    [
        (PLAIN, U, "not the assistant's"),
        (PLAIN, calling("{}"), "has tool calls"),
        (PLAIN, {**A, "content": None, "reasoning_content": "hm"}, "does not write them"),
        (PLAIN.replace("{{ m.content }}", "{{ m.content | upper }}"), A, "as it is"),
        (PLAIN.replace("{{ m.content }}", "{% if m.role == 'user' %}{{ m.content }}{% endif %}"), A, "as it is"),
        (PLAIN.replace("{{ m.content }}", "{{ m.content }}{{ m.content }}"), A, "more than once"),
    ],
)
def test_what_cannot_be_continued_is_refused_by_name(source: str, last: Message, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=f"cannot be continued: .*{reason}") as refused:
        continued(source, U, last)
    assert refused.value.param == "messages"


def test_a_form_continues_and_ends_as_asked() -> None:
    form = ChatForm(template(PLAIN), (U, A), continues=True)
    assert form.fill((), "one").text == "[user]one[assistant]yes"
    # The next prompt answers.
    assert form.next([Exchange("one", "yes, sir")], "two").text == "[user]one[assistant]yes, sir[user]two[assistant]"
    assert ChatForm(template(PLAIN), (U,), generation_prompt=False).fill((), "one").text == "[user]one"


def test_the_prompts_end_is_known() -> None:
    form = ChatForm(template(PLAIN + "<think>"), (U,))
    fitted = PromptFitter(form, lambda prompts: [[1] * len(prompt.text) for prompt in prompts], 9000).fit((), "x" * 300)
    assert fitted.tail == "x" * 182 + "[assistant]<think>"
    assert len(fitted.tail) == 200


def test_json_is_written_as_by_transformers() -> None:
    written = "{{ {'b': 'é<', 'a': [1]} | tojson(OPTIONS) }}"

    def as_json(options: str) -> str:
        return text(written.replace("OPTIONS", options), U)

    assert as_json("") == '{"b": "é<", "a": [1]}'
    assert as_json("separators=(',', ':'), sort_keys=true") == '{"a":[1],"b":"é<"}'
    assert json.loads(as_json("ensure_ascii=true")) == {"b": "é<", "a": [1]}
    assert as_json("ensure_ascii=true").isascii()
    assert as_json("indent=2").startswith('{\n  "b"')
    assert text("{{ messages | map(attribute='role') | tojson }}", U) == '["user"]'
    assert text("{{ ('[1, 2]' | from_json)[1] }}", U) == "2"
    with pytest.raises(BadModelFile, match="too much"):
        as_json("indent=1000000000")


def test_a_template_changes_lists_of_its_own_alone() -> None:
    """As Kimi K2's, which keeps the ids of calls in a list."""
    queue = "{% set ids = [] %}{% for m in messages %}{% set _ = ids.append(m.role) %}{% endfor %}{{ ids.pop(0) }}"
    assert text(queue, U) == "user"
    for change in ("messages.append(1)", "messages.pop()", "messages[0].update(role='x')", "messages[0].content.append(1)"):
        with pytest.raises(BadModelFile):
            text(f"{{{{ {change} }}}}", {**U, "content": [{"type": "image"}]})
