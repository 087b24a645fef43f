"""The keywords of arrays, in the form that llguidance keeps to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.engine.llama.schemas.errors import SchemaError, inside
from services.engine.llama.schemas.keywords import ARRAY_KEYWORDS, MOST_ITEMS, count, listed
from services.engine.llama.schemas.mode import Mode, Subschemas


def plain(
    simplifier: Subschemas, schema: Mapping[str, Any], types: list[str] | None, where: str, base: str, mode: Mode
) -> dict[str, Any]:
    """Return the array keywords of a schema. Raises SchemaError."""
    if not any(keyword in schema for keyword in ARRAY_KEYWORDS) or (types is not None and "array" not in types):
        return {}
    # The schemas of the items and of `contains` hold for the same item, so neither may close the other's objects.
    inner: Mode = "open" if mode == "open" or "contains" in schema else "whole"
    first, rest = _items(simplifier, schema, where, base, inner)
    least, most = count(schema, "minItems", where, MOST_ITEMS) or 0, count(schema, "maxItems", where, MOST_ITEMS)
    if most is not None and least > most:
        raise SchemaError(inside(where, "minItems"), "it is more than maxItems: nothing fits that")
    if "contains" in schema:
        first, least = _contains(simplifier, schema, where, base, first, rest, least, most)
    kept: dict[str, Any] = {}
    if first:
        kept["prefixItems"] = first
    if rest is not True:
        kept["items"] = rest
    if least:
        kept["minItems"] = least
    if most is not None:
        kept["maxItems"] = most
    if _is_unique(schema, where) and (most is None or most > 1):
        # Its place, for what is found out about the items later.
        kept["uniqueItems"] = inside(where, "uniqueItems")
    return kept


def _items(simplifier: Subschemas, schema: Mapping[str, Any], where: str, base: str, mode: Mode) -> tuple[list[Any], Any]:
    """The schemas of the first items, and the one of all others."""
    if isinstance(schema.get("items"), list):
        first, keyword, rest = "items", "additionalItems", schema.get("additionalItems", True)
    else:
        first, keyword, rest = "prefixItems", "items", schema.get("items", True)
    if "unevaluatedItems" in schema and keyword not in schema:
        if any(name in schema for name in ("allOf", "anyOf", "oneOf", "if", "$ref", "contains", "dependentSchemas")):
            raise SchemaError(inside(where, "unevaluatedItems"), "beside other schemas of the array it cannot be kept to")
        keyword, rest = "unevaluatedItems", schema["unevaluatedItems"]
    return [
        simplifier.schema(each, inside(where, first, n), base, mode) for n, each in enumerate(listed(schema, first, where))
    ], simplifier.schema(rest, inside(where, keyword), base, mode)


def _contains(
    simplifier: Subschemas,
    schema: Mapping[str, Any],
    where: str,
    base: str,
    first: list[Any],
    rest: Any,
    least: int,
    most: int | None,
) -> tuple[list[Any], int]:
    """`contains`: the items that it asks for come first, behind those that have schemas of their own."""
    wanted = count(schema, "minContains", where, MOST_ITEMS)
    limit = count(schema, "maxContains", where, MOST_ITEMS)
    wanted = 1 if wanted is None else wanted
    if limit is not None and (most is None or most > limit):
        raise SchemaError(inside(where, "maxContains"), "it cannot be kept to where maxItems is more, or absent")
    if not wanted:
        return first, least
    here = inside(where, "contains")
    item = simplifier.schema(schema["contains"], here, base, "open")
    if most is not None and most < wanted:
        raise SchemaError(here, "maxItems is less than what it asks for: nothing fits that")
    begin = len(first) if most is None or len(first) + wanted <= most else most - wanted
    ahead = first + [rest] * (begin + wanted - len(first))
    first = [*ahead[:begin], *({"allOf": [each, item]} for each in ahead[begin : begin + wanted]), *ahead[begin + wanted :]]
    return first, max(least, begin + wanted)


def _is_unique(schema: Mapping[str, Any], where: str) -> bool:
    value = schema.get("uniqueItems", False)
    if not isinstance(value, bool):
        raise SchemaError(inside(where, "uniqueItems"), "it should be true or false")
    return value
