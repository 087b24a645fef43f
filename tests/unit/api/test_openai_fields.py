"""The fields of /v1's bodies: each one that clients send is honoured, without effect, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from pydantic import ValidationError

from services.api.http.request_fields import RequestField
from services.api.http.schemas import validated
from services.api.openai.fields import FIELDS, Endpoint, known_fields
from services.api.openai.requests import chat_requests, completion_requests
from services.api.openai.schemas import ChatRequest, CompletionRequest, EmbeddingsRequest, Listed
from services.errors import InvalidRequest

DOCS = Path(__file__).parents[3] / "docs" / "openai.md"
BODIES: dict[Endpoint, type[Listed]] = {
    "chat": ChatRequest,
    "completions": CompletionRequest,
    "embeddings": EmbeddingsRequest,
}
REFERENCE: dict[Endpoint, Any] = {
    "chat": chat_create_params.CompletionCreateParamsStreaming,
    "completions": completion_create_params.CompletionCreateParamsStreaming,
    "embeddings": embedding_create_params.EmbeddingCreateParams,
}
EACH = [(endpoint, field) for endpoint in BODIES for field in known_fields(endpoint).values()]
# The names of fields within other fields.
PARTS = [
    "type",
    "name",
    "function",
    "content",
    "role",
    "effort",
    "budget_tokens",
    "schema",
    "json_schema",
    "json",
    "mode",
    "tools",
]
# One of them is no harmless value of any refused field.
VALUES: list[Any] = [True, False, 7, "x", ["x"], {"a": 1}]


def plain_body(endpoint: Endpoint) -> dict[str, Any]:
    if endpoint != "chat":
        return {"prompt" if endpoint == "completions" else "input": "x"}
    parts = [{"type": "text", "text": "x"}]
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    calling = {"role": "assistant", "content": parts, "tool_calls": [call]}
    return {"messages": [calling, {"role": "user", "content": "x"}]}


def body_with(endpoint: Endpoint, name: str, value: Any) -> dict[str, Any]:
    """A body that has the field of this dotted name, within everything that it stands in."""
    body = plain_body(endpoint)
    wholes: dict[str, Any] = {
        "stream_options": {},
        "structured_outputs": {"regex": "x"},
        "response_format": {"type": "json_schema", "json_schema": {"schema": {}}},
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "functions": [{"name": "f"}],
    }
    *outer, last = name.split(".")
    place: Any = body
    for part in outer:
        if place is body and part not in body:
            body[part] = wholes[part]
        place = place[part]
        place = place[0] if isinstance(place, list) else place
    place[last] = value
    return body


def names_of(endpoint: Endpoint) -> set[str]:
    """The names of the fields in the schema of an endpoint's body."""
    return {field.alias or name for name, field in BODIES[endpoint].model_fields.items()}


@pytest.mark.parametrize(("endpoint", "field"), EACH, ids=lambda each: getattr(each, "name", each))
def test_each_field_is_treated_as_the_list_says(endpoint: Endpoint, field: RequestField) -> None:
    schema = BODIES[endpoint]
    if field.effect == "honoured":
        assert field.name in names_of(endpoint)
        return
    assert field.name not in names_of(endpoint)
    if field.effect == "no effect":
        body = schema.model_validate(body_with(endpoint, field.name, "x"))
        assert body.ignored == []
        return
    value = next(value for value in VALUES if not field.allows(value))
    with pytest.raises(InvalidRequest) as refused:
        schema.model_validate(body_with(endpoint, field.name, value))
    assert [part for part in str(refused.value.param).split(".") if not part.isdecimal()] == field.name.split(".")
    for harmless in (None, *field.harmless):
        assert schema.model_validate(body_with(endpoint, field.name, harmless)).ignored == []


@pytest.mark.parametrize("endpoint", list(BODIES))
def test_the_list_is_complete(endpoint: Endpoint) -> None:
    honoured = {name for name, field in known_fields(endpoint).items() if field.effect == "honoured"}
    assert honoured == names_of(endpoint)
    reference = get_type_hints(REFERENCE[endpoint])
    assert len(reference) >= 5
    assert set(reference) <= set(known_fields(endpoint))


