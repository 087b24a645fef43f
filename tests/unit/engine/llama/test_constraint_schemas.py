"""JSON schemas as clients write them, and the suite of the specification's authors."""

from __future__ import annotations

import json
import random
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, conint

from services.backend.types import Constraint
from services.engine.llama.constraint import check_constraint
from services.errors import InvalidRequest
from tests.support import schema_suite, schema_table
from tests.support.walks import fits, writer


def test_the_table_in_the_documents_is_what_the_code_does() -> None:
    text = schema_table.DOCUMENT.read_text(encoding="utf-8")
    found = text.partition(schema_table.BEGIN)[2].partition(schema_table.END)[0]
    assert found == schema_table.table(), "write it with: python -m tests.support.schema_table"


@pytest.mark.parametrize("draft", schema_suite.DRAFTS)
def test_no_value_is_allowed_that_the_suite_calls_wrong(draft: str) -> None:
    taken, refused, wrong, narrower, right = 0, 0, [], 0, 0
    for case in schema_suite.cases(draft):
        found = writer().tried(case.schema)
        if isinstance(found, InvalidRequest):
            assert found.param == "response_format"
            assert ": #" in found.message
            refused += 1
            continue
        taken += 1
        for value, is_valid in case.values:
            text = json.dumps(value, ensure_ascii=False)
            is_allowed = writer().accepts(writer().matcher("json_schema", case.schema), text)
            if is_allowed and not is_valid:
                wrong.append((case.name, value))
            right += is_valid
            narrower += is_valid and not is_allowed
    assert not wrong
    assert taken > 2.5 * refused
    assert narrower < right / 8


@pytest.mark.parametrize("draft", schema_suite.DRAFTS)
def test_what_is_written_by_the_suite_s_schemas_fits(draft: str) -> None:
    rng = random.Random(draft)
    for case in schema_suite.cases(draft):
        matcher = writer().tried(case.schema)
        if isinstance(matcher, InvalidRequest):
            continue
        text, is_complete = writer().write(matcher, rng, longest=25)
        if is_complete:
            assert fits(case.schema, text, draft), (case.name, text)


class Address(BaseModel):
    street: str = Field(min_length=1, max_length=200, description="With number")
    zip: str = Field(pattern=r"^\d{5}$")


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: conint(ge=1, le=9)  # type: ignore[valid-type]


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: set[str] = Field(min_length=1)


class Person(BaseModel):
    model_config = {"extra": "forbid"}
    name: str
    age: int | None = Field(default=None, gt=0, lt=150)
    address: Address
    pets: list[Cat | Dog] = Field(max_length=3)
    first: Cat | Dog = Field(discriminator="kind")
    scores: dict[str, float]
    parent: Person | None = None
    tags: set[Literal["a", "b", "c"]]
    pair: tuple[int, str]


