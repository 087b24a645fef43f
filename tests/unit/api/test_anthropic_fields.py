"""The fields of Anthropic's bodies: each one that clients send is honoured, without effect, or refused by name."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.api.anthropic.fields import COUNT, FIELDS, MESSAGES, known_fields
from services.api.anthropic.requests import counted_request, message_request
from services.api.anthropic.schemas import CountTokensRequest, MessagesRequest
from services.api.http.request_fields import RequestField
from services.api.http.schemas import validated
from services.errors import InvalidRequest
from tests.support.field_tables import field_table

DOCS = Path(__file__).parents[3] / "docs" / "anthropic.md"
BODIES: dict[str, type[MessagesRequest | CountTokensRequest]] = {MESSAGES: MessagesRequest, COUNT: CountTokensRequest}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
PARTS = ["type", "name", "text", "content", "input", "tool_use_id", "source", "data", "budget_tokens", "input_schema"]
KINDS = ["text", "thinking", "tool_use", "tool_result", "document", "enabled", "any", "tool", "json_schema", "custom"]
BLOCK = st.dictionaries(st.sampled_from(PARTS), JSON | st.sampled_from(KINDS), max_size=4)


def body_of(endpoint: str) -> dict[str, Any]:
    """A body with all that a client must send."""
    needed = {"max_tokens": 5} if endpoint == MESSAGES else {}
    return {"messages": [{"role": "user", "content": "x"}], **needed}


@pytest.mark.parametrize("endpoint", BODIES)
def test_the_list_is_complete(endpoint: str) -> None:
    known = known_fields(endpoint)
    declared = {field.alias or name for name, field in BODIES[endpoint].model_fields.items()}
    assert {name for name, field in known.items() if field.effect == "honoured"} == declared
    if sys.version_info >= (3, 11):
        module = import_module("anthropic.types")
        kinds = {MESSAGES: "message_create_params", COUNT: "message_count_tokens_params"}
        params = getattr(module, kinds[endpoint])
        for each in (params, getattr(module.beta, kinds[endpoint])):
            reference = get_type_hints(getattr(each, "MessageCreateParamsBase", None) or each.MessageCountTokensParams)
            assert len(reference) > 8
            assert set(reference) <= set(known)


@pytest.mark.parametrize("field", [field for field in FIELDS if "." not in field.name], ids=lambda field: field.name)
def test_each_field_is_treated_as_the_list_says(field: RequestField) -> None:
    endpoint = field.endpoints[0]
    if field.effect == "no effect":
        assert BODIES[endpoint].model_validate({**body_of(endpoint), field.name: "x"}).ignored == []
    elif field.effect == "refused":
        with pytest.raises(InvalidRequest) as refused:
            validated(BODIES[endpoint], {**body_of(endpoint), field.name: "x"})
        assert refused.value.param == field.name
        assert BODIES[endpoint].model_validate({**body_of(endpoint), field.name: None}).ignored == []


def test_fields_that_nobody_knows_are_named() -> None:
    tools = [{"type": "web_search_20250305", "name": "web_search", "mood": 1}, {"name": "f", "input_schema": {}, "mood": 1}]
    body = {**body_of(MESSAGES), "mood": 1, "tools": tools}
    body["messages"][0]["content"] = [{"type": "text", "text": "x", "mood": 1, "cache_control": {"type": "ephemeral"}}]
    expected = ["messages.0.content.0.mood", "mood", "tools.0.web_search_20250305", "tools.1.mood"]
    assert sorted(MessagesRequest.model_validate(body).ignored) == expected


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_value_of_a_field_is_taken_or_refused_by_name(data: st.DataObject) -> None:
    endpoint = data.draw(st.sampled_from(list(BODIES)))
    name = data.draw(st.sampled_from(sorted(known_fields(endpoint))))
    path, value = name.split("."), data.draw(JSON | BLOCK | st.lists(BLOCK, max_size=2))
    if path[0] == "messages":
        path, value = (
            ["messages"],
            [{"role": data.draw(st.sampled_from(["user", "assistant", "system"])), "content": value}],
        )
    error = fault_of(endpoint, {**body_of(endpoint), path[0]: value})
    assert not error or str(error.param).split(".")[0] == path[0], error.message


def fault_of(endpoint: str, data: dict[str, Any]) -> InvalidRequest | None:
    """The error with which a body is refused; None: it becomes a request."""
    try:
        body = validated(BODIES[endpoint], data)
        assert message_request(body) if isinstance(body, MessagesRequest) else counted_request(body)
    except InvalidRequest as error:
        return error
    return None


def test_the_page_has_the_list() -> None:
    page = DOCS.read_text(encoding="utf-8")
    table = field_table(FIELDS)
    assert table in page, f"put this into {DOCS.name}:\n{table}"
