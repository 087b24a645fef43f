"""`oneOf` as `anyOf`: alternatives of which no two can fit the same value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.engine.llama.schemas.errors import SchemaError, inside
from services.engine.llama.schemas.keywords import checked_names, key_of, listed, mapping, type_of, types_of
from services.engine.llama.schemas.negation import Negation
from services.engine.llama.schemas.references import References, base_of

_DEEPEST = 8
# More alternatives than this are compared pair by pair for too long.
MOST_ALTERNATIVES = 500


@dataclass
class _Facts:
    """What is known of the values that fit a schema. `types`, `values`: None: any; integers count as numbers."""

    types: set[str] | None = None
    values: dict[str, Any] | None = None
    """The values by their keys (`key_of`)."""
    required: set[str] = field(default_factory=set)
    properties: dict[str, list[tuple[Any, str]]] = field(default_factory=dict)
    """The schemas of each property, with their base URIs."""
    is_closed: bool = False
    """True if there are no properties but these."""

    def limit(self, types: set[str], values: list[Any] | None = None) -> None:
        self.types = types if self.types is None else self.types & types
        if values is not None:
            found = {key_of(value): value for value in values}
            kept = found if self.values is None else self.values
            self.values = {key: value for key, value in kept.items() if key in found}


class Alternatives:
    """Tells the alternatives of one document's schemas apart."""

    def __init__(self, references: References, negation: Negation) -> None:
        self._references = references
        self._negation = negation
        self._found: dict[tuple[int, str, int], tuple[_Facts, Any]] = {}
        """The facts by their schema's identity; and the schema, so that no other gets its identity."""

    def separated(self, options: list[Any], where: str, base: str) -> list[Any]:
        """Return schemas of which exactly one fits what exactly one of `options` fits. Raises SchemaError."""
        if self._are_different_values(options, base):
            return options
        if len(options) > MOST_ALTERNATIVES:
            raise SchemaError(where, f"{MOST_ALTERNATIVES} alternatives are the most")
        kept, error = [], None
        for n, option in enumerate(options):
            try:
                others = [
                    self._negation.of(other, inside(where, m), base)
                    for m, other in enumerate(options)
                    if m != n and not self._are_disjoint(option, other, base, _DEEPEST)
                ]
                kept.append({"allOf": [option, *others]} if others else option)
            except SchemaError as found:
                error = found
        if error is not None:
            raise SchemaError(error.where, f"alternatives of oneOf overlap, and {error.reason}")
        return kept

    def _are_different_values(self, options: list[Any], base: str) -> bool:
        """Return whether each of these schemas fits only values that are listed, and no value is listed twice."""
        found = [self._facts(option, base, _DEEPEST).values for option in options]
        keys = [key for values in found if values is not None for key in values]
        return None not in found and len(keys) == len(set(keys))

    def _are_disjoint(self, one: Any, other: Any, base: str, depth: int) -> bool:
        """Return whether it is certain that no value fits both."""
        first, second = (self._facts(each, base, depth) for each in (one, other))
        if first.types is not None and second.types is not None and not first.types & second.types:
            return True
        if first.values is not None and second.values is not None:
            return not first.values.keys() & second.values.keys()
        if depth == 0 or first.types != {"object"} or second.types != {"object"}:
            return False
        return any(self._tells_apart(name, first, second, base, depth) for name in first.required | second.required)

    def _tells_apart(self, name: str, first: _Facts, second: _Facts, base: str, depth: int) -> bool:
        for one, other in ((first, second), (second, first)):
            if name in one.required and other.is_closed and name not in other.properties:
                return True
        return any(
            self._are_disjoint_at(one, other, depth - 1)
            for one in first.properties.get(name, ())
            for other in second.properties.get(name, ())
        )

    def _are_disjoint_at(self, one: tuple[Any, str], other: tuple[Any, str], depth: int) -> bool:
        # Two bases differ only in documents with several `$id`s; then nothing is certain.
        return one[1] == other[1] and self._are_disjoint(one[0], other[0], one[1], depth)

    def _facts(self, schema: Any, base: str, depth: int) -> _Facts:
        key = id(schema), base, depth
        if key not in self._found:
            facts = _Facts()
            self._collect(schema, base, facts, depth)
            self._found[key] = facts, schema
        return self._found[key][0]

    def _collect(self, schema: Any, base: str, facts: _Facts, depth: int) -> None:
        if schema is False:
            facts.limit(set(), [])
        if not isinstance(schema, Mapping) or depth < 0:
            return
        base = base_of(schema, base)
        if schema.get("nullable") is True:
            return
        if (types := types_of(schema, "#")) is not None:
            facts.limit({"number" if name == "integer" else name for name in types})
        for keyword in ("const", "enum"):
            if keyword in schema:
                values = [schema["const"]] if keyword == "const" else listed(schema, "enum", "#")
                facts.limit({type_of(value) for value in values}, values)
        if isinstance(schema.get("required"), list):
            facts.required |= set(checked_names(schema["required"], "#"))
        for name, inner in mapping(schema, "properties", "#").items():
            facts.properties.setdefault(name, []).append((inner, base))
        if schema.get("additionalProperties") is False and not schema.get("patternProperties"):
            facts.is_closed = True
        self._collect_parts(schema, base, facts, depth)

    def _collect_parts(self, schema: Mapping[str, Any], base: str, facts: _Facts, depth: int) -> None:
        if "$ref" in schema:
            target = self._references.find(schema["$ref"], base, "#")
            self._collect(target.schema, target.base, facts, depth - 1)
        for each in listed(schema, "allOf", "#"):
            self._collect(each, base, facts, depth - 1)
        options = schema.get("anyOf", schema.get("oneOf"))
        if isinstance(options, list) and options:
            self._collect_types(options, base, facts, depth)

    def _collect_types(self, options: list[Any], base: str, facts: _Facts, depth: int) -> None:
        found = [self._facts(option, base, depth - 1) for option in options]
        if all(each.types is not None for each in found):
            facts.limit({name for each in found for name in each.types or ()})
        if all(each.values is not None for each in found):
            facts.limit(
                {type_of(value) for each in found for value in (each.values or {}).values()},
                [value for each in found for value in (each.values or {}).values()],
            )
