"""Answers that llama.cpp holds to a JSON schema, and schemas that it cannot be held to."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from tests.support.openai_api import CLOCK, FRANCE, WEATHER, chat, refused, said, stream
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


@pytest.mark.parametrize("pattern", ["^(?>a)b$", r"^(.)\1$", "^[z-a]$", "("])
def test_a_pattern_that_is_not_regular_is_refused(server: Server, pattern: str) -> None:
    error = refused(server, messages=[USER], response_format=kept_to({"type": "string", "pattern": pattern}))
    assert error["param"] == "response_format"
    assert "#/pattern: " in error["message"]


@pytest.mark.parametrize(
    "pattern", ["^(a?){900}$", "^((a?){30}){30}$", "^((a|b|ab|ba)?){400}$", "^(a|b?){60}$", "^(a*)*$", "^a{1,99999999}$"]
)
def test_a_pattern_of_many_choices_is_kept_to_in_time(server: Server, pattern: str) -> None:
    format = kept_to({"type": "string", "pattern": pattern})
    started = time.monotonic()
    value = json.loads(said(chat(server, "Go on", response_format=format, max_tokens=30)))
    assert time.monotonic() - started < 20
    assert set(value) <= {"a", "b"}


@pytest.mark.parametrize(
    ("pattern", "likely"),
    [
        (r"^\d{4}-\d{2}$", ()),
        (r"^\w+ \w+$", ()),
        ("^a|b$", ("b", '"')),
        ("x[yz]+", ("x", "y", '"')),
        (r"^[^@ ]{1,8}@[^@ ]{1,8}\.(com|org)$", ()),
        ('^"[a-z]"$', ()),
        (r"^\\$", ()),
        (r"^[\]a-]$", ()),
        ("^é.$", ()),
    ],
)
def test_a_pattern_is_kept_to(server: Server, pattern: str, likely: tuple[str, ...]) -> None:
    """The `likely` texts are made so, where chance alone would never come to the pattern's end."""
    schema = kept_to(an_object_schema(it={"type": "string", "pattern": pattern}))
    ids = [token for text in likely for token in server.post("/tokenize", {"content": text}).json()["tokens"]]
    fields = {
        "response_format": schema,
        "max_tokens": 120,
        "temperature": 1,
        "logit_bias": {str(token): 20 for token in ids},
    }
    whole = 0
    for seed in range(3):
        reply = chat(server, "Go on", seed=seed, **fields)
        # A text without a bound may be cut off, and then be closed or not.
        is_cut = reply["choices"][0]["finish_reason"] == "length"
        if not is_cut or said(reply).endswith("}"):
            assert re.search(pattern, json.loads(said(reply))["it"])
            whole += 1
    assert whole


def an_object_schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


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
    bad = tool("bad", an_object_schema(p={"type": "string", "pattern": "^(?=a)b$"}))
    assert refused(server, messages=[USER], tools=[bad], tool_choice="required")["param"] == "tools"


def test_what_the_model_writes_is_read_with_care(server: Server) -> None:
    (bracket,) = server.post("/tokenize", {"content": "["}).json()["tokens"]
    fields = {"tools": [tool("f", {})], "logit_bias": {str(bracket): 100}, "max_tokens": 1200}
    assert chat(server, "Go on", **fields)["choices"][0]["message"]["content"].startswith("[[[")
    assert stream(server, CHATS, messages=[USER], **fields)[-1] == "[DONE]"


def test_many_special_tokens_are_text(server: Server) -> None:
    counts = [
        server.post("/tokenize", {"messages": [{"role": "user", "content": "<|end|>" * n}]}).json()["count"]
        for n in (10, 20_000)
    ]
    assert counts[1] > 20_000 * (counts[0] - 10) / 20


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


def an_object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


TEXTS = {"type": "array", "items": {"type": "string"}}


SCHEMAS: list[dict[str, Any]] = [
    an_object(city={"type": "string"}, people={"type": "integer"}),
    {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 4},
    {"type": "string", "enum": ["yes", "no"]},
    {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
    {**an_object(a={"$ref": "#/$defs/b"}), "$defs": {"b": TEXTS}},
    an_object(deep=an_object(x={"const": 3})),
]


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("max_tokens", [40, 400])
def test_an_answer_that_has_to_fit_a_schema_does(server: Server, schema: dict[str, Any], max_tokens: int) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "wanted", "schema": schema, "strict": True}}
    for prompt in (FRANCE, "Count to 9."):
        reply = chat(server, prompt, response_format=wanted, max_tokens=max_tokens)
        # It is closed in time, and its reason says so.
        assert reply["choices"][0]["finish_reason"] in ("stop", "length")
        assert_fits(json.loads(said(reply)), schema)


