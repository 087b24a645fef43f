"""JSON schemas as clients write them, and the suite of the specification's authors."""

from __future__ import annotations

import json
import random
import time
from typing import Any, Literal

import numpy as np
import pytest
from pydantic import BaseModel, Field, conint

from services.backend.types import Constraint
from services.engine.llama.constraint import check_constraint
from services.errors import InvalidRequest
from tests.support import schema_suite, schema_table
from tests.support.walks import SMALL, fits, writer


def test_the_table_in_the_documents_is_what_the_code_does() -> None:
    text = schema_table.DOCUMENT.read_text(encoding="utf-8")
    found = text.partition(schema_table.BEGIN)[2].partition(schema_table.END)[0]
    assert found == schema_table.table(), "write it with: python -m tests.support.schema_table"


@pytest.mark.parametrize("drafts", [schema_suite.DRAFTS[:3], schema_suite.DRAFTS[3:]], ids=["old", "new"])
def test_the_suite_s_schemas_are_kept(drafts: tuple[str, ...]) -> None:
    """No value is allowed that the suite calls wrong, few are not that it calls right, and what is written fits."""
    here, rng = writer(SMALL), random.Random(drafts[0])
    taken, refused, wrong, narrower, right = 0, 0, [], 0, 0
    for draft, case in schema_suite.different(drafts):
        matcher = here.tried(case.schema)
        if isinstance(matcher, InvalidRequest):
            assert matcher.param == "response_format"
            assert ": #" in matcher.message
            refused += 1
            continue
        taken += 1
        for value, is_valid in case.values:
            text = json.dumps(value, ensure_ascii=False)
            is_allowed = here.accepts(here.matcher("json_schema", case.schema), text)
            if is_allowed and not is_valid:
                wrong.append((case.name, value))
            right += is_valid
            narrower += is_valid and not is_allowed
        text, is_complete = here.write(matcher, rng, longest=25)
        if is_complete:
            assert fits(case.schema, text, draft), (case.name, text)
    assert not wrong
    assert taken > 2.5 * refused
    assert narrower < right / 8


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
    here, rng, whole = writer(SMALL), random.Random(1), 0
    for _ in range(12):
        text, is_complete = here.write(here.matcher("json_schema", schema), rng, longest=80)
        if is_complete:
            assert fits(schema, text), text
            whole += 1
    assert whole >= 10


