"""Values without quotes become JSON by the tool's schema."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.replies.formats.literals import GEMMA, PYTHON, as_json
from services.replies.formats.values import types_of, value_json

_SCHEMA: dict[str, Any] = {
    "properties": {
        "text": {"type": "string"},
        "number": {"type": "integer"},
        "ratio": {"type": "number"},
        "on": {"type": "boolean"},
        "some": {"type": ["string", "null"]},
        "either": {"anyOf": [{"type": "string"}, {"type": "object"}]},
        "pointed": {"$ref": "#/$defs/a~1b"},
        "chosen": {"enum": ["1", "2"]},
        "mixed": {"enum": ["a", 1]},
        "both": {"allOf": [{"type": ["string", "integer"]}, {"type": ["integer", "null"]}]},
        "list": {"type": "array"},
        "loop": {"$ref": "#/properties/loop"},
        "any": {},
    },
    "$defs": {"a/b": {"type": "integer"}},
}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("text", "75001", '"75001"'),
        ("text", '"quoted"', '"\\"quoted\\""'),
        ("text", "", '""'),
        ("text", " two\nlines ", '" two\\nlines "'),
        ("number", "1e999", "1e999"),
        ("number", " 7 ", "7"),
        ("number", "seven", '"seven"'),
        ("number", "007", "7"),
        ("ratio", "3", "3"),
        ("on", "True", "true"),
        ("on", "true", "true"),
        ("some", "null", "null"),
        ("some", "None", "null"),
        ("some", "nullable", '"nullable"'),
        ("some", "7", '"7"'),
        ("either", '{"a": 1}', '{"a": 1}'),
        ("either", "{'a': None}", '{"a": null}'),
        ("either", "{a", '"{a"'),
        ("pointed", "3", "3"),
        ("chosen", "1", '"1"'),
        ("mixed", "1", "1"),
        ("both", "5", "5"),
        ("list", "[1, 'two', (3,)]", '[1, "two", [3]]'),
        ("list", '["a\n"]', '["a\\n"]'),
        ("loop", "3", "3"),
        ("any", "3", "3"),
        ("any", "three", '"three"'),
        ("any", '"three"', '"three"'),
        ("unknown", "NaN", '"NaN"'),
        ("unknown", '{"a": 1, "a": 2}', '{"a": 1, "a": 2}'),
    ],
)
def test_a_value_by_its_schema(name: str, text: str, expected: str) -> None:
    assert value_json(text, types_of(_SCHEMA, name)) == expected


@settings(deadline=None)
@given(st.sampled_from([*_SCHEMA["properties"], "unknown"]), st.text(max_size=40))
def test_any_text_becomes_json(name: str, text: str) -> None:
    json.loads(value_json(text, types_of(_SCHEMA, name)))


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(_PLAIN)
def test_pythons_literals_become_json(value: Any) -> None:
    found = as_json(repr(value), PYTHON)
    assert found is not None
    assert json.loads(found) == value


@settings(deadline=None)
@given(_PLAIN)
def test_json_stays_json(value: Any) -> None:
    found = as_json(json.dumps(value), PYTHON)
    assert found is not None
    assert json.loads(found) == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{theme:<|"|>da"rk\\n<|"|>,count:3}', {"theme": 'da"rk\\n', "count": 3}),
        ("[true,null,-1.5e3,word]", [True, None, -1500.0, "word"]),
        ('{<|"|>a b<|"|>:{}}', {"a b": {}}),
    ],
)
def test_gemmas_values_become_json(text: str, expected: Any) -> None:
    found = as_json(text, GEMMA)
    assert found is not None
    assert json.loads(found) == expected


@pytest.mark.parametrize("text", ["[1", "{'a'", "f(1)", "1 2 [", "{1, 2}", "'a", "[" * 100, ""])
def test_what_is_no_literal_is_none(text: str) -> None:
    assert as_json(text, PYTHON) is None
