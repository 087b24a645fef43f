"""/v1 over HTTP, with the guide model."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.serving import Server, Stream

FRANCE = "What is the capital of France?"


def chat(server: Server, words: str | list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": words}] if isinstance(words, str) else words
    reply = server.post("/v1/chat/completions", {"messages": messages, **fields})
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def said(reply: dict[str, Any]) -> str:
    return str(reply["choices"][0]["message"]["content"])


def stream(server: Server, path: str, **fields: Any) -> list[Any]:
    return Stream(server.post(path, {"stream": True, **fields}, stream=True)).rest()


def refused(server: Server, path: str = "/v1/chat/completions", **fields: Any) -> dict[str, Any]:
    reply = server.post(path, fields)
    assert reply.status_code == 400, reply.text
    return dict(reply.json()["error"])


def test_a_chat_is_answered_as_the_models_template_writes_it(server: Server) -> None:
    reply = chat(server, [{"role": "system", "content": "You are a pirate."}, {"role": "user", "content": FRANCE}])
    assert said(reply) == "Arr! The capital of France is Paris."
    assert said(chat(server, FRANCE)) == "The capital of France is Paris."
    assert (reply["object"], reply["model"]) == ("chat.completion", "Guide")
    assert reply["choices"][0]["finish_reason"] == "stop"
    usage = reply["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 20


def test_a_stream_has_the_same_text(server: Server) -> None:
    messages = [{"role": "user", "content": "Count to 9."}]
    whole = chat(server, messages)
    *events, done = stream(server, "/v1/chat/completions", messages=messages)
    assert done == "[DONE]"
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert len({event["id"] for event in events}) == 1
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("content") or "" for delta in deltas) == said(whole)
    assert [event["choices"][0]["finish_reason"] for event in events] == [None] * (len(events) - 1) + ["stop"]
    assert "usage" not in events[-1]


def test_a_stream_tells_its_usage_where_asked(server: Server) -> None:
    options = {"include_usage": True}
    messages = [{"role": "user", "content": FRANCE}]
    *events, last, _ = stream(server, "/v1/chat/completions", messages=messages, stream_options=options)
    assert all(event["usage"] is None for event in events)
    assert last["choices"] == []
    again = chat(server, messages)["usage"]
    assert {**last["usage"], "prompt_tokens_details": None} == {**again, "prompt_tokens_details": None}


def test_what_was_computed_is_told(server: Server) -> None:
    talk: list[dict[str, Any]] = [{"role": "user", "content": "My name is Ana."}]
    talk += [{"role": "assistant", "content": said(chat(server, talk))}, {"role": "user", "content": "What is my name?"}]
    reply = chat(server, talk)
    assert "Ana" in said(reply)
    assert reply["usage"]["prompt_tokens_details"]["cached_tokens"] > 15


def test_a_session_keeps_the_conversation_on_the_server(server: Server) -> None:
    system = {"role": "system", "content": "You are a pirate."}
    chat(server, [system, {"role": "user", "content": "My dog is called Rex."}], session_id=4711)
    reply = chat(server, [system, {"role": "user", "content": "What is my dog called?"}], session_id=4711)
    assert said(reply).startswith("Arr!")
    assert "Rex" in said(reply)
    kept = server.get("/answer/4711").json()["messages"]
    assert [message["content"] for message in kept][::2] == ["My dog is called Rex.", "What is my dog called?"]
    assert "Rex" not in said(chat(server, "What is my dog called?"))
    stray = [server.get(f"/answer/{number}").status_code for number in (4712, 0)]
    assert stray == [404, 404]


def test_the_answer_ends_where_it_is_told_to(server: Server) -> None:
    reply = chat(server, "Count to 9.", max_completion_tokens=3)
    assert (reply["choices"][0]["finish_reason"], reply["usage"]["completion_tokens"]) == ("length", 3)
    assert said(chat(server, "Count to 9.", stop="4")) == "1, 2, 3,"
    assert said(chat(server, "Count to 9.", stop=["7", "5"], max_tokens=50)) == "1, 2, 3, 4,"


def test_seeds_repeat_and_several_answers_differ(models: Path, serve: Callable[..., Server]) -> None:
    server = serve(models=models)
    fields = {"model": "random.gguf", "temperature": 1.5, "max_tokens": 12, "n": 3, "seed": -7}
    first, again = (chat(server, "Hi", **fields) for _ in range(2))
    texts = [choice["message"]["content"] for choice in first["choices"]]
    assert texts == [choice["message"]["content"] for choice in again["choices"]]
    assert len(set(texts)) == 3
    assert [choice["index"] for choice in first["choices"]] == [0, 1, 2]
    assert first["usage"]["completion_tokens"] == 36
    events = stream(server, "/v1/chat/completions", messages=[{"role": "user", "content": "Hi"}], **fields)
    streamed = ["", "", ""]
    for event in events[:-1]:
        [choice] = event["choices"]
        streamed[choice["index"]] += choice["delta"].get("content") or ""
    assert streamed == texts


def test_penalties_count_the_answers_own_tokens(models: Path, serve: Callable[..., Server]) -> None:
    server = serve(models=models)

    def tokens(**fields: float) -> list[str]:
        asked = {"model": "random.gguf", "temperature": 0, "max_tokens": 40, "logprobs": True, **fields}
        return [each["token"] for each in chat(server, "Hi", **asked)["choices"][0]["logprobs"]["content"]]

    plain, present, frequent = tokens(), tokens(presence_penalty=2), tokens(frequency_penalty=2)
    assert plain == tokens(presence_penalty=0)
    assert len(set(present)) > len(set(plain))
    assert len(set(frequent)) > len(set(plain))


def test_probabilities_are_the_models(server: Server) -> None:
    [choice] = chat(server, FRANCE, logprobs=True, top_logprobs=5)["choices"]
    tokens = choice["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens).strip() == choice["message"]["content"]
    for token in tokens:
        assert bytes(token["bytes"]).decode() == token["token"]
        top = token["top_logprobs"]
        assert len(top) == 5
        assert top[0]["logprob"] == token["logprob"] == max(each["logprob"] for each in top) <= 0
        assert sum(math.exp(each["logprob"]) for each in top) <= 1.0001
    assert chat(server, FRANCE, logprobs=True)["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
    streamed = stream(
        server, "/v1/chat/completions", messages=[{"role": "user", "content": FRANCE}], logprobs=True, top_logprobs=5
    )
    told = [event["choices"][0]["logprobs"] for event in streamed[:-1]]
    assert [token for part in told if part for token in part["content"]] == tokens


def test_a_bias_forbids_or_forces_a_token(server: Server) -> None:
    [paris, *_] = server.post("/tokenize", {"content": " Paris"}).json()["tokens"]
    assert "Paris" not in said(chat(server, FRANCE, logit_bias={str(paris): -100}))
    forced = chat(server, FRANCE, logit_bias={str(paris): 100}, max_tokens=3)
    assert said(forced) == server.post("/detokenize", {"tokens": [paris] * 3}).json()["content"].strip()
    assert refused(server, messages=[{"role": "user", "content": "x"}], logit_bias={"999999": 1})["param"] == "logit_bias"


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
        assert reply["choices"][0]["finish_reason"] == "stop"
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
        ({"type": "string", "pattern": "^a{1,99999999}$"}, "99999999"),
        ({"$ref": "https://127.0.0.1/schema"}, "nothing is fetched from elsewhere"),
        ({"$ref": "#/nowhere"}, "nowhere"),
        ({"type": "nonsense"}, "nonsense"),
        ({"$ref": "#"}, "cannot be kept to"),
        ({"type": "string", "maxLength": 900, "enum": ["x" * 70_000]}, "larger than"),
    ],
)
def test_a_schema_that_cannot_be_kept_to_is_refused(server: Server, schema: dict[str, Any], reason: str) -> None:
    wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
    error = refused(server, messages=[{"role": "user", "content": "x"}], response_format=wanted)
    assert reason in error["message"]
    assert error["param"] == "response_format"
    assert server.ask(FRANCE)["result"] == "The capital of France is Paris."


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}


def test_a_model_is_held_to_a_call(server: Server) -> None:
    reply = chat(server, FRANCE, tools=[WEATHER, CLOCK], tool_choice="required", max_tokens=80)
    [choice] = reply["choices"]
    [call] = choice["message"]["tool_calls"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    assert call["function"]["name"] in ("get_weather", "clock")
    assert isinstance(json.loads(call["function"]["arguments"]), dict)
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
    [call] = [call for delta in deltas for call in delta.get("tool_calls") or ()]
    assert call["function"]["name"] == "get_weather"
    assert {"city", "days"} <= json.loads(call["function"]["arguments"]).keys()
    assert events[-2]["choices"][0]["finish_reason"] == "tool_calls"


def test_a_model_may_answer_without_its_tools_and_read_their_results(server: Server) -> None:
    assert said(chat(server, FRANCE, tools=[WEATHER], tool_choice="none")) == "The capital of France is Paris."
    assert chat(server, FRANCE, tools=[WEATHER])["choices"][0]["finish_reason"] in ("stop", "length")
    call = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    talk: list[dict[str, Any]] = [
        {"role": "user", "content": FRANCE},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "12:00"},
    ]
    assert chat(server, talk, tools=[CLOCK])["usage"]["prompt_tokens"] > 20


def test_models_are_profiles_and_files(models: Path, serve: Callable[..., Server]) -> None:
    server = serve(models=models)
    listed = server.get("/v1/models").json()
    assert (listed["object"], listed["data"][0]["id"]) == ("list", "Guide")
    assert {"Guide", "Pirate", "guide.gguf", "random.gguf"} <= {model["id"] for model in listed["data"]}
    assert server.get("/v1/models/random.gguf").json()["object"] == "model"
    assert server.get("/v1/models/nope").status_code == 404
    assert chat(server, FRANCE, model="guide")["model"] == "Guide"
    assert chat(server, "Hi", model="random.gguf", max_tokens=2)["model"] == "random.gguf"
    assert chat(server, FRANCE, model="Pirate")["model"] == "Pirate"
    for name in ("gpt-4o", "../guide.gguf", "/etc/passwd"):
        reply = server.post("/v1/chat/completions", {"model": name, "messages": [{"role": "user", "content": "x"}]})
        assert reply.status_code == 404
        error = reply.json()["error"]
        assert (error["code"], error["param"]) == ("model_not_found", "model")
        assert name in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content",
        ),
        ({"messages": [{"role": "user", "content": " "}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}], "temperature": 9}, "temperature"),
        ({"messages": [{"role": "user", "content": "x"}], "n": 0}, "n"),
        ({"messages": [{"role": "user", "content": "x"}], "n": 2, "session_id": 1}, "n"),
        ({"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "retrieval"}]}, "tools.0.type"),
        ({"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "xml"}}, "response_format.type"),
    ],
)
def test_what_is_wrong_is_named(server: Server, fields: dict[str, Any], param: str) -> None:
    error = refused(server, **fields)
    assert error["param"].startswith(param)
    assert error["type"] == "invalid_request_error"


def test_what_clients_send_besides_changes_nothing(server: Server) -> None:
    extras = {"user": "ana", "store": False, "metadata": {"a": "b"}, "service_tier": "auto", "tools": None, "stop": None}
    assert said(chat(server, FRANCE, **extras)) == "The capital of France is Paris."
    parts = [{"role": "user", "content": [{"type": "text", "text": FRANCE}]}]
    assert said(chat(server, parts)) == "The capital of France is Paris."


def test_a_prompt_that_is_too_long_is_known_to_clients(server: Server) -> None:
    error = refused(server, messages=[{"role": "user", "content": "word " * 5000}])
    assert error["code"] == "context_length_exceeded"
    assert "2048" in error["message"]


def test_a_completion_goes_on_with_the_text_as_it_stands(server: Server) -> None:
    prompt = f"You are the guide of this server.\n\nHuman: {FRANCE}\nAI:"
    body = {"prompt": prompt, "max_tokens": 30, "temperature": 0}
    reply = server.post("/v1/completions", body).json()
    assert (reply["object"], reply["choices"][0]["text"]) == ("text_completion", " The capital of France is Paris.")
    ids = server.post("/tokenize", {"content": prompt}).json()["tokens"]
    many = server.post("/v1/completions", {**body, "prompt": [ids, ids], "logprobs": 2}).json()["choices"]
    assert [choice["text"] for choice in many] == [reply["choices"][0]["text"]] * 2
    probabilities = many[0]["logprobs"]
    assert "".join(probabilities["tokens"]) == many[0]["text"]
    assert probabilities["text_offset"][:2] == [0, len(probabilities["tokens"][0])]
    assert all(len(top) == 2 for top in probabilities["top_logprobs"])
    echoed = server.post("/v1/completions", {**body, "echo": True, "n": 2}).json()["choices"]
    assert [choice["text"] for choice in echoed] == [prompt + reply["choices"][0]["text"]] * 2
    events = stream(server, "/v1/completions", **body)
    assert "".join(event["choices"][0]["text"] for event in events[:-1]) == reply["choices"][0]["text"]
    assert refused(server, "/v1/completions", prompt=[999_999])["code"] == "no_such_token"
    assert refused(server, "/v1/completions", prompt="x", suffix="y")["message"].startswith("suffix")
    assert refused(server, "/v1/completions", prompt="")["code"] == "invalid_request"


def test_texts_become_tokens_and_texts_again(server: Server) -> None:
    for text in ("Hello, world!", "", "été 🙂 <|end|>", " two  spaces\n"):
        reply = server.post("/tokenize", {"content": text}).json()
        assert reply["count"] == len(reply["tokens"])
        assert server.post("/detokenize", {"tokens": reply["tokens"]}).json() == {"content": text}
    counted = server.post("/tokenize", {"messages": [{"role": "user", "content": FRANCE}]}).json()["count"]
    assert counted == chat(server, FRANCE)["usage"]["prompt_tokens"]
    assert refused(server, "/detokenize", tokens=[-1])["param"] == "tokens"
    assert refused(server, "/tokenize")["param"] == "content"
    assert server.post("/tokenize", {"content": "x", "model": "nope"}).status_code == 404
    assert server.post("/tokenize", {"content": "x"}, key="wrong").status_code == 401


def test_a_client_that_hangs_up_frees_the_engine(models: Path, serve: Callable[..., Server]) -> None:
    server = serve(models=models)
    body = {
        "model": "random.gguf",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 3500,
        "stream": True,
        "n": 4,
    }
    running = Stream(server.post("/v1/chat/completions", body, stream=True))
    for _ in range(4):
        running.next()
    running.close()
    for path in ("/v1/chat/completions", "/v1/completions"):
        short = {"model": "random.gguf", "max_tokens": 2, "prompt": "Hi", "messages": body["messages"]}
        assert server.post(path, short).elapsed.total_seconds() < 5
