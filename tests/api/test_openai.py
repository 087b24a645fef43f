"""/v1 over HTTP, with the guide model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.backend.types import Constraint, Mark
from tests.support.fake_backend import FakeBackend
from tests.support.in_process import Client
from tests.support.openai_api import CLOCK, FRANCE, WEATHER, chat, refused, said, stream


def test_a_chat_is_answered_as_the_models_template_writes_it(client: Client) -> None:
    reply = chat(client, [{"role": "system", "content": "You are a pirate."}, {"role": "user", "content": FRANCE}])
    assert said(reply) == "Arr! The capital of France is Paris."
    assert said(chat(client, FRANCE)) == "The capital of France is Paris."
    assert (reply["object"], reply["model"]) == ("chat.completion", "Guide")
    assert reply["choices"][0]["finish_reason"] == "stop"
    usage = reply["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 20


def test_a_stream_has_the_same_text(client: Client) -> None:
    messages = [{"role": "user", "content": "Count to 9."}]
    whole = chat(client, messages)
    *events, done = stream(client, "/v1/chat/completions", messages=messages)
    assert done == "[DONE]"
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert len({event["id"] for event in events}) == 1
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("content") or "" for delta in deltas) == said(whole)
    assert [event["choices"][0]["finish_reason"] for event in events] == [None] * (len(events) - 1) + ["stop"]
    assert "usage" not in events[-1]


def test_a_stream_tells_its_usage_where_asked(client: Client) -> None:
    options = {"include_usage": True}
    messages = [{"role": "user", "content": FRANCE}]
    *events, last, _ = stream(client, "/v1/chat/completions", messages=messages, stream_options=options)
    assert all(event["usage"] is None for event in events)
    assert last["choices"] == []
    again = chat(client, messages)["usage"]
    assert {**last["usage"], "prompt_tokens_details": None} == {**again, "prompt_tokens_details": None}


def test_what_was_computed_is_told(client: Client) -> None:
    talk: list[dict[str, Any]] = [{"role": "user", "content": "My name is Ana."}]
    talk += [{"role": "assistant", "content": said(chat(client, talk))}, {"role": "user", "content": "What is my name?"}]
    reply = chat(client, talk)
    assert "Ana" in said(reply)
    assert reply["usage"]["prompt_tokens_details"]["cached_tokens"] > 15


def test_a_session_keeps_the_conversation_on_the_server(client: Client) -> None:
    system = {"role": "system", "content": "You are a pirate."}
    chat(client, [system, {"role": "user", "content": "My dog is called Rex."}], session_id=4711)
    reply = chat(client, [system, {"role": "user", "content": "What is my dog called?"}], session_id=4711)
    assert said(reply).startswith("Arr!")
    assert "Rex" in said(reply)
    kept = client.get("/answer/4711").json()["messages"]
    assert [message["content"] for message in kept][::2] == ["My dog is called Rex.", "What is my dog called?"]
    assert "Rex" not in said(chat(client, "What is my dog called?"))
    stray = [client.get(f"/answer/{number}").status_code for number in (4712, 0)]
    assert stray == [404, 404]


def test_the_answer_ends_where_it_is_told_to(client: Client) -> None:
    reply = chat(client, "Count to 9.", max_completion_tokens=3)
    assert (reply["choices"][0]["finish_reason"], reply["usage"]["completion_tokens"]) == ("length", 3)
    assert said(chat(client, "Count to 9.", stop="4")) == "1, 2, 3,"
    assert said(chat(client, "Count to 9.", stop=["7", "5"], max_tokens=50)) == "1, 2, 3, 4,"


def test_a_model_may_answer_without_its_tools_and_read_their_results(client: Client) -> None:
    assert said(chat(client, FRANCE, tools=[WEATHER], tool_choice="none")) == "The capital of France is Paris."
    assert chat(client, FRANCE, tools=[WEATHER])["choices"][0]["finish_reason"] in ("stop", "length")
    call = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    talk: list[dict[str, Any]] = [
        {"role": "user", "content": FRANCE},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "12:00"},
    ]
    assert chat(client, talk, tools=[CLOCK])["usage"]["prompt_tokens"] > 20


def test_models_are_profiles_and_files(model_folder: Path, open_client: Callable[..., Client]) -> None:
    client = open_client(models=model_folder)
    listed = client.get("/v1/models").json()
    assert (listed["object"], listed["data"][0]["id"]) == ("list", "Guide")
    assert {"Guide", "Pirate", "guide.gguf", "random.gguf"} <= {model["id"] for model in listed["data"]}
    random = client.get("/v1/models/random.gguf").json()
    assert random["object"] == "model"
    # As clients of OpenRouter, vLLM and llama-server look for it.
    assert random["context_length"] == random["max_model_len"] == random["meta"]["n_ctx"] > 0
    assert random["capabilities"] == ["completion"]
    assert client.get("/v1/models/nope").status_code == 404
    assert chat(client, FRANCE, model="guide")["model"] == "Guide"
    assert chat(client, "Hi", model="random.gguf", max_tokens=2)["model"] == "random.gguf"
    assert chat(client, FRANCE, model="Pirate")["model"] == "Pirate"
    for name in ("gpt-4o", "../guide.gguf", "/etc/passwd"):
        reply = client.post("/v1/chat/completions", {"model": name, "messages": [{"role": "user", "content": "x"}]})
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
        ({"messages": [{"role": "user", "content": None}]}, "messages"),
        ({"messages": [{"role": "user", "content": []}]}, "messages"),
        ({"messages": [{"role": "user", "content": " "}], "session_id": 1}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}], "temperature": 9}, "temperature"),
        ({"messages": [{"role": "user", "content": "x"}], "n": 0}, "n"),
        ({"messages": [{"role": "user", "content": "x"}], "n": 2, "session_id": 1}, "n"),
        ({"messages": [{"role": "user", "content": "x"}], "n": 9}, "n"),
        ({"messages": [{"role": "user", "content": "x"}], "max_tokens": -2}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "x"}], "max_tokens": 5, "n_predict": 6}, "n_predict"),
        ({"messages": [{"role": "user", "content": "x"}], "max_tokens": 5, "min_tokens": 6}, "min_tokens"),
        ({"messages": [{"role": "user", "content": "x"}], "modalities": ["text", "audio"]}, "modalities"),
        ({"messages": [{"role": "user", "content": "x"}], "skip_special_tokens": False}, "skip_special_tokens"),
        ({"messages": [{"role": "user", "content": "x"}], "samplers": ["top_k", "magic"]}, "samplers"),
        ({"messages": [{"role": "user", "content": "x"}], "samplers": []}, "samplers"),
        ({"messages": [{"role": "user", "content": "x"}], "adaptive_target": 0.5}, "adaptive_target"),
        ({"messages": [{"role": "user", "content": "x"}], "tfs": 0.9}, "tfs"),
        ({"messages": [{"role": "user", "content": "x"}], "allowed_token_ids": []}, "allowed_token_ids"),
        ({"messages": [{"role": "user", "content": "x"}], "bad_words": [""]}, "bad_words"),
        ({"messages": [{"role": "user", "content": "x"}], "mirostat": 1, "mirostat_mode": 2}, "mirostat_mode"),
        (
            {"messages": [{"role": "user", "content": "x"}], "stream_options": {"continuous_usage_stats": True}},
            "stream_options",
        ),
        ({"messages": [{"role": "user", "content": "x"}], "reasoning_effort": "high"}, "reasoning_effort"),
        ({"messages": [{"role": "user", "content": "x"}], "reasoning_effort": "huge"}, "reasoning_effort"),
        ({"messages": [{"role": "user", "content": "x"}], "think": True, "enable_thinking": False}, "think"),
        (
            {"messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": {"messages": []}},
            "chat_template_kwargs",
        ),
        ({"messages": [{"role": "user", "content": "x"}], "logit_bias": {"-5": 1}}, "logit_bias"),
        ({"messages": [{"role": "user", "content": "x"}], "logit_bias": [["word", True]]}, "logit_bias"),
        ({"messages": [{"role": "user", "content": "x"}], "grammar": 'root ::= "x"', "regex": "x"}, "regex"),
        ({"messages": [{"role": "user", "content": "x"}], "grammar_syntax": "lark"}, "grammar_syntax"),
        ({"messages": [{"role": "user", "content": "x"}], "tools": [WEATHER], "regex": "x"}, "regex"),
        ({"messages": [{"role": "user", "content": "x"}], "tools": [WEATHER, WEATHER]}, "tools"),
        ({"messages": [{"role": "user", "content": "x"}], "tool_choice": "required"}, "tool_choice"),
        ({"messages": [{"role": "user", "content": "x"}], "function_call": {"name": "f"}}, "function_call"),
        ({"messages": [{"role": "user", "content": "x"}], "continue_final_message": True}, "continue_final_message"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [{"function": {"name": "f"}}]}]}, "messages.0"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "session_id": 1},
            "messages",
        ),
        ({"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "custom"}]}, "tools.0"),
        ({"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "xml"}}, "response_format.type"),
    ],
)
def test_what_is_wrong_is_named(client: Client, fields: dict[str, Any], param: str) -> None:
    error = refused(client, **fields)
    assert error["param"].startswith(param)
    assert error["type"] == "invalid_request_error"


def test_a_limit_is_told_in_words(client: Client) -> None:
    assert "8 answers at most" in refused(client, messages=[{"role": "user", "content": "x"}], n=9)["message"]


@pytest.mark.parametrize("kind", ["image_url", "input_image", "input_audio", "video_url", "input_file"])
def test_what_cannot_be_read_is_refused_by_its_name(client: Client, kind: str) -> None:
    parts = [{"type": "text", "text": "x"}, {"type": kind, kind: {"url": "x"}}]
    error = refused(client, messages=[{"role": "user", "content": parts}])
    assert error["param"] == "messages.0.content.1.type"
    assert "cannot be read by this server" in error["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/chat/completions", {"messages": [{"role": "user", "content": FRANCE}]}), ("/v1/completions", {"prompt": "x"})],
)
def test_fields_that_nobody_knows_are_told(client: Client, path: str, body: dict[str, Any]) -> None:
    body |= {"max_tokens": 3, "stream_options": {"include_usage": True}}
    odd = {"mood": 1, "stream_options": {"include_usage": True, "pace": 2}}
    for stream_too in (False, True):
        assert "X-Hearth-Ignored" not in client.post(path, body | {"stream": stream_too}).headers
        reply = client.post(path, body | odd | {"stream": stream_too})
        assert reply.headers["X-Hearth-Ignored"] == "mood, stream_options.pace"
        assert reply.status_code == 200


def test_fields_of_embeddings_are_told_too(client: Client) -> None:
    reply = client.post("/v1/embeddings", {"input": "x", "user": "ana", "input_kind": "query"})
    assert (reply.status_code, reply.headers["X-Hearth-Ignored"]) == (200, "input_kind")
    assert "X-Hearth-Ignored" not in client.post("/v1/embeddings", {"input": "x", "user": "ana"}).headers


def test_a_chat_may_fill_the_context(client: Client, backend: FakeBackend) -> None:
    (model,) = backend.models()
    for fields in ({}, {"max_tokens": -1}, {"n_predict": -1}, {"max_completion_tokens": -1}):
        chat(client, FRANCE, **fields)
        request = model.requests[-1]
        assert request.max_tokens == model.n_ctx - len(request.tokens)
    client.post("/v1/completions", {"prompt": FRANCE})
    assert model.requests[-1].max_tokens == 16


def test_an_answer_may_be_empty(client: Client) -> None:
    choice = chat(client, FRANCE, max_tokens=0)["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "length")
    reply = client.post("/v1/completions", {"prompt": FRANCE, "max_tokens": 0, "echo": True}).json()
    assert reply["choices"][0]["text"] == FRANCE
    assert reply["usage"]["completion_tokens"] == 0


def test_samplers_reach_the_engine(client: Client, backend: FakeBackend) -> None:
    (model,) = backend.models()
    fields: dict[str, Any] = {
        "typical_p": 0.9,
        "top_n_sigma": 1.5,
        "xtc_probability": 0.5,
        "xtc_threshold": 0.2,
        "repeat_last_n": -1,
        "dry_multiplier": 0.8,
        "dry_base": 1.5,
        "dry_allowed_length": 3,
        "dry_penalty_last_n": 100,
        "mirostat": 2,
        "mirostat_tau": 4.0,
        "mirostat_eta": 0.2,
        "min_tokens": 2,
        "ignore_eos": True,
        "seed": 2**40,
    }
    chat(client, FRANCE, max_tokens=4, **fields, repetition_penalty=1.2, dry_sequence_breakers=["x"], top_k=-1)
    sampling = model.requests[-1].sampling
    assert {name: getattr(sampling, name) for name in fields} == fields | {"seed": 2**40 % (2**32 - 1)}
    assert (sampling.repeat_penalty, sampling.dry_sequence_breakers, sampling.top_k) == (1.2, ("x",), 0)
    chat(client, FRANCE, max_tokens=4, seed=-1, logit_bias={"5": 2, "6": False})
    sampling = model.requests[-1].sampling
    assert sampling.seed is None
    assert [token for token, _ in sampling.logit_bias] == [5, 6]
    assert sampling.logit_bias[1][1] < -1000


def test_tokens_and_texts_that_are_banned_or_end_the_answer_reach_the_engine(client: Client, backend: FakeBackend) -> None:
    fields = {
        "dynatemp_range": 0.5,
        "dynatemp_exponent": 1.5,
        "samplers": ["typical_p", "Temp", "adaptive_p", "top-k"],
        "min_keep": 3,
        "logit_bias": [["Paris", -1.5], [7, 2], [" word", False]],
        "bad_words": ["Rome"],
        "banned_strings": ["Madrid"],
        "allowed_token_ids": [1, 2, 3],
        "stop_token_ids": [4],
        "include_stop_str_in_output": True,
    }
    for path, body in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": FRANCE}]}),
        ("/v1/completions", {"prompt": "x"}),
    ):
        assert client.post(path, {**body, **fields, "max_tokens": 1}).status_code == 200
        request = backend.requests[-1]
        sampling = request.sampling
        assert (sampling.dynatemp_range, sampling.dynatemp_exponent, sampling.min_keep) == (0.5, 1.5, 3)
        assert sampling.samplers == ("typ_p", "temperature", "top_k")
        assert sampling.logit_bias == ((7, 2.0),)
        assert sampling.text_bias[0] == ("Paris", -1.5)
        assert (sampling.text_bias[1][0], sampling.text_bias[1][1] < -1000) == (" word", True)
        assert (sampling.banned, sampling.allowed_tokens) == (("Rome", "Madrid"), (1, 2, 3))
        assert (request.stop_tokens, request.keeps_stop) == ((4,), True)


def test_special_tokens_may_be_part_of_a_text(open_client: Callable[..., Client]) -> None:
    backend = FakeBackend(specials=("<|x|>", "<|end|>"))
    client = open_client(backend=backend)
    for fields, text in (({"skip_special_tokens": False}, "a<|x|>b"), ({"skip_special_tokens": True}, "ab"), ({}, "ab")):
        backend.reply("a", Mark("<|x|>"), "b")
        reply = client.post("/v1/completions", {"prompt": "x", **fields}).json()
        assert reply["choices"][0]["text"] == text
        backend.reply("a", Mark("<|x|>"), "b")
        *events, _ = stream(client, "/v1/completions", prompt="x", **fields)
        assert "".join(event["choices"][0]["text"] for event in events) == text


def test_a_last_message_of_the_assistant_is_continued(client: Client, backend: FakeBackend) -> None:
    (model,) = backend.models()
    talk = [{"role": "user", "content": FRANCE}, {"role": "assistant", "content": "The capital"}]
    prompts = []
    for fields in ({}, {"continue_final_message": True}, {"continue_final_message": "content"}):
        chat(client, talk, **fields)
        prompts.append(model.text(model.requests[-1].tokens))
    assert len(set(prompts)) == 1
    assert prompts[0].endswith("AI: The capital")
    for fields in ({"continue_final_message": False}, {"add_generation_prompt": True}):
        chat(client, talk, **fields)
        assert model.text(model.requests[-1].tokens).endswith("AI:")


OBJECT = Constraint("json_schema", '{"type": "object"}')


@pytest.mark.parametrize(
    ("field", "value", "constraint"),
    [
        ("response_format", {"type": "text"}, None),
        ("response_format", {"type": "json_object"}, OBJECT),
        (
            "response_format",
            {"type": "json_object", "schema": {"type": "array"}},
            Constraint("json_schema", '{"type": "array"}'),
        ),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}, OBJECT),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x"}}, OBJECT),
        ("response_format", {"type": "json_schema", "schema": {"type": "object"}}, OBJECT),
        ("json_schema", {"type": "object"}, OBJECT),
        ("json_schema", '{"type": "object"}', OBJECT),
        ("json_schema", {}, OBJECT),
        ("grammar", 'root ::= "x"', Constraint("gbnf", 'root ::= "x"')),
        ("grammar", "%llguidance {}\nstart: /x/", Constraint("lark", "%llguidance {}\nstart: /x/")),
        ("grammar", "", None),
        ("ebnf", 'root ::= "x"', Constraint("gbnf", 'root ::= "x"')),
        ("regex", "x+", Constraint("regex", "x+")),
        ("guided_json", {"type": "object"}, OBJECT),
        ("guided_regex", "x+", Constraint("regex", "x+")),
        ("guided_choice", ["yes", "no?"], Constraint("regex", "(?:yes)|(?:no\\?)")),
        ("guided_grammar", 'start: "x"', Constraint("lark", 'start: "x"')),
        ("guided_grammar", 'root ::= "x"', Constraint("gbnf", 'root ::= "x"')),
        ("structured_outputs", {"json": {"type": "object"}}, OBJECT),
        ("structured_outputs", {"json_object": True}, OBJECT),
        ("structured_outputs", {"choice": ["yes"]}, Constraint("regex", "(?:yes)")),
    ],
)
def test_an_answers_form_reaches_the_engine(
    client: Client, backend: FakeBackend, field: str, value: Any, constraint: Constraint | None
) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
        "/v1/completions": {"prompt": "x"},
    }
    for path, body in bodies.items():
        assert client.post(path, {**body, field: value}).status_code == 200
        assert backend.requests[-1].sampling.constraint == constraint


def test_what_clients_send_besides_changes_nothing(client: Client) -> None:
    extras = {"user": "ana", "store": False, "metadata": {"a": "b"}, "service_tier": "auto", "tools": None, "stop": None}
    assert said(chat(client, FRANCE, **extras)) == "The capital of France is Paris."
    parts = [{"role": "user", "content": [{"type": "text", "text": FRANCE}]}]
    assert said(chat(client, parts)) == "The capital of France is Paris."


def test_a_prompt_that_is_too_long_is_known_to_clients(client: Client) -> None:
    error = refused(client, messages=[{"role": "user", "content": "word " * 5000}])
    assert error["code"] == "context_length_exceeded"
    assert "2048" in error["message"]
    assert "exceeds the available context size" in error["message"]
    assert error["param"] == "messages"


def test_a_completion_goes_on_with_the_text_as_it_stands(client: Client) -> None:
    prompt = f"You are the guide of this server.\n\nHuman: {FRANCE}\nAI:"
    body = {"prompt": prompt, "max_tokens": 30, "temperature": 0}
    reply = client.post("/v1/completions", body).json()
    assert (reply["object"], reply["choices"][0]["text"]) == ("text_completion", " The capital of France is Paris.")
    ids = client.post("/tokenize", {"content": prompt}).json()["tokens"]
    many = client.post("/v1/completions", {**body, "prompt": [ids, ids], "logprobs": 2}).json()["choices"]
    assert [choice["text"] for choice in many] == [reply["choices"][0]["text"]] * 2
    probabilities = many[0]["logprobs"]
    assert "".join(probabilities["tokens"]) == many[0]["text"]
    assert probabilities["text_offset"][:2] == [0, len(probabilities["tokens"][0])]
    assert all(len(top) == 2 for top in probabilities["top_logprobs"])
    echoed = client.post("/v1/completions", {**body, "echo": True, "n": 2}).json()["choices"]
    assert [choice["text"] for choice in echoed] == [prompt + reply["choices"][0]["text"]] * 2
    events = stream(client, "/v1/completions", **body)
    assert "".join(event["choices"][0]["text"] for event in events[:-1]) == reply["choices"][0]["text"]
    assert refused(client, "/v1/completions", prompt=[999_999])["code"] == "no_such_token"
    assert refused(client, "/v1/completions", prompt="x", suffix="y")["message"].startswith("suffix")
    assert refused(client, "/v1/completions", prompt="")["code"] == "invalid_request"


def test_texts_become_tokens_and_texts_again(client: Client) -> None:
    for text in ("Hello, world!", "", "été 🙂 <|end|>", " two  spaces\n"):
        reply = client.post("/tokenize", {"content": text}).json()
        assert reply["count"] == len(reply["tokens"])
        assert client.post("/detokenize", {"tokens": reply["tokens"]}).json() == {"content": text}
    counted = client.post("/tokenize", {"messages": [{"role": "user", "content": FRANCE}]}).json()["count"]
    assert counted == chat(client, FRANCE)["usage"]["prompt_tokens"]
    assert refused(client, "/detokenize", tokens=[-1])["param"] == "tokens"
    assert refused(client, "/tokenize")["param"] == "content"
    assert client.post("/tokenize", {"content": "x", "model": "nope"}).status_code == 404
    assert client.post("/tokenize", {"content": "x"}, key="wrong").status_code == 401
