"""Bodies that no well-meaning client sends, and some that one does: a clear answer each time, and the server goes on."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from services.backend.types import ChatFormat
from services.engine.llama.grammar import grammar_of
from services.errors import InvalidRequest
from services.prompts.chat import ChatForm
from services.prompts.chat_template import chat_template
from services.prompts.form import PROBE
from tests.api.test_openai import chat, refused, said, stream
from tests.support.serving import Server

CHATS = "/v1/chat/completions"
USER = {"role": "user", "content": "Go on"}


def kept_to(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def tool(name: str, parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


@pytest.mark.parametrize(
    "value",
    ['" (' + "(" * 20_000, "\n", "\\", 'say "hi"', "C:\\dir", "\x00", "\x7f", "é\U0001f600", {"a": [1, "\t"]}, None, 0.5],
    ids=lambda value: repr(value)[:20],
)
def test_a_constant_is_written_as_it_is(server: Server, value: Any) -> None:
    reply = server.post(CHATS, {"messages": [USER], "max_tokens": 80, "response_format": kept_to({"const": value})})
    assert server.get("/health").json()["status"] == "ready"
    assert reply.status_code == 200, reply.text
    if len(str(value)) < 100:
        assert json.loads(said(reply.json())) == value


def test_properties_may_have_any_name(server: Server) -> None:
    names = ["", '"', "\x00", "root", "space", "char", "a\nb", "\\"]
    schema = kept_to(an_object_schema(**{name: {"type": "integer", "minimum": 1, "maximum": 9} for name in names}))
    value = json.loads(said(chat(server, "Go on", response_format=schema, max_tokens=300)))
    assert list(value) == names
    assert all(isinstance(each, int) for each in value.values())


@pytest.mark.parametrize(
    "pattern",
    [
        "^(a?){900}$",
        "^((a?){30}){30}$",
        "^((a|b|ab|ba)?){400}$",
        "^(a|b?){60}$",
        "^(a*)*$",
        "^(?=a)b$",
        r"^(.)\1$",
        "^[z-a]$",
        "(",
    ],
)
def test_a_pattern_that_would_take_for_ever_is_refused(server: Server, pattern: str) -> None:
    error = refused(server, messages=[USER], response_format=kept_to({"type": "string", "pattern": pattern}))
    assert error["param"] == "response_format"
    assert "the pattern" in error["message"]


@pytest.mark.parametrize(
    "pattern",
    [
        r"^\d{4}-\d{2}$",
        r"^\w+ \w+$",
        r"^a|b$",
        "x[yz]+",
        r"^[^@ ]+@[^@ ]+\.(com|org)$",
        '^"[a-z]"$',
        r"^\\$",
        r"^[\]a-]$",
        "^é.$",
    ],
)
def test_a_pattern_is_kept_to(server: Server, pattern: str) -> None:
    schema = kept_to(an_object_schema(it={"type": "string", "pattern": pattern}))
    for seed in range(3):
        reply = chat(server, "Go on", response_format=schema, max_tokens=120, temperature=1, seed=seed)
        if reply["choices"][0]["finish_reason"] == "stop":
            assert re.search(pattern, json.loads(said(reply))["it"])


def an_object_schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "array", "minItems": 5, "maxItems": 2, "items": {}}, "minItems is more than maxItems"),
        ({"properties": {"a": False}}, "schema.properties.a is false"),
        ({"type": "string", "minLength": 2.5}, "schema.minLength should be a whole number"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "refers to itself"),
    ],
)
def test_what_nothing_fits_is_refused(schema: Any, says: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(says)):
        grammar_of(json.dumps(schema))


def test_schemas_may_refer_to_themselves(server: Server) -> None:
    node = {"type": "object", "properties": {"v": {"const": 1}, "next": {"$ref": "#/$defs/node"}}, "required": ["v"]}
    for schema in ({"$defs": {"node": node}, "$ref": "#/$defs/node"}, an_object_schema(a={"$ref": "#/$defs/node"})):
        whole = {**schema, "$defs": {"node": node}}
        value = json.loads(said(chat(server, "Go on", response_format=kept_to(whole), max_tokens=200)))
        assert (value.get("a") or value)["v"] == 1


def test_tools_may_share_names_of_their_parts(server: Server) -> None:
    def parameters(kind: Any) -> dict[str, Any]:
        return {**an_object_schema(p={"$ref": "#/$defs/P"}), "$defs": {"P": kind}}

    tools = [tool("one", parameters({"const": 1})), tool("two", parameters({"enum": ["x"]}))]
    for name, wanted in (("one", {"p": 1}), ("two", {"p": "x"})):
        choice = {"type": "function", "function": {"name": name}}
        call = chat(server, "Go", tools=tools, tool_choice=choice)["choices"][0]["message"]["tool_calls"][0]
        assert json.loads(call["function"]["arguments"]) == wanted
    call = chat(server, "Go", tools=tools, tool_choice="required")["choices"][0]["message"]["tool_calls"][0]["function"]
    assert json.loads(call["arguments"]) == {"one": {"p": 1}, "two": {"p": "x"}}[call["name"]]
    bad = tool("bad", an_object_schema(p={"type": "string", "pattern": "^(a*)*$"}))
    assert refused(server, messages=[USER], tools=[bad], tool_choice="required")["param"] == "tools"


@pytest.mark.parametrize(
    "arguments", ["[" * 5000, '{"a": "\\ud800"}', '{"a": NaN}', "no json", '{"a": ' * 900 + "1" + "}" * 900]
)
def test_calls_that_cannot_be_read_are_text(server: Server, arguments: str) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    calling: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [call]}
    said_so: list[dict[str, Any]] = [USER, calling, {"role": "tool", "content": ""}]
    assert chat(server, said_so, max_tokens=5)["choices"]


def test_what_the_model_writes_is_read_with_care(server: Server) -> None:
    (bracket,) = server.post("/tokenize", {"content": "["}).json()["tokens"]
    fields = {"tools": [tool("f", {})], "logit_bias": {str(bracket): 100}, "max_tokens": 1200}
    assert chat(server, "Go on", **fields)["choices"][0]["message"]["content"].startswith("[[[")
    assert stream(server, CHATS, messages=[USER], **fields)[-1] == "[DONE]"


def test_what_is_nested_deeply_is_refused(server: Server) -> None:
    deep: Any = {}
    for _ in range(120):
        deep = {"items": deep}
    assert "nested more than 100 levels" in refused(server, messages=[USER], tools=[tool("f", deep)])["message"]


def test_every_character_of_private_use_is_refused(server: Server) -> None:
    words = "".join(map(chr, range(0xE000, 0xF900)))
    assert refused(server, messages=[{"role": "user", "content": words}])["param"] == "messages"
    assert refused(server, messages=[{"role": "user", "content": words[:-1]}])["code"] == "context_length_exceeded"


def test_many_special_tokens_are_text(server: Server) -> None:
    counts = [
        server.post("/tokenize", {"messages": [{"role": "user", "content": "<|end|>" * n}]}).json()["count"]
        for n in (10, 20_000)
    ]
    assert counts[1] > 20_000 * (counts[0] - 10) / 20


def test_nothing_of_a_caller_is_in_what_all_share() -> None:
    fields = "{{ m.name }}{{ m.tool_call_id }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}"
    template = "{% for m in messages %}<{{ m.role }}>" + fields + "{{ m.content }}{% endfor %}"
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"q": "secret"}}}
    messages = (
        {"role": "user", "content": "secret", "name": "secret"},
        {"role": "assistant", "content": "secret", "tool_calls": [call]},
        {"role": "tool", "content": "secret", "tool_call_id": "secret", "name": "secret"},
        {"role": "user", "content": "secret"},
    )
    form = ChatForm(chat_template(ChatFormat(template, "", "", ())), messages)
    assert "secret" in form.fill((), "secret").text
    bare = form.bare().text
    assert "secret" not in bare
    assert bare.count(PROBE) == 4


def test_usage_counts_every_prompt_once(server: Server) -> None:
    texts = ["hello there my friend", "b"]

    def count(prompt: Any, n: int = 1) -> int:
        body = {"prompt": prompt, "n": n, "max_tokens": 1, "seed": 1}
        return int(server.post("/v1/completions", body).json()["usage"]["prompt_tokens"])

    assert count(texts) == count(texts, 2) == count(texts[0]) + count(texts[1])


def test_more_answers_than_can_wait_are_refused(server: Server) -> None:
    error = refused(server, "/v1/completions", prompt=["x"] * 8, n=8)
    assert (error["param"], "more than 32" in error["message"]) == ("n", True)


def test_streams_tell_all_probabilities(server: Server) -> None:
    cases: list[dict[str, Any]] = [
        {"stop": [" can I"]},
        {"tools": [tool("f", {"type": "object"})], "tool_choice": "required", "max_tokens": 60},
        {"tools": [tool("f", {})], "response_format": {"type": "json_object"}, "max_tokens": 40},
    ]
    for case in cases:
        fields = {"messages": [{"role": "user", "content": "Hello"}], "logprobs": True, "temperature": 0, **case}
        whole = server.post(CHATS, fields).json()["choices"][0]["logprobs"]["content"]
        parts = [event["choices"][0] for event in stream(server, CHATS, **fields)[:-1]]
        streamed = [token for part in parts for token in (part["logprobs"] or {"content": []})["content"]]
        assert [token["token"] for token in streamed] == [token["token"] for token in whole]


def test_a_session_keeps_words_and_no_calls(server: Server) -> None:
    tools = [tool("f", an_object_schema(q={"const": "x"}))]
    first = chat(server, "Call it", session_id=9100, tools=tools, tool_choice="required")["choices"][0]["message"]
    assert server.get("/answer/9100").status_code == 404
    result = {"role": "tool", "tool_call_id": first["tool_calls"][0]["id"], "content": "42"}
    told = [{"role": "user", "content": "Call it"}, first, result]
    chat(server, told, session_id=9100, tools=tools, tool_choice="none", max_tokens=10)
    stored = server.get("/answer/9100").json()["messages"]
    assert [message["content"] for message in stored][:1] == ["Call it"]
    assert [message["type"] for message in stored] == ["human", "ai"]
    error = refused(server, messages=[{"role": "tool", "content": "42"}], session_id=9100)
    assert "no message of the user" in error["message"]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHATS, {"messages": [USER], "tool_choice": "required"}, "tool_choice"),
        (CHATS, {"messages": [USER], "top_logprobs": 2}, "top_logprobs"),
        (CHATS, {"messages": [USER], "logit_bias": {"x": 1}}, "logit_bias"),
        (
            CHATS,
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content.0.type",
        ),
        (CHATS, {"messages": [{"role": "user", "content": "word " * 9000}]}, "messages"),
        (CHATS, {"messages": []}, "messages"),
        ("/v1/completions", {"prompt": []}, "prompt"),
        ("/v1/completions", {"prompt": [[]]}, "prompt.0"),
        ("/v1/completions", {"prompt": {}}, "prompt"),
        ("/v1/completions", {"prompt": "a", "best_of": 3}, "best_of"),
        ("/v1/completions", {"prompt": "a", "suffix": "b"}, "suffix"),
        ("/v1/embeddings", {"input": 5}, "input"),
        ("/v1/embeddings", {"input": "a", "dimensions": 5}, "dimensions"),
        ("/v1/embeddings", {"input": [[-1]]}, "input"),
    ],
)
def test_the_field_at_fault_is_named(server: Server, path: str, fields: dict[str, Any], param: str) -> None:
    assert refused(server, path, **fields)["param"] == param


def test_an_assistants_refusal_is_text(server: Server) -> None:
    no = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    assert said(chat(server, [USER, no, {"role": "user", "content": "Hello"}], max_tokens=5))
