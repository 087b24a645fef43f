"""What clients of /v1 send beside the words: each value that OpenAI's server takes is taken, as what it takes it for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.http.faults import Form, of_form
from services.api.http.schemas import validated
from services.api.openai.requests import chat_requests, completion_requests
from services.api.openai.samplers import sampler_names
from services.api.openai.schemas import ChatRequest, CompletionRequest
from services.backend.types import SAMPLERS
from services.errors import InvalidRequest

USER = {"role": "user", "content": "Hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f"}}
CALLED = [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}]
PLAIN = chat_requests(ChatRequest.model_validate({"messages": [USER]}))


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": []},
        {"tools": [], "tool_choice": "auto"},
        {"tool_choice": "none", "parallel_tool_calls": True},
        {"tool_choice": None, "parallel_tool_calls": None, "tools": None},
        {"functions": [], "function_call": "auto"},
        {"stop": ""},
        {"stop": [""]},
        {"stop": None, "n": 1, "seed": None, "logit_bias": {}, "user": "ana", "metadata": {}},
        {"logit_bias": None, "temperature": None, "top_p": None, "max_tokens": None, "max_completion_tokens": None},
        {"response_format": {"type": "text"}},
        {"response_format": None, "modalities": ["text"], "verbosity": "medium", "service_tier": "auto"},
        {"stream_options": {"include_usage": True}},
        {"logprobs": False, "top_logprobs": 0},
        {"grammar": "", "guided_grammar": "", "json_schema": None, "stop_token_ids": [], "bad_words": []},
        {
            "adaptive_target": -0.01,
            "adaptive_decay": 0.9,
            "tfs": 1,
            "top_a": 0,
            "smoothing_factor": 0.0,
            "guidance_scale": 1,
        },
        {"custom_token_bans": "", "banned_strings": [], "include_stop_str_in_output": False, "no_stop_trim": False},
        {"messages": [{**USER, "tool_calls": None, "refusal": None, "audio": None, "annotations": []}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]}
            ]
        },
    ],
)
def test_what_asks_for_nothing_changes_nothing(fields: dict[str, Any]) -> None:
    body = validated(ChatRequest, {"messages": [USER], **fields})
    # Without tools it makes no difference how they may be called.
    requests = [replace(request, tool_choice="auto", parallel_tool_calls=True) for request in chat_requests(body)]
    assert requests == PLAIN
    assert body.ignored == []


@pytest.mark.parametrize(
    ("messages", "last"),
    [
        ([{"role": "user", "content": ""}], {"role": "user", "content": ""}),
        ([USER, USER, {"role": "user", "content": "Ho", "name": "ana"}], {"role": "user", "content": "Ho", "name": "ana"}),
        (
            [{"role": "developer", "content": [{"type": "text", "text": "Be kind."}]}],
            {"role": "system", "content": "Be kind."},
        ),
        ([USER, {"role": "assistant", "content": None, "refusal": "No."}], {"role": "assistant", "content": "No."}),
        ([USER, {"role": "assistant"}], {"role": "assistant", "content": ""}),
        (
            [*CALLED, {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "12"}]}],
            {"role": "tool", "tool_call_id": "c1", "content": "12"},
        ),
        (
            [*CALLED, {"role": "tool", "tool_call_id": "c1", "content": ""}],
            {"role": "tool", "tool_call_id": "c1", "content": ""},
        ),
        (CALLED, {"role": "assistant", "content": "", "tool_calls": [CALL]}),
        ([USER, {"role": "assistant", "content": "Ho", "tool_calls": []}], {"role": "assistant", "content": "Ho"}),
    ],
)
def test_messages_may_be_as_openai_has_them(messages: list[dict[str, Any]], last: dict[str, Any]) -> None:
    (request,) = chat_requests(validated(ChatRequest, {"messages": messages}))
    assert request.messages[-1] == last


@pytest.mark.parametrize("strict", [None, True, False])
def test_a_tool_may_be_strict_or_not(strict: bool | None) -> None:
    tool = {"type": "function", "function": {"name": "f", "description": None, "parameters": None, "strict": strict}}
    body = validated(ChatRequest, {"messages": [USER], "tools": [tool], "tool_choice": "required"})
    assert (chat_requests(body)[0].tools, body.ignored) == ((TOOL,), [])


def test_stop_texts_that_are_empty_end_nothing() -> None:
    body = validated(ChatRequest, {"messages": [USER], "stop": ["", "x"]})
    assert chat_requests(body)[0].stop == ("x",)
    # None at all, whatever the profile says.
    assert chat_requests(validated(ChatRequest, {"messages": [USER], "stop": []}))[0].stop == ()


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (SAMPLERS, SAMPLERS),
        ((*SAMPLERS, "adaptive_p"), SAMPLERS),
        (
            ["top_k", "tfs_z", "typical_p", "top_p", "min_p", "temperature"],
            ("top_k", "typ_p", "top_p", "min_p", "temperature"),
        ),
        (["repetition_penalty", "presence_penalty", "dry", "dynamic_temperature", "quadratic_sampling", "mirostat"], None),
        ("top-k;Temp", ("top_k", "temperature")),
        ("edskypmxt", SAMPLERS),
        ("xtc", ("xtc",)),
        (["TOPK", "nucleus", "top_k"], ("top_k", "top_p")),
    ],
)
def test_samplers_have_many_names(given: Any, names: tuple[str, ...] | None) -> None:
    assert sampler_names(given) == (names or ("penalties", "dry", "temperature"))


@pytest.mark.parametrize("given", [["top_k", "magic"], ["tfs"], [], "", "kz", ["infill"]])
def test_unknown_samplers_are_refused(given: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        validated(CompletionRequest, {"prompt": "x", "samplers": given})
    assert refused.value.param == "samplers"


@pytest.mark.parametrize(
    ("given", "breakers"),
    [
        (["a"], ("a",)),
        ('["\\n", ":"]', ("\n", ":")),
        ('"\\n", ":"', ("\n", ":")),
        ("a,b", ("a", "b")),
        ("", ()),
        ([], ()),
    ],
)
def test_sequence_breakers_may_be_a_text(given: Any, breakers: tuple[str, ...]) -> None:
    body = validated(CompletionRequest, {"prompt": "x", "dry_sequence_breakers": given})
    assert completion_requests(body)[0].sampling["dry_sequence_breakers"] == breakers


KEYS = st.text(min_size=1, max_size=5).filter(lambda key: not key.startswith("-"))


@given(st.dictionaries(KEYS, st.floats(-100, 100) | st.just(False), max_size=5))
def test_each_bias_is_a_tokens_or_a_texts(biases: dict[str, float | bool]) -> None:
    (request,) = completion_requests(validated(CompletionRequest, {"prompt": "x", "logit_bias": biases}))
    ids = [int(key) for key in biases if key.isascii() and key.isdecimal()]
    texts = [key for key in biases if not (key.isascii() and key.isdecimal())]
    assert [token for token, _ in request.logit_bias] == ids
    assert [text for text, _ in request.sampling.get("text_bias", ())] == texts
    banned = sum(bias is False for bias in biases.values())
    assert sum(bias < -1000 for _, bias in (*request.logit_bias, *request.sampling.get("text_bias", ()))) == banned


WORDS = "the grammar cannot be kept to: {}: the format x cannot be kept to"
SCHEMA = {"type": "object", "properties": {"a: b/c~": {"format": "x"}}}
FORMS = [
    Form("response_format", schema={"type": "object", "title": "x"}),
    Form("tools", "one", {"properties": {"d": {"format": "x"}}}),
    Form("tools", "two", SCHEMA),
]


@pytest.mark.parametrize(
    ("pointer", "field", "words", "code"),
    [
        (
            "#/properties/a: b~1c~0/format",
            "tools",
            'the schema of tool "two" cannot be kept to: #/properties/a: b',
            "bad_schema",
        ),
        (
            "#/properties/d/format",
            "tools",
            'the schema of tool "one" cannot be kept to: #/properties/d/format: ',
            "bad_schema",
        ),
        ("#/title", "response_format", "the JSON schema cannot be kept to: #/title: the format x", "bad_schema"),
        ("#/type", "response_format", 'response_format or the tool "two"', "bad_grammar"),
        ("#", "response_format", 'response_format or the tool "one" or the tool "two"', "bad_grammar"),
    ],
)
def test_the_form_at_fault_is_named(pointer: str, field: str, words: str, code: str) -> None:
    found = of_form(InvalidRequest(WORDS.format(pointer), param="grammar", code="bad_grammar"), FORMS)
    assert (found.param, found.code) == (field, code)
    assert words in found.message


def test_other_errors_are_as_the_engine_has_them() -> None:
    grammar = InvalidRequest(WORDS.format("#"), param="grammar", code="bad_grammar")
    own = of_form(grammar, [Form("regex")])
    assert (own.param, own.message, own.code) == ("regex", grammar.message, "bad_grammar")
    other = InvalidRequest("no", param="prompt")
    assert of_form(other, FORMS) is other
    assert of_form(grammar, []) is grammar
    named = InvalidRequest('the schema of tool "one" cannot be kept to', param="tools", code="bad_schema")
    assert of_form(named, [Form("functions", "one", {})]).param == "functions"