@pytest.mark.parametrize(
    ("schema", "where"),
    [
        ({"properties": {"a": {"pattern": r"^(.)\1"}}}, "#/properties/a/pattern"),
        ({"properties": {"a": {"pattern": r"\p{Nothing}"}}}, "#/properties/a/pattern"),
        ({"items": {"$ref": "#/nowhere"}}, "#/items/$ref"),
        ({"anyOf": [{"format": "iri"}]}, "#/anyOf/0/format"),
        ({"$defs": {"a/b": {"type": "nonsense"}}, "$ref": "#/$defs/a~1b"}, "#/$ref/type"),
        ({"allOf": [{"minimum": 10**20}]}, "#/allOf/0/minimum"),
        ({"minLength": -1}, "#/minLength"),
        ({"minLength": "2"}, "#/minLength"),
        ({"required": "a"}, "#/required"),
        ({"properties": {"a": {"type": "string", "required": True}}}, "#/properties/a/required"),
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
    for check in (check_constraint, writer(SMALL).constraints.matcher):
        with pytest.raises(InvalidRequest) as caught:
            check(Constraint("json_schema", json.dumps(schema)))
        assert caught.value.param == "response_format"
        assert caught.value.code == "bad_schema"
        assert f" {where}: " in caught.value.message


@pytest.mark.parametrize("source", ["", "{", "nul", "NaN", '{"minimum": 1e999}', "[" * 100_000, '{"items":' * 5_000])
def test_what_is_no_schema_is_refused(source: str) -> None:
    with pytest.raises(InvalidRequest):
        writer(SMALL).constraints.matcher(Constraint("json_schema", source))


@pytest.mark.parametrize(
    ("pattern", "right", "wrong"),
    [
        (False, ['{"b": 1}', "{}"], ['{"a": null}']),
        ({"const": 2}, ['{"b": 1}'], ['{"a": null}']),
        (True, ['{"a": null}'], []),
    ],
)
def test_a_property_keeps_to_the_patterns_of_its_name_where_properties_are_counted(
    pattern: Any, right: list[str], wrong: list[str]
) -> None:
    named = {"a": {"type": "null"}, "b": {"type": "integer"}}
    schema = {"type": "object", "properties": named, "patternProperties": {"^a": pattern}, "maxProperties": 1}
    for text in right:
        assert writer(SMALL).accepts(writer(SMALL).matcher("json_schema", schema), text)
    for text in wrong:
        assert not writer(SMALL).accepts(writer(SMALL).matcher("json_schema", schema), text)


def test_a_client_cannot_set_the_library_s_options() -> None:
    schema = {"type": "string", "format": "iri", "x-guidance": {"lenient": True}}
    with pytest.raises(InvalidRequest):
        writer(SMALL).matcher("json_schema", schema)
    loose = {**OBJECT, "x-guidance": {"whitespace_pattern": "x+", "item_separator": ";"}}
    assert not writer(SMALL).accepts(writer(SMALL).matcher("json_schema", loose), '{"a":1x}')
    assert writer(SMALL).accepts(writer(SMALL).matcher("json_schema", loose), '{"a": 1}')


OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.mark.parametrize(
    "text",
    ['{"a":1,"a":2}', '{"b":1,"b":2}', '{"\\u0061":1}', '{"b":{"c":1,"c":1}}', '{"é":1,"\\u00e9":1}'],
)
def test_no_name_is_written_twice(text: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": True}
    assert not writer(SMALL).accepts(writer(SMALL).matcher("json_schema", schema), text)


TEXT = {"type": "string"}
OPEN = {"type": "object", "properties": {"é": {"type": "integer"}}, "additionalProperties": TEXT}
UNIQUE = {"type": "array", "items": TEXT, "uniqueItems": True}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (TEXT, r'"\u00e9t\u00E9 \u4e2d\u001b[0m \u0022\u005c\u000a\n\u007f"'),
        (TEXT, r'"\ud83d\ude00\uD83D\uDE00"'),
        ({}, r'{"\u00e9": ["\u0061"]}'),
        ({**TEXT, "minLength": 2, "maxLength": 2}, r'"\ud83d\ude00\u0061"'),
        ({"enum": ["\x01\x7f"]}, r'"\u0001\u007F"'),
        (OPEN, r'{"\u00e8": "\u00e9", "\u00c9": ""}'),
        (UNIQUE, r'["\u00e9", "\u00e8", "e", "\ud83d\ude00", "\ud83d\ude01"]'),
        ({**UNIQUE, "items": {"enum": ["\x01", "\x7f"]}}, r'["\u0001", "\u007F"]'),
    ],
)
def test_any_character_may_be_escaped(schema: Any, text: str) -> None:
    assert fits(schema, text)
    assert writer(SMALL).accepts(writer(SMALL).matcher("json_schema", schema), text)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        # Half a surrogate pair.
        (TEXT, r'"\ud83d"'),
        (TEXT, r'"\ude00"'),
        (TEXT, r'"\ud83d\u0061"'),
        (TEXT, r'"\ude00\ud83d"'),
        (TEXT, r'"\u00g0"'),
        # What a schema says of the text.
        ({**TEXT, "maxLength": 1}, r'"\u0061\u0061"'),
        ({**TEXT, "minLength": 2}, r'"\ud83d\ude00"'),
        ({**TEXT, "pattern": "^[b-z]*$"}, r'"\u0061"'),
        ({**TEXT, "format": "date"}, r'"\u0061"'),
        ({"enum": ["b"]}, r'"\u0061"'),
        ({"const": {"b": 1}}, r'{"\u0061": 1}'),
        ({"not": {"const": "a"}}, r'"\u0061"'),
        # A declared name is no further one, and no name comes twice.
        (OPEN, r'{"\u00e9": "x"}'),
        ({**OPEN, "properties": {"\n": {"type": "integer"}}}, r'{"\u000a": "x"}'),
        ({"type": "object", "required": ["é"], "additionalProperties": TEXT}, r'{"\u00e9": 1}'),
        (OPEN, r'{"\u00e8": "x", "è": "y"}'),
        (OPEN, r'{"è": "x", "\u00e8": "y"}'),
        (OPEN, r'{"\u00e8": "x", "\u00E8": "y"}'),
        ({"type": "object", "patternProperties": {"^a": {"type": "integer"}}}, r'{"\u0061b": "x"}'),
        ({"type": "object", "propertyNames": {"pattern": "^[b-z]*$"}}, r'{"\u0061": 1}'),
        # No item comes twice.
        (UNIQUE, r'["é", "\u00e9"]'),
        (UNIQUE, r'["\u00e9", "é"]'),
        (UNIQUE, r'["\ud83d\ude00", "\U0001f600"]'.replace(r"\U0001f600", "\U0001f600")),
        ({**UNIQUE, "items": {}}, r'[{"a": "\u0061"}, {"\u0061": "a"}]'),
    ],
)
def test_what_is_escaped_is_held_to_the_schema(schema: Any, text: str) -> None:
    assert not writer(SMALL).accepts(writer(SMALL).matcher("json_schema", schema), text)


