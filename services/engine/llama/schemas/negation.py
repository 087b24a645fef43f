"""The opposite of a JSON schema, for `not`, `if` and `oneOf`: every value that fits the one does not fit the other.

The opposite may be narrower than it has to be, where a value would be hard to describe; it is never wider.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from services.engine.llama.schemas.errors import SchemaError, inside
from services.engine.llama.schemas.keywords import TYPES, checked_names, count, listed, mapping, number, type_of, types_of
from services.engine.llama.schemas.references import References
from services.engine.llama.schemas.scalars import Whole, check_literal, not_pattern
from services.patterns.effort import Effort
from services.patterns.patterns import other_than

# How many references deep an opposite is followed: an endless schema has none.
_DEEPEST = 32


class Negation:
    """Finds the opposites of one document's schemas, written as JSON schemas themselves."""

    def __init__(self, references: References, effort: Effort) -> None:
        self._references = references
        self._effort = effort
        self._rules: dict[str, Callable[[Mapping[str, Any], str], Iterator[Any]]] = {
            "type": _not_type,
            "const": lambda schema, where: _not_values([schema["const"]], inside(where, "const")),
            "enum": lambda schema, where: _not_values(listed(schema, "enum", where), inside(where, "enum")),
            "minimum": lambda schema, where: _bound(schema, "minimum", "exclusiveMaximum", where),
            "maximum": lambda schema, where: _bound(schema, "maximum", "exclusiveMinimum", where),
            "exclusiveMinimum": lambda schema, where: _bound(schema, "exclusiveMinimum", "maximum", where),
            "exclusiveMaximum": lambda schema, where: _bound(schema, "exclusiveMaximum", "minimum", where),
            "minLength": lambda schema, where: _fewer(schema, "minLength", "maxLength", "string", where),
            "maxLength": lambda schema, where: _more(schema, "maxLength", "minLength", "string", where),
            "minItems": lambda schema, where: _fewer(schema, "minItems", "maxItems", "array", where),
            "maxItems": lambda schema, where: _more(schema, "maxItems", "minItems", "array", where),
            "minProperties": lambda schema, where: _fewer(schema, "minProperties", "maxProperties", "object", where),
            "maxProperties": lambda schema, where: _more(schema, "maxProperties", "minProperties", "object", where),
            "required": _not_required,
            "pattern": self._not_pattern,
        }

    def of(self, schema: Any, where: str, base: str, depth: int = 0) -> Any:
        """Return the opposite of a schema. Raises SchemaError, naming the keyword that has none."""
        if isinstance(schema, bool):
            return not schema
        if not isinstance(schema, Mapping):
            raise SchemaError(where, "a schema should be an object, true or false")
        if depth > _DEEPEST:
            raise SchemaError(where, "its opposite refers to itself")
        options: list[Any] = []
        for keyword in schema:
            if keyword in self._rules:
                options += self._rules[keyword](schema, where)
            else:
                options += self._inner(schema, keyword, where, base, depth)
        options = [option for option in options if option is not False]
        return True if True in options else {"anyOf": options} if options else False

    def _not_pattern(self, schema: Mapping[str, Any], where: str) -> Iterator[Any]:
        pattern = not_pattern(schema["pattern"], inside(where, "pattern"), self._effort)
        yield {"type": "string", "pattern": pattern} if pattern is not None else False

    def _inner(self, schema: Mapping[str, Any], keyword: str, where: str, base: str, depth: int) -> Iterator[Any]:
        """The opposites of a keyword that holds schemas; none of one that says nothing about a value."""
        here, value = inside(where, keyword), schema[keyword]

        def opposite(inner: Any, *path: str | int) -> Any:
            return self.of(inner, inside(here, *path), base, depth + 1)

        if keyword == "not":
            yield value
        elif keyword == "$ref":
            target = self._references.find(value, base, here)
            yield self.of(target.schema, here, target.base, depth + 1)
        elif keyword in ("allOf", "anyOf", "oneOf"):
            opposites = [opposite(each, n) for n, each in enumerate(listed(schema, keyword, where))]
            yield {"anyOf" if keyword == "allOf" else "allOf": opposites}
        elif keyword == "properties":
            for name, inner in mapping(schema, keyword, where).items():
                yield _object({"required": [name], "properties": {name: opposite(inner, name)}})
        elif _has_opposite_items(schema, keyword):
            yield {"type": "array", "contains" if keyword == "items" else "items": opposite(value)}
        elif keyword in _WITHOUT_OPPOSITE:
            raise SchemaError(here, "its opposite, which `not`, `if` or `oneOf` asks for, cannot be kept to")


