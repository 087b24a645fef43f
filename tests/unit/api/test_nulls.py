"""Schemas of serializers that write null for what is not set."""

from __future__ import annotations

from services.api.http.nulls import without_nulls


def test_keywords_that_are_null_are_left_out_and_values_stay() -> None:
    schema = {
        "type": "object",
        "required": None,
        "additionalProperties": None,
        "properties": {
            "pattern": {"type": "string", "pattern": None, "enum": None, "default": None},
            "one": {"const": None, "anyOf": [{"enum": [None, 1], "minimum": None}], "items": {"type": None}},
        },
    }
    assert without_nulls(schema) == {
        "type": "object",
        "properties": {
            "pattern": {"type": "string", "default": None},
            "one": {"const": None, "anyOf": [{"enum": [None, 1]}], "items": {}},
        },
    }
    # A schema that is null is a fault, which is told.
    assert without_nulls({"properties": {"a": None}}) == {"properties": {"a": None}}
