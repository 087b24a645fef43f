"""JSON schemas as serializers write them that put null for each keyword that is not set."""

from __future__ import annotations

from typing import Any

# Keywords whose value is any JSON, null among them; and those whose members are schemas by names of their own.
_VALUES = ("const", "enum", "default", "example", "examples")
_NAMED = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")


def without_nulls(schema: Any) -> Any:
    """Return a schema without the keywords that are null."""
    if isinstance(schema, list):
        return [without_nulls(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: _kept(name, value)
        for name, value in schema.items()
        # A null is a value of its own where any JSON may stand, but no list of values.
        if value is not None or (name in _VALUES and name not in ("enum", "examples"))
    }


def _kept(name: str, value: Any) -> Any:
    if name in _VALUES:
        return value
    if name in _NAMED and isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items()}
    return without_nulls(value)
