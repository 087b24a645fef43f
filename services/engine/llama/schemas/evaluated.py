"""Which properties a schema speaks of: for `unevaluatedProperties`, and for objects without `additionalProperties`.

JSON Schema 2020-12, Core, section 11.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.engine.llama.schemas.errors import SchemaError, inside
from services.engine.llama.schemas.keywords import checked_names, listed, mapping
from services.engine.llama.schemas.references import References, base_of

_ARRAYS = ("items", "prefixItems", "additionalItems", "contains", "unevaluatedItems", "uniqueItems")
_CHOOSING = ("anyOf", "oneOf")


@dataclass(frozen=True)
class Names:
    """The properties that a schema speaks of: names, and patterns of names. `is_all`: it speaks of every name."""

    names: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    shaped: tuple[str, ...] = ()
    """Of the names, those that have schemas which may hold others."""
    is_all: bool = False
    has_arrays: bool = False
    """True if it speaks of the items of arrays."""

    def __or__(self, other: Names) -> Names:
        return Names(
            tuple(dict.fromkeys(self.names + other.names)),
            tuple(dict.fromkeys(self.patterns + other.patterns)),
            tuple(dict.fromkeys(self.shaped + other.shaped)),
            self.is_all or other.is_all,
            self.has_arrays or other.has_arrays,
        )

    def rest(self, schema: Any) -> dict[str, Any] | bool:
        """Return a schema by which all other properties have to fit `schema`."""
        if self.is_all:
            return True
        named = {"properties": dict.fromkeys(self.names, True)} if self.names else {}
        patterns = {"patternProperties": dict.fromkeys(self.patterns, True)} if self.patterns else {}
        return {**named, **patterns, "additionalProperties": schema}


class Evaluation:
    """Finds the properties that the schemas of one document speak of."""

    def __init__(self, references: References) -> None:
        self._references = references
        self._found: dict[tuple[int, str, bool], tuple[Names, Any]] = {}
        """What `_all` has found, by the schema's identity; and the schema, so that no other gets its identity."""

    def closing(self, schema: Mapping[str, Any], where: str, base: str) -> dict[str, Any] | None:
        """Return a schema that allows only the properties that `schema` speaks of; None if it speaks of all, or none."""
        found = self._all(schema, where, base)
        if found.is_all or found.patterns or not found.names or "minProperties" in schema:
            return None
        return {"properties": dict.fromkeys(found.names, True), "additionalProperties": False}

    def are_apart(self, schemas: Sequence[Mapping[str, Any] | bool], where: str, base: str) -> bool:
        """Return whether these schemas, the plain keywords of the first one, speak of different properties and items."""
        plain = _plain(schemas[0], where) if isinstance(schemas[0], Mapping) else Names()
        found = [plain, *(self._all(each, where, base) for each in schemas[1:])]
        names = [name for each in found for name in each.shaped]
        if any(each.is_all or each.patterns for each in found) or sum(each.has_arrays for each in found) > 1:
            return False
        return len(names) == len(set(names))

    def unevaluated(self, schema: Mapping[str, Any], where: str, base: str) -> Iterator[Any]:
        """Yield schemas that say what `unevaluatedProperties` does. Raises SchemaError where they cannot."""
        rest = schema.get("unevaluatedProperties", True)
        if rest is True:
            return
        here = inside(where, "unevaluatedProperties")
        if "dependentSchemas" in schema or "dependencies" in schema:
            raise SchemaError(here, "beside dependent schemas it cannot be kept to")
        bare = {keyword: value for keyword, value in schema.items() if keyword != "unevaluatedProperties"}
        always = _plain(bare, where, with_required=False)
        for inner, at, inner_base in self._parts(schema, where, base):
            always |= self._always(inner, at, inner_base, here, set())
        if always.is_all:
            return
        choices = list(self._choices(schema, where))
        if not choices:
            yield always.rest(rest)
        if len(choices) > 1:
            raise SchemaError(here, "beside several choices it cannot be kept to")
        for options in choices:
            yield {
                "anyOf": [{"allOf": [each, (always | self._all(each, where, base, False)).rest(rest)]} for each in options]
            }

    def _choices(self, schema: Mapping[str, Any], where: str) -> Iterator[list[Any]]:
        for keyword in _CHOOSING:
            if keyword in schema:
                yield listed(schema, keyword, where)
        if "if" in schema:
            yield [{"allOf": [schema["if"], schema.get("then", True)]}, schema.get("else", True)]

    def _parts(self, schema: Mapping[str, Any], where: str, base: str) -> Iterator[tuple[Any, str, str]]:
        """The schemas that hold for the same value as `schema` does, whatever the value is."""
        if "$ref" in schema:
            here = inside(where, "$ref")
            target = self._references.find(schema["$ref"], base, here)
            yield target.schema, here, target.base
        for n, each in enumerate(listed(schema, "allOf", where)):
            yield each, inside(where, "allOf", n), base

    def _always(self, schema: Any, where: str, base: str, asked: str, seen: set[int]) -> Names:
        """The properties that a schema speaks of whatever the value is. Raises SchemaError if that depends on the value.

        `seen` are schemas that were looked at before, by their identities.
        """
        if not isinstance(schema, Mapping) or id(schema) in seen:
            return Names()
        if any(keyword in schema for keyword in (*_CHOOSING, "if", "dependentSchemas", "dependencies")):
            raise SchemaError(asked, "where other properties depend on a choice further down, it cannot be kept to")
        seen.add(id(schema))
        found = _plain(schema, where, with_required=False)
        for inner, at, inner_base in self._parts(schema, where, base_of(schema, base)):
            found |= self._always(inner, at, inner_base, asked, seen)
        return found

    def _all(self, schema: Any, where: str, base: str, with_required: bool = True) -> Names:
        """The properties that a schema speaks of for some value."""
        if not isinstance(schema, Mapping):
            return Names()
        key = id(schema), base, with_required
        if key not in self._found:
            self._found[key] = self._sum(schema, where, base, with_required), schema
        return self._found[key][0]

    def _sum(self, schema: Mapping[str, Any], where: str, base: str, with_required: bool) -> Names:
        """The properties of all schemas that may hold for the same value as this one."""
        found = Names()
        waiting: list[tuple[Any, str, str]] = [(schema, where, base)]
        seen: dict[int, Any] = {}
        while waiting:
            inner, at, inner_base = waiting.pop()
            if not isinstance(inner, Mapping) or id(inner) in seen:
                continue
            seen[id(inner)] = inner
            inner_base = base_of(inner, inner_base)
            found |= _plain(inner, at, with_required)
            parts = [*self._parts(inner, at, inner_base)]
            parts += [(each, at, inner_base) for options in self._choices(inner, at) for each in options]
            for keyword in ("dependentSchemas", "dependencies"):
                parts += [(each, at, inner_base) for each in mapping(inner, keyword, at).values()]
            waiting += reversed(parts)
        return found


def _plain(schema: Mapping[str, Any], where: str, with_required: bool = True) -> Names:
    """The properties that the keywords of a schema itself speak of."""
    properties = mapping(schema, "properties", where)
    names = tuple(properties)
    if with_required and isinstance(schema.get("required"), list):
        names += tuple(checked_names(schema["required"], inside(where, "required")))
    for name, needed in mapping(schema, "dependentRequired", where).items() if with_required else ():
        names += (name, *checked_names(needed, inside(where, "dependentRequired", name)))
    is_all = any(schema.get(keyword, True) is not True for keyword in ("additionalProperties", "unevaluatedProperties"))
    return Names(
        tuple(dict.fromkeys(names)),
        tuple(mapping(schema, "patternProperties", where)),
        tuple(name for name, each in properties.items() if isinstance(each, Mapping)),
        is_all or "additionalProperties" in schema or (with_required and "propertyNames" in schema),
        any(keyword in schema for keyword in _ARRAYS),
    )
