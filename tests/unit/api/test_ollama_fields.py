"""The fields of Ollama's bodies: each one that clients send is honoured, without effect, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ollama
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ollama import _types as reference

from services.api.http.request_fields import Listed, RequestField
from services.api.http.schemas import validated
from services.api.ollama.fields import CHAT, EMBED, EMBEDDINGS, FIELDS, GENERATE, known_fields
from services.api.ollama.requests import chat_request, prompt_request
from services.api.ollama.schemas import OllamaChat, OllamaEmbed, OllamaEmbedding, OllamaGenerate, Options
from services.errors import InvalidRequest

DOCS = Path(__file__).parents[3] / "docs" / "ollama.md"
BODIES: dict[str, type[Listed]] = {
    CHAT: OllamaChat,
    GENERATE: OllamaGenerate,
    EMBED: OllamaEmbed,
    EMBEDDINGS: OllamaEmbedding,
}
REFERENCE: dict[str, Any] = {
    CHAT: reference.ChatRequest,
    GENERATE: reference.GenerateRequest,
    EMBED: reference.EmbedRequest,
    EMBEDDINGS: reference.EmbeddingsRequest,
}
NEEDED: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "x"}]},
    GENERATE: {"prompt": "x"},
    EMBED: {"input": "x"},
    EMBEDDINGS: {"prompt": "x"},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
OPTION = st.dictionaries(st.sampled_from(sorted(Options.model_fields)), JSON, max_size=3)


def body_of(endpoint: str) -> dict[str, Any]:
    """A body with all that a client must send."""
    return {"model": "m", **NEEDED[endpoint]}


@pytest.mark.parametrize("endpoint", BODIES)
def test_the_list_is_complete(endpoint: str) -> None:
    known = known_fields(endpoint)
    declared = {field.alias or name for name, field in BODIES[endpoint].model_fields.items()}
    assert {name for name, field in known.items() if field.effect == "honoured"} == declared
    assert set(REFERENCE[endpoint].model_fields) <= set(known)


def test_the_packages_options_are_known() -> None:
    known = {*Options.model_fields, *(name.partition(".")[2] for name in known_fields(CHAT))}
    assert set(ollama.Options.model_fields) <= known


@pytest.mark.parametrize("field", [field for field in FIELDS if "." not in field.name], ids=lambda field: field.name)
def test_each_field_is_treated_as_the_list_says(field: RequestField) -> None:
    for endpoint in field.endpoints:
        if field.effect == "no effect":
            assert BODIES[endpoint].model_validate({**body_of(endpoint), field.name: "x"}).ignored == []
        elif field.effect == "refused":
            with pytest.raises(InvalidRequest) as refused:
                validated(BODIES[endpoint], {**body_of(endpoint), field.name: "x"})
            assert refused.value.param == field.name
            for harmless in (None, *field.harmless):
                assert BODIES[endpoint].model_validate({**body_of(endpoint), field.name: harmless}).ignored == []


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_value_of_a_field_is_taken_or_refused_by_name(data: st.DataObject) -> None:
    endpoint = data.draw(st.sampled_from(list(BODIES)))
    name = data.draw(st.sampled_from(sorted(known_fields(endpoint)))).partition(".")[0]
    value = data.draw(OPTION if name == "options" else JSON)
    error = fault_of(endpoint, {**body_of(endpoint), name: value})
    assert not error or str(error.param).split(".")[0] == name, error.message


def fault_of(endpoint: str, data: dict[str, Any]) -> InvalidRequest | None:
    """The error with which a body is refused; None: it becomes a request."""
    try:
        body = validated(BODIES[endpoint], data)
        if isinstance(body, OllamaChat):
            assert not body.messages or chat_request(body)
        if isinstance(body, OllamaGenerate):
            assert prompt_request(body)
    except InvalidRequest as error:
        return error
    return None


def test_the_page_has_the_list() -> None:
    page = DOCS.read_text(encoding="utf-8")
    assert table() in page, f"put this into {DOCS.name}:\n{table()}"


def table() -> str:
    """The list as the page has it."""
    rows = ["| field | where | effect | |", "|---|---|---|---|"]
    for field in sorted(FIELDS, key=lambda each: (each.name, each.endpoints)):
        rows.append(f"| `{field.name}` | {', '.join(field.endpoints)} | {field.effect} | {field.about} |")
    return "\n".join(rows) + "\n"
