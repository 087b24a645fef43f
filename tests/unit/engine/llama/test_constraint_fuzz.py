"""JSON schemas of all kinds, kept to by a writer that takes any token that is allowed."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.errors import InvalidRequest
from tests.support.walks import SMALL, fits, writer

NAMES = st.sampled_from(["a", "b", "c", "ab", "x-y", "é", 'q"', "$ref", "uniqueItems"])
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-20, 20), st.sampled_from([0.5, -2.25, 3.0]), st.text('abé"\\\n', max_size=3)
)
BOUNDS = st.one_of(st.integers(-9, 9), st.sampled_from([-2.5, 0.25, 7.75]))
COUNTS = st.integers(0, 4)
PATTERNS = st.sampled_from(
    [
        "^a",
        "b$",
        "^[a-c]{1,3}$",
        "^\\d+$",
        "x|^y",
        "^(a|b)*$",
        "[^a]",
        "^\\w+@\\w+\\.com$",
        "^.{2}$",
        "",
        "^\\s?\\S$",
        "\\W",
    ]
)
FORMATS = st.sampled_from(["date", "time", "date-time", "uuid", "ipv4", "ipv6", "email", "duration", "uri", "made-up"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2), max_leaves=3
)
TYPES = ["null", "boolean", "integer", "number", "string", "array", "object"]


def keywords(**kinds: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=kinds)


def with_inner(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    objects = keywords(
        properties=st.dictionaries(NAMES, inner, max_size=3),
        required=st.lists(NAMES, unique=True, max_size=2),
        additionalProperties=inner,
        # The jsonschema package takes "" for no pattern where `additionalProperties` stands beside it.
        patternProperties=st.dictionaries(PATTERNS.map(lambda pattern: pattern or "^"), inner, max_size=1),
        propertyNames=st.sampled_from([{"pattern": "^[a-z]+$"}, {"enum": ["a", "b"]}, {"maxLength": 2}]),
        minProperties=st.integers(0, 2),
        maxProperties=st.integers(0, 4),
        dependentRequired=st.dictionaries(NAMES, st.lists(NAMES, unique=True, max_size=2), max_size=1),
        unevaluatedProperties=st.booleans(),
    )
    arrays = keywords(
        items=inner,
        prefixItems=st.lists(inner, min_size=1, max_size=2),
        contains=inner,
        minItems=COUNTS,
        maxItems=st.integers(0, 5),
        uniqueItems=st.booleans(),
    )
    parts = keywords(
        allOf=st.lists(inner, min_size=1, max_size=2),
        anyOf=st.lists(inner, min_size=1, max_size=3),
        oneOf=st.lists(inner, min_size=1, max_size=3),
        **{"not": inner, "if": inner, "then": inner, "else": inner},
    )
    some = st.one_of(objects, arrays, parts, st.tuples(objects, parts).map(lambda two: two[0] | two[1]))
    return st.tuples(some, st.sampled_from([{}, {"type": "object"}, {"type": ["array", "object", "string"]}])).map(
        lambda two: two[1] | two[0]
    )


NUMBERS = keywords(
    minimum=BOUNDS,
    maximum=BOUNDS,
    exclusiveMinimum=BOUNDS,
    exclusiveMaximum=BOUNDS,
    multipleOf=st.sampled_from([2, 3, 0.5]),
)
STRINGS = keywords(minLength=COUNTS, maxLength=st.integers(0, 40), pattern=PATTERNS, format=FORMATS)
LEAVES = st.one_of(
    st.booleans(),
    st.sampled_from(TYPES).map(lambda name: {"type": name}),
    st.lists(st.sampled_from(TYPES), min_size=1, max_size=3, unique=True).map(lambda names: {"type": names}),
    NUMBERS.map(lambda more: {"type": "number", **more}),
    NUMBERS.map(lambda more: {"type": "integer", **more}),
    NUMBERS,
    STRINGS.map(lambda more: {"type": "string", **more}),
    STRINGS,
    VALUES.map(lambda value: {"const": value}),
    st.lists(VALUES, min_size=1, max_size=4).map(lambda values: {"enum": values}),
    st.just({"$ref": "#/$defs/leaf"}),
    st.just({"$ref": "#"}),
)
SCHEMAS = st.tuples(
    st.recursive(LEAVES, with_inner, max_leaves=6).filter(lambda schema: isinstance(schema, dict)),
    st.sampled_from(
        [{"type": "integer"}, {"type": "object", "properties": {"a": {"$ref": "#/$defs/leaf"}}}, {"const": "é"}]
    ),
).map(lambda two: {**two[0], "$defs": {"leaf": two[1]}})

kept, refused = 0, 0


@settings(max_examples=450, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(SCHEMAS, VALUES, st.integers(0, 2**32))
def test_what_is_written_fits_every_schema_that_is_taken(schema: dict[str, Any], other: Any, seed: int) -> None:
    global kept, refused
    here, rng = writer(SMALL), random.Random(seed)
    matcher = here.tried(schema)
    if isinstance(matcher, InvalidRequest):
        assert matcher.param == "response_format"
        assert ": #" in matcher.message
        refused += 1
        return
    kept += 1
    text, is_complete = here.write(matcher, rng, longest=50)
    assert matcher.is_complete == is_complete
    if is_complete:
        assert fits(schema, text), text
    # A value that is changed is allowed only if it fits, too.
    value = changed(json.loads(text), other, rng) if is_complete else other
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    if here.accepts(here.matcher("json_schema", schema), text):
        assert fits(schema, text), text


def test_most_schemas_are_taken() -> None:
    if kept + refused < 300:
        pytest.skip("the schemas were not generated in this process")
    assert kept > refused, (kept, refused)


def changed(value: Any, other: Any, rng: random.Random) -> Any:
    """A value with one of its parts replaced, added or left out."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(list(value))
        kept = {key: each for key, each in value.items() if key != name}
        return rng.choice([kept, {**value, "new": other}, {**value, name: changed(value[name], other, rng)}])
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return rng.choice([value[:at], [*value, other], [*value, value[at]], [changed(each, other, rng) for each in value]])
    return other