@pytest.mark.parametrize("schema", [OPEN, UNIQUE, {**UNIQUE, "items": {"additionalProperties": UNIQUE}}])
def test_the_mask_lets_no_repetition_through(schema: Any) -> None:
    """The check, which sees the whole token, allows what the mask does, in texts of escapes and repetitions."""
    here, rng = writer(SMALL), random.Random(str(schema))
    telling = np.array([b'"' in piece or b"," in piece or b"}" in piece for piece in here.pieces])
    for _ in range(6):
        matcher = here.matcher("json_schema", schema)
        logits = np.zeros(here.vocabulary.size, np.float32)
        for _ in range(40):
            logits[:] = 0
            matcher.mask(logits)
            some = np.flatnonzero((logits == 0) & telling).tolist()
            for token in rng.sample(some, min(40, len(some))):
                assert matcher.allows(token), here.pieces[token]
            pushed = [token for token in here.pushed if logits[token] == 0]
            if matcher.is_over or not pushed:
                break
            matcher.accept(rng.choice(pushed))


@pytest.mark.parametrize("begun", ["{", '{"', '{"a\\', '{"a\\u', '{"a\\u00', '{"\\u000a', '{"b": "x", "\\u001'])
def test_the_mask_lets_no_needless_escape_of_a_name_through(begun: str) -> None:
    """A pattern is for names as they are, so that a name must not be written by escapes that it does not need."""
    here = writer(SMALL)
    matcher = here.matcher("json_schema", {"type": "object", "patternProperties": {"": TEXT}})
    assert not here.accepts(matcher, begun)
    logits = np.zeros(here.vocabulary.size, np.float32)
    matcher.mask(logits)
    some = np.flatnonzero(logits == 0).astype(np.int32)
    assert len(some)
    assert [here.pieces[token] for token in some[~matcher._grammar.allowed(some)]] == []


def test_white_space_comes_to_an_end() -> None:
    for text, is_fine in (
        ('{"a": 1}', True),
        ('{\n  "a": 1\n}', True),
        ('{"a":' + " " * 80 + "1}", False),
        (' {"a":1}', False),
    ):
        assert writer(SMALL).accepts(writer(SMALL).matcher("json_schema", OBJECT), text) == is_fine


def _doubled(keyword: str, leaf: dict[str, Any]) -> dict[str, Any]:
    """26 definitions, each of which names the next one twice: 2^26 ways lead to the last one."""
    steps = {f"d{n}": {keyword: [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(26)}
    return {"$ref": "#/$defs/d0", "$defs": {**steps, "d26": leaf}}


@pytest.mark.parametrize(
    "beside", [{}, {"properties": {"b": {}}}, {"unevaluatedProperties": False}, {"not": {"type": "null"}}]
)
@pytest.mark.parametrize("keyword", ["allOf", "anyOf"])
def test_references_of_many_ways_are_read_in_time(keyword: str, beside: dict[str, Any]) -> None:
    started = time.monotonic()
    writer(SMALL).tried({**_doubled(keyword, OBJECT), **beside})
    assert time.monotonic() - started < 5


def test_an_object_may_have_a_thousand_optional_properties() -> None:
    schema = {"type": "object", "properties": {f"name{n}": {"type": "integer"} for n in range(1000)}}
    for text in ("{}", '{"name7":1,"name999":2}'):
        assert writer(SMALL).accepts(writer(SMALL).matcher("json_schema", schema), text)


def test_alternatives_of_values_may_be_many() -> None:
    schema = {"oneOf": [*({"const": f"v{n}", "title": "a value"} for n in range(2000)), {"enum": [1, 2]}]}
    for text, is_fine in (('"v1999"', True), ("2", True), ('"v2000"', False)):
        assert writer(SMALL).accepts(writer(SMALL).matcher("json_schema", schema), text) == is_fine


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, "-5", "1.5"),
        ({"type": "integer", "minimum": 0, "maximum": 2**64 - 1}, "9007199254740992", "-1"),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1.7976931348623157e308}, "0.5", "0"),
    ],
)
def test_bounds_of_machine_numbers_are_kept(schema: Any, good: str, bad: str) -> None:
    for text, is_fine in ((good, True), (bad, False)):
        assert writer(SMALL).accepts(writer(SMALL).matcher("json_schema", schema), text) == is_fine