def assert_fits(value: Any, schema: dict[str, Any]) -> None:
    kinds: dict[str, Any] = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float)}
    if "type" in schema:
        assert isinstance(value, kinds[schema["type"]])
    if "enum" in schema:
        assert value in schema["enum"]
    if "anyOf" in schema:
        assert value in (True, False, None)
    for name in schema.get("required", ()):
        assert name in value
    if "minItems" in schema:
        assert schema["minItems"] <= len(value) <= schema["maxItems"]


@pytest.mark.parametrize("max_tokens", [20, 60, 300])
def test_a_json_object_always_parses(server: Server, max_tokens: int) -> None:
    for prompt in (FRANCE, "Count to 9.", "Who are you?", "{"):
        for temperature in (0, 1.5):
            reply = chat(
                server, prompt, response_format={"type": "json_object"}, max_tokens=max_tokens, temperature=temperature
            )
            assert isinstance(json.loads(said(reply)), dict)


def test_a_text_in_json_holds_nothing_that_has_to_be_escaped(server: Server) -> None:
    ids = [server.post("/tokenize", {"content": text}).json()["tokens"] for text in ("\n", "\t", "\\", '"')]
    bias = {str(token): 20 for tokens in ids for token in tokens}
    schemas: list[dict[str, Any]] = [
        {"type": "string", "minLength": 10},
        {"type": "string", "pattern": "^[^a]{10,}$"},
        {"type": "string", "pattern": ".{10}|a"},
        {"type": "string", "pattern": "^[ -~]{10,20}$"},
        {"enum": ['a\n"b\\', "\U0001f600"]},
    ]
    for schema in schemas:
        whole = {"type": "object", "properties": {"it": schema}, "required": ["it"]}
        named = {"type": "json_schema", "json_schema": {"name": "x", "schema": whole}}
        for seed in range(5):
            reply = chat(server, "Go on", response_format=named, logit_bias=bias, max_tokens=60, temperature=1, seed=seed)
            value = json.loads(said(reply))["it"]
            if "enum" in schema:
                assert value in schema["enum"]
            elif "pattern" in schema:
                assert re.search(schema["pattern"], value, re.DOTALL)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "string", "maxLength": 10**9}, "1000000000"),
        ({"$ref": "https://127.0.0.1/schema"}, "nothing is fetched from elsewhere"),
        ({"$ref": "#/nowhere"}, "nowhere"),
        ({"type": "nonsense"}, "nonsense"),
        ({"$ref": "#"}, "cannot be kept to"),
        ({"type": "string", "maxLength": 900, "enum": ["x" * 70_000]}, "Unsatisfiable"),
    ],
)
def test_a_schema_that_cannot_be_kept_to_is_refused(server: Server, schema: dict[str, Any], reason: str) -> None:
    wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
    error = refused(server, messages=[{"role": "user", "content": "x"}], response_format=wanted)
    assert reason in error["message"]
    assert error["param"] == "response_format"
    assert server.ask(FRANCE)["result"] == "The capital of France is Paris."


def test_a_model_is_held_to_a_call(server: Server) -> None:
    cities = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": cities}}
    [choice] = chat(server, FRANCE, tools=[tool], tool_choice="required", parallel_tool_calls=False)["choices"]
    [call] = choice["message"]["tool_calls"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) in ({"city": "Paris"}, {"city": "Rome"})
    # Closed by force, it has other arguments than the model meant.
    [choice] = chat(server, FRANCE, tools=[WEATHER], tool_choice="required", max_tokens=8)["choices"]
    assert choice["finish_reason"] == "length"
    assert "tool_calls" not in choice["message"]
    named = {"type": "function", "function": {"name": "get_weather"}}
    events = stream(
        server,
        "/v1/chat/completions",
        messages=[{"role": "user", "content": FRANCE}],
        tools=[WEATHER, CLOCK],
        tool_choice=named,
        max_tokens=80,
    )
    deltas = [event["choices"][0]["delta"] for event in events[:-1]]
    assert not "".join(delta.get("content") or "" for delta in deltas)
    calls = [call["function"] for delta in deltas for call in delta.get("tool_calls") or ()]
    assert [call["name"] for call in calls if "name" in call] == ["get_weather"]
    assert {"city", "days"} <= json.loads("".join(call.get("arguments") or "" for call in calls)).keys()
    assert events[-2]["choices"][0]["finish_reason"] in ("tool_calls", "length")
