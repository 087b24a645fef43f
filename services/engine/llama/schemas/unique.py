"""`uniqueItems`: which items an array may have, so that a text in which no two are equal always comes to an end."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from services.engine.llama.schemas.errors import SchemaError

# The most integers between two bounds that are written out.
MOST_NUMBERS = 1_000


@dataclass(frozen=True)
class Domain:
    """The items of an array: the JSON texts of those that can be listed, and the kinds of which there may be any others."""

    texts: tuple[bytes, ...] = ()
    strings: bool = False
    numbers: bool = False
    containers: bool = False

    def __or__(self, other: Domain) -> Domain:
        return Domain(
            tuple(dict.fromkeys(self.texts + other.texts)),
            self.strings or other.strings,
            self.numbers or other.numbers,
            self.containers or other.containers,
        )

    @property
    def is_listed(self) -> bool:
        """True if `texts` are all."""
        return not (self.strings or self.numbers or self.containers)


_LITERALS = (b"null", b"true", b"false")
_ANY = Domain(_LITERALS, strings=True, numbers=True, containers=True)


def check_unique(schema: dict[str, Any]) -> None:
    """Raise SchemaError for a `uniqueItems` (whose value is its place) in a simplified schema that nothing fits."""
    for node in nodes_of(schema):
        if "uniqueItems" in node and "prefixItems" not in node:
            found = domain_of(node.get("items", True), schema["$defs"])
            if found.is_listed and node.get("minItems", 0) > len(found.texts):
                raise SchemaError(
                    node["uniqueItems"], f"there are only {len(found.texts)} different items: nothing fits it"
                )


def domain_of(items: Any, definitions: Mapping[str, Any], depth: int = 0) -> Domain:
    """Return the items that fit a simplified schema."""
    if isinstance(items, bool):
        return _ANY if items else Domain()
    if depth > _DEEPEST or len(items.get("allOf", ())) > 1 or ("allOf" in items and set(items) - {"allOf", "type"}):
        return _ANY
    if "$ref" in items:
        return domain_of(definitions[items["$ref"].rpartition("/")[2]], definitions, depth + 1)
    if "allOf" in items:
        return domain_of(items["allOf"][0], definitions, depth + 1)
    if "anyOf" in items:
        found = Domain()
        for each in items["anyOf"]:
            found |= domain_of(each, definitions, depth + 1)
        return found
    if "enum" in items:
        return _of_values(items["enum"])
    return _of_types(items)


_DEEPEST = 32


def _of_values(values: list[Any]) -> Domain:
    if any(isinstance(value, list | dict | float) for value in values):
        return Domain(_LITERALS, any(isinstance(value, str) for value in values), numbers=True, containers=True)
    return Domain(tuple(json.dumps(value, ensure_ascii=False).encode() for value in values))


def _of_types(items: Mapping[str, Any]) -> Domain:
    types = items.get("type")
    if types is None:
        return _ANY
    found = Domain()
    for name in types if isinstance(types, list) else [types]:
        if name in ("integer", "number"):
            found |= _numbers(items, name)
        else:
            found |= _BY_TYPE[name]
    return found


_BY_TYPE = {
    "null": Domain((b"null",)),
    "boolean": Domain((b"true", b"false")),
    "string": Domain(strings=True),
    "array": Domain(containers=True),
    "object": Domain(containers=True),
}


def _numbers(items: Mapping[str, Any], name: str) -> Domain:
    low, high = _bound(items, "minimum", "exclusiveMinimum", max), _bound(items, "maximum", "exclusiveMaximum", min)
    if high is None or low is None or name == "number":
        return Domain(numbers=True)
    first = math.floor(low) + 1 if low == items.get("exclusiveMinimum") else math.ceil(low)
    last = math.ceil(high) - 1 if high == items.get("exclusiveMaximum") else math.floor(high)
    if last - first >= MOST_NUMBERS:
        return Domain(numbers=True)
    step = items.get("multipleOf", 1)
    return Domain(tuple(str(number).encode() for number in range(first, last + 1) if number % step == 0))


def _bound(items: Mapping[str, Any], keyword: str, exclusive: str, narrower: Any) -> float | None:
    given = [items[name] for name in (keyword, exclusive) if name in items]
    return narrower(given) if given else None


def nodes_of(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield each schema within a simplified schema."""
    if not isinstance(schema, dict):
        return
    yield schema
    for keyword in ("properties", "patternProperties", "$defs"):
        for each in schema.get(keyword, {}).values():
            yield from nodes_of(each)
    for keyword in ("allOf", "anyOf", "prefixItems"):
        for each in schema.get(keyword, ()):
            yield from nodes_of(each)
    for keyword in ("items", "additionalProperties"):
        yield from nodes_of(schema.get(keyword))
