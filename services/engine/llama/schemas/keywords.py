"""The keywords of JSON Schema's drafts 4 to 2020-12, and the checks of their values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from services.engine.llama.schemas.errors import SchemaError, inside

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
OBJECT_KEYWORDS: tuple[str, ...] = (
    "properties",
    "patternProperties",
    "additionalProperties",
    "required",
    "minProperties",
    "maxProperties",
)
OBJECT_KEYWORDS += ("propertyNames", "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties")
ARRAY_KEYWORDS: tuple[str, ...] = (
    "items",
    "prefixItems",
    "additionalItems",
    "minItems",
    "maxItems",
    "contains",
    "minContains",
    "maxContains",
)
ARRAY_KEYWORDS += ("uniqueItems", "unevaluatedItems")
KEYWORDS = {*OBJECT_KEYWORDS, *ARRAY_KEYWORDS, "type", "enum", "const", "nullable", "$ref", "$dynamicRef", "$recursiveRef"}
KEYWORDS |= {"allOf", "anyOf", "oneOf", "not", "if", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
KEYWORDS |= {"multipleOf", "minLength", "maxLength", "pattern", "format"}
"""The keywords that say which values fit; every other one is a remark (2020-12, Core, section 4.3.1)."""
# Greater numbers lose digits in a 64-bit float, which is what the grammar's bounds are.
LARGEST_NUMBER = 2**53
# The grammar holds multiples as 32-bit integers and a power of ten.
LARGEST_MULTIPLE = 2**32 - 1
MOST_DIGITS = 9
LARGEST_COUNT = 1_000_000
MOST_ITEMS = 10_000


def types_of(schema: Mapping[str, Any], where: str) -> list[str] | None:
    """Return the types that a schema names, "integer" left out beside "number"; None if it names none.

    Raises SchemaError for what is no type.
    """
    if "type" not in schema:
        return None
    given = schema["type"]
    names = given if isinstance(given, list) else [given]
    for name in names:
        if name not in TYPES:
            raise SchemaError(inside(where, "type"), f"{name!r} is no type")
    if not names:
        raise SchemaError(inside(where, "type"), "nothing fits an empty list of types")
    return [name for n, name in enumerate(names) if name not in names[:n] and (name != "integer" or "number" not in names)]


def count(schema: Mapping[str, Any], keyword: str, where: str, most: int = LARGEST_COUNT) -> int | None:
    """Return the value of a keyword that counts something; None if it is absent. Raises SchemaError."""
    if keyword not in schema:
        return None
    value = number(schema, keyword, where)
    if value is None or value < 0 or value != int(value):
        raise SchemaError(inside(where, keyword), "it should be a whole number, 0 or more")
    if value > most:
        raise SchemaError(inside(where, keyword), f"it is {int(value)}, and {most} is the most that can be kept to")
    return int(value)


def number(schema: Mapping[str, Any], keyword: str, where: str) -> int | float | None:
    """Return the value of a keyword that is a number; None if it is absent. Raises SchemaError."""
    if keyword not in schema:
        return None
    return checked_number(schema[keyword], inside(where, keyword))


def checked_number(value: Any, where: str) -> int | float:
    """Return a number that the grammar can hold. Raises SchemaError if it is none, or too large."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SchemaError(where, "it should be a number")
    if abs(value) > LARGEST_NUMBER:
        raise SchemaError(where, f"numbers beyond {LARGEST_NUMBER} cannot be kept to")
    return int(value) if value == int(value) else value


def names(schema: Mapping[str, Any], keyword: str, where: str) -> list[str]:
    """Return the value of a keyword that is a list of names; [] if it is absent. Raises SchemaError."""
    return checked_names(schema.get(keyword, []), inside(where, keyword))


def checked_names(value: Any, where: str) -> list[str]:
    """Return a list of texts. Raises SchemaError if it is none."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise SchemaError(where, "it should be a list of names")
    return value


def mapping(schema: Mapping[str, Any], keyword: str, where: str) -> Mapping[str, Any]:
    """Return the value of a keyword that is an object; {} if it is absent. Raises SchemaError."""
    value = schema.get(keyword, {})
    if not isinstance(value, Mapping):
        raise SchemaError(inside(where, keyword), "it should be an object")
    return value


def listed(schema: Mapping[str, Any], keyword: str, where: str) -> list[Any]:
    """Return the value of a keyword that is a list; [] if it is absent. Raises SchemaError."""
    value = schema.get(keyword, [])
    if not isinstance(value, list):
        raise SchemaError(inside(where, keyword), "it should be a list")
    return value


def type_of(value: Any) -> str:
    """Return the JSON type of a value; "number" for integers too."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def key_of(value: Any) -> str:
    """Return a text that is the same for equal JSON values only: 1 and 1.0 are equal, 1 and true are not."""
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def is_equal(one: Any, other: Any) -> bool:
    """Return whether two JSON values are equal."""
    return key_of(one) == key_of(other)
