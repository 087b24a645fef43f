"""The fields of Responses' bodies: each one that clients send is honoured, without effect, or refused by name."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.api.http.request_fields import RequestField
from services.api.http.schemas import validated
from services.api.openai.responses.fields import COUNT, CREATE, FIELDS, known_fields
from services.api.openai.responses.items import Item, messages_of, read_items
from services.api.openai.responses.requests import Before, counted_request, response_request, with_ids
from services.api.openai.responses.schemas import CountInputTokens, CreateResponse
from services.errors import InvalidRequest
from tests.support.field_tables import field_table

DOCS = Path(__file__).parents[3] / "docs" / "responses.md"
BODIES: dict[str, type[CreateResponse | CountInputTokens]] = {CREATE: CreateResponse, COUNT: CountInputTokens}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
PARTS = ["type", "role", "name", "text", "content", "input", "output", "call_id", "arguments", "summary", "id", "format"]
KINDS = ["message", "reasoning", "function_call", "custom_tool_call", "input_text", "function", "custom", "json_schema"]
ITEM = st.dictionaries(st.sampled_from(PARTS), JSON | st.sampled_from([*KINDS, "user", "assistant"]), max_size=4)


@pytest.mark.parametrize("endpoint", BODIES)
def test_the_list_is_complete(endpoint: str) -> None:
    known = known_fields(endpoint)
    declared = {field.alias or name for name, field in BODIES[endpoint].model_fields.items()}
    assert {name for name, field in known.items() if field.effect == "honoured"} == declared
    if endpoint == CREATE:
        reference = get_type_hints(import_module("openai.types.responses.response_create_params").ResponseCreateParamsBase)
    else:
        reference = get_type_hints(import_module("openai.types.responses.input_token_count_params").InputTokenCountParams)
    assert len(reference) > 8
    assert set(reference) <= set(known)


@pytest.mark.parametrize("field", [field for field in FIELDS if "." not in field.name], ids=lambda field: field.name)
def test_each_field_is_treated_as_the_list_says(field: RequestField) -> None:
    endpoint = field.endpoints[0]
    if field.effect == "no effect":
        assert BODIES[endpoint].model_validate({"input": "x", field.name: "x"}).ignored == []
    elif field.effect == "refused":
        with pytest.raises(InvalidRequest) as refused:
            validated(BODIES[endpoint], {"input": "x", field.name: "x"})
        assert refused.value.param == field.name
        assert BODIES[endpoint].model_validate({"input": "x", field.name: None}).ignored == []


def test_fields_that_nobody_knows_are_named() -> None:
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: /x/"}
    tools = [
        {"type": "web_search", "mood": 1},
        {"type": "function", "name": "f", "mood": 1},
        {"type": "custom", "name": "g", "format": grammar},
    ]
    message = {"role": "user", "content": [{"type": "input_text", "text": "x", "mood": 1}], "status": "completed"}
    body = {"input": [message], "mood": 1, "tools": tools}
    expected = ["input.0.content.0.mood", "mood", "tools.0.web_search", "tools.1.mood", "tools.2.format.lark"]
    assert sorted(CreateResponse.model_validate(body).ignored) == expected


def test_what_the_assistant_does_without_a_break_is_one_message() -> None:
    items = [
        {"role": "developer", "content": "Be kind."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Wait."}]},
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "b", "name": "g", "input": "x"},
        {"type": "function_call_output", "call_id": "a", "output": "1"},
        {"type": "custom_tool_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "2"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    ]

    def call(number: str, name: str, arguments: str) -> dict[str, Any]:
        return {"id": number, "type": "function", "function": {"name": name, "arguments": arguments}}

    calls = [call("a", "f", "{}"), call("b", "g", '{"input": "x"}')]
    expected = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Wait.", "reasoning_content": "Hm.", "tool_calls": calls},
        {"role": "tool", "content": "1", "tool_call_id": "a"},
        {"role": "tool", "content": "2", "tool_call_id": "b"},
        {"role": "assistant", "content": "", "tool_calls": [call("c", "f", "{}")]},
    ]
    checked = [Item.model_validate(item) for item in items]
    assert messages_of(checked) == expected
    # The same once they were stored.
    assert messages_of(read_items(with_ids(checked, "resp_1"))) == expected


def test_conversations_are_sessions() -> None:
    def session(id_: Any) -> int | None:
        return CreateResponse.model_validate({"input": "x", "conversation": id_}).session_id

    assert [session("7"), session("conv_7"), session({"id": "conv_7"})] == [7, 7, 7]
    assert session("conv_abc") == session({"id": "conv_abc"}) != session("conv_abd")
    assert 0 <= (session("conv_abc") or -1) < 2**53
    with pytest.raises(InvalidRequest) as wrong:
        validated(CreateResponse, {"input": "x", "conversation": "a/b"})
    assert wrong.value.param == "conversation"


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_value_of_a_field_is_taken_or_refused_by_name(data: st.DataObject) -> None:
    endpoint = data.draw(st.sampled_from(list(BODIES)))
    name = data.draw(st.sampled_from(sorted(known_fields(endpoint)))).split(".")[0]
    value = data.draw(JSON | ITEM | st.lists(ITEM, max_size=3))
    error = fault_of(endpoint, {"input": "x", name: value})
    assert not error or str(error.param).split(".")[0] == name, error.message


def fault_of(endpoint: str, data: dict[str, Any]) -> InvalidRequest | None:
    """The error with which a body is refused; None: it becomes a request."""
    try:
        body = validated(BODIES[endpoint], data)
        items = body.input if isinstance(body.input, list) else read_items([{"role": "user", "content": "x"}])
        before = Before((), items)
        assert response_request(body, before) if isinstance(body, CreateResponse) else counted_request(body, before)
    except InvalidRequest as error:
        return error
    return None


def test_the_page_has_the_list() -> None:
    page = DOCS.read_text(encoding="utf-8")
    table = field_table(FIELDS)
    assert table in page, f"put this into {DOCS.name}:\n{table}"