def _has_opposite_items(schema: Mapping[str, Any], keyword: str) -> bool:
    if keyword == "items":
        return isinstance(schema["items"], bool | Mapping) and "prefixItems" not in schema
    return keyword == "contains" and not {"minContains", "maxContains"} & schema.keys()


_WITHOUT_OPPOSITE = {"format", "multipleOf", "items", "prefixItems", "additionalItems", "contains"}
_WITHOUT_OPPOSITE |= {"patternProperties", "additionalProperties", "propertyNames", "dependentRequired", "dependentSchemas"}
_WITHOUT_OPPOSITE |= {"dependencies", "if", "uniqueItems", "unevaluatedProperties", "unevaluatedItems", "$dynamicRef"}
_WITHOUT_OPPOSITE |= {"$recursiveRef", "nullable"}


def _object(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", **schema}


def _not_type(schema: Mapping[str, Any], where: str) -> Iterator[Any]:
    named = types_of(schema, where) or []
    left = [name for name in TYPES if name not in named]
    # A number that is no integer has no schema of its own.
    left = [name for name in left if name != "number" or "integer" not in named]
    if "number" in named and "integer" in left:
        left.remove("integer")
    yield {"type": left} if left else False


def _not_values(values: list[Any], where: str) -> Iterator[Any]:
    values = [check_literal(value, where) for value in values]
    by_type: dict[str, list[Any]] = {name: [] for name in TYPES}
    for value in values:
        by_type[type_of(value)].append(value)
    yield {"type": [name for name in ("null", "array", "object") if not by_type[name]]} if values else True
    yield from ({"const": value} for value in (False, True) if value not in by_type["boolean"])
    yield {"type": "string", "pattern": Whole(other_than(by_type["string"]))} if by_type["string"] else {"type": "string"}
    numbers = sorted(by_type["number"])
    for low, high in zip([None, *numbers], [*numbers, None], strict=True):
        bounds = {"exclusiveMinimum": low, "exclusiveMaximum": high}
        yield {"type": "number", **{name: bound for name, bound in bounds.items() if bound is not None}}


def _bound(schema: Mapping[str, Any], keyword: str, opposite: str, where: str) -> Iterator[Any]:
    if isinstance(schema[keyword], bool) or isinstance(schema.get(f"exclusive{keyword.capitalize()}"), bool):
        raise SchemaError(inside(where, keyword), "its opposite cannot be kept to in the form of draft 4")
    yield {"type": "number", opposite: number(schema, keyword, where)}


def _fewer(schema: Mapping[str, Any], keyword: str, opposite: str, name: str, where: str) -> Iterator[Any]:
    least = count(schema, keyword, where)
    yield {"type": name, opposite: least - 1} if least else False


def _more(schema: Mapping[str, Any], keyword: str, opposite: str, name: str, where: str) -> Iterator[Any]:
    yield {"type": name, opposite: (count(schema, keyword, where) or 0) + 1}


def _not_required(schema: Mapping[str, Any], where: str) -> Iterator[Any]:
    if isinstance(schema["required"], bool):
        return
    for name in checked_names(schema["required"], inside(where, "required")):
        yield _object({"properties": {name: False}})