def test_no_field_stands_there_twice() -> None:
    names = [(endpoint, field.name) for field in FIELDS for endpoint in field.endpoints]
    assert len(set(names)) == len(names)


def test_fields_that_nobody_knows_are_named() -> None:
    body = plain_body("chat") | {"stream_options": {"mood": 1}, "tools": [{"type": "function", "function": {"name": "f"}}]}
    body["messages"][1]["mood"] = "x"
    body["tools"][0]["function"]["mood"] = {}
    body |= {"mood": {"a": 1}, "none": None, "häßlich, \r\nSet-Cookie: x": 1}
    ignored = ChatRequest.model_validate(body).ignored
    odd = "h??lich????Set-Cookie:?x"
    assert sorted(ignored) == sorted(["mood", odd, "messages.1.mood", "stream_options.mood", "tools.0.function.mood"])


def test_many_such_fields_are_counted() -> None:
    body = plain_body("completions") | {f"mood{n}": n for n in range(100)}
    ignored = CompletionRequest.model_validate(body).ignored
    assert len(ignored) == 33
    assert ignored[-1] == "and 68 more"


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 8.0},
        {"n": 2.0},
        {"top_k": 40.0},
        {"seed": 5.0},
        {"top_logprobs": 2.0, "logprobs": True},
        {"min_tokens": 1.0},
        {"mirostat": 2.0},
        {"logit_bias": [[5.0, 1]]},
        {"thinking_budget": 64.0},
    ],
)
def test_whole_floats_are_integers(fields: dict[str, Any]) -> None:
    body = ChatRequest.model_validate(plain_body("chat") | fields)
    for name, value in fields.items():
        if name != "logit_bias":
            assert getattr(body, name) == value
            assert type(getattr(body, name)) is type(value) or isinstance(getattr(body, name), int)
    with pytest.raises(ValidationError):
        ChatRequest.model_validate(plain_body("chat") | {"max_tokens": 8.5})
    with pytest.raises(ValidationError):
        ChatRequest.model_validate(plain_body("chat") | {"max_tokens": True})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_value_of_a_field_is_taken_or_refused_by_name(data: st.DataObject) -> None:
    endpoint, field = data.draw(st.sampled_from(EACH))
    body = body_with(endpoint, field.name, data.draw(JSON | st.dictionaries(st.sampled_from(PARTS), JSON, max_size=3)))
    error = fault_of(BODIES[endpoint], body)
    assert not error or str(error.param).split(".")[0] == field.name.split(".")[0], error.message


def fault_of(schema: type[Listed], data: dict[str, Any]) -> InvalidRequest | None:
    """The error with which a body is refused; None: it becomes requests."""
    try:
        body = validated(schema, data)
        assert chat_requests(body) if isinstance(body, ChatRequest) else True
        assert completion_requests(body) if isinstance(body, CompletionRequest) else True
    except InvalidRequest as error:
        return error
    return None


def test_the_page_has_the_list() -> None:
    page = DOCS.read_text(encoding="utf-8")
    assert table() in page, f"put this into {DOCS.name}:\n{table()}"


def table() -> str:
    """The list as the page has it."""
    rows = ["| field | where | effect | |", "|---|---|---|---|"]
    for field in sorted(FIELDS, key=lambda field: (field.name.strip("_"), field.endpoints)):
        where = "all" if len(field.endpoints) == len(BODIES) else ", ".join(field.endpoints)
        about = field.about
        harmless = [f"`{json.dumps(value)}`" for value in field.harmless]
        if harmless or field.or_negative:
            about += "; but for " + ", ".join([*harmless, *(["negative numbers"] if field.or_negative else [])])
        rows.append(f"| `{field.name}` | {where} | {field.effect} | {about} |")
    return "\n".join(rows) + "\n"