def in_old_draft() -> dict[str, Any]:
    """As zod-to-json-schema writes it."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$ref": "#/definitions/Order",
        "definitions": {
            "Order": {
                "type": "object",
                "properties": {
                    "id": {"type": "string", "format": "uuid"},
                    "lines": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"not": {}}]}, "minItems": 1},
                    "total": {"type": "number", "exclusiveMinimum": 0},
                    "kind": {"type": "string", "enum": ["new", "old"], "default": "new"},
                    "next": {"$ref": "#/definitions/Order"},
                    "at": {
                        "type": "array",
                        "items": [{"type": "integer"}, {"type": "integer"}],
                        "minItems": 2,
                        "maxItems": 2,
                    },
                },
                "required": ["id", "lines", "total", "kind", "at"],
                "additionalProperties": False,
            }
        },
    }


CLIENTS: list[Any] = [
    Person.model_json_schema(),
    in_old_draft(),
    # OpenAI's structured outputs: every property is required, and null stands for none.
    {
        "type": "object",
        "properties": {
            "steps": {"type": "array", "items": {"$ref": "#/$defs/step"}},
            "answer": {"type": ["string", "null"]},
            "kind": {"anyOf": [{"type": "string", "enum": ["x", "y"]}, {"type": "null"}]},
        },
        "required": ["steps", "answer", "kind"],
        "additionalProperties": False,
        "$defs": {
            "step": {
                "type": "object",
                "properties": {"why": {"type": "string"}, "inner": {"anyOf": [{"$ref": "#/$defs/step"}, {"type": "null"}]}},
                "required": ["why", "inner"],
                "additionalProperties": False,
            }
        },
    },
    # OpenAPI 3.0.
    {
        "allOf": [{"$ref": "#/components/schemas/Base"}, {"type": "object", "properties": {"b": {"type": "integer"}}}],
        "components": {"schemas": {"Base": {"type": "object", "properties": {"a": {"type": "string", "nullable": True}}}}},
    },
    {"type": "object", "properties": {"a": {"type": "array", "items": {}}, "b": {"additionalProperties": True}}},
]


@pytest.mark.parametrize("schema", CLIENTS, ids=lambda schema: str(list(schema))[:40])
def test_schemas_of_clients_are_taken_and_kept(schema: Any) -> None:
    rng, whole = random.Random(1), 0
    for _ in range(12):
        text, is_complete = writer().write(writer().matcher("json_schema", schema), rng, longest=80)
        if is_complete:
            assert fits(schema, text), text
            whole += 1
    assert whole >= 10


@pytest.mark.parametrize(
    ("schema", "where"),
    [
        ({"properties": {"a": {"pattern": "^(?!x)"}}}, "#/properties/a/pattern"),
        ({"properties": {"a": {"pattern": r"\p{Nothing}"}}}, "#/properties/a/pattern"),
        ({"items": {"$ref": "#/nowhere"}}, "#/items/$ref"),
        ({"anyOf": [{"format": "iri"}]}, "#/anyOf/0/format"),
        ({"$defs": {"a/b": {"type": "nonsense"}}, "$ref": "#/$defs/a~1b"}, "#/$ref/type"),
        ({"allOf": [{"minimum": 10**20}]}, "#/allOf/0/minimum"),
        ({"minLength": -1}, "#/minLength"),
        ({"minLength": "2"}, "#/minLength"),
        ({"required": "a"}, "#/required"),
        ({"properties": []}, "#/properties"),
        ({"multipleOf": 0}, "#/multipleOf"),
        ({"enum": []}, "#/enum"),
        ({"type": "string", "enum": [1]}, "#/enum"),
        ({"properties": {"q": {"patternProperties": {"a": {}, "b": {}}}}}, "#/properties/q/patternProperties"),
        ({"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "minItems": 3}, "#/uniqueItems"),
        ([], "#"),
    ],
)
def test_the_keyword_at_fault_is_named(schema: Any, where: str) -> None:
    for check in (check_constraint, writer().constraints.matcher):
        with pytest.raises(InvalidRequest) as caught:
            check(Constraint("json_schema", json.dumps(schema)))
        assert caught.value.param == "response_format"
        assert caught.value.code == "bad_schema"
        assert f" {where}: " in caught.value.message


@pytest.mark.parametrize("source", ["", "{", "nul", "NaN", '{"minimum": 1e999}', "[" * 100_000, '{"items":' * 5_000])
def test_what_is_no_schema_is_refused(source: str) -> None:
    with pytest.raises(InvalidRequest):
        writer().constraints.matcher(Constraint("json_schema", source))


def test_a_client_cannot_set_the_library_s_options() -> None:
    schema = {"type": "string", "format": "iri", "x-guidance": {"lenient": True}}
    with pytest.raises(InvalidRequest):
        writer().matcher("json_schema", schema)
    loose = {**OBJECT, "x-guidance": {"whitespace_pattern": "x+", "item_separator": ";"}}
    assert not writer().accepts(writer().matcher("json_schema", loose), '{"a":1x}')
    assert writer().accepts(writer().matcher("json_schema", loose), '{"a": 1}')


OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.mark.parametrize(
    "text",
    ['{"a":1,"a":2}', '{"b":1,"b":2}', '{"\\u0061":1}', '{"b":{"c":1,"c":1}}', '{"é":1,"\\u00e9":1}'],
)
def test_no_name_is_written_twice(text: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": True}
    assert not writer().accepts(writer().matcher("json_schema", schema), text)


def test_white_space_comes_to_an_end() -> None:
    for text, is_fine in (
        ('{"a": 1}', True),
        ('{\n  "a": 1\n}', True),
        ('{"a":' + " " * 80 + "1}", False),
        (' {"a":1}', False),
    ):
        assert writer().accepts(writer().matcher("json_schema", OBJECT), text) == is_fine
