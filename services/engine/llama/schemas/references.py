"""The references of a JSON schema: `$ref` by JSON pointer, `$id` and `$anchor`, within one document.

JSON Schema 2020-12, Core, sections 8 and 9; RFC 6901.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote, urldefrag, urljoin

from services.engine.llama.schemas.errors import SchemaError

# Keywords that hold schemas by name, in a list, and one schema (or a list of them).
BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
IN_LIST = ("allOf", "anyOf", "oneOf", "prefixItems")
ALONE: tuple[str, ...] = (
    "items",
    "additionalItems",
    "additionalProperties",
    "not",
    "if",
    "then",
    "else",
    "contains",
    "propertyNames",
)
ALONE += ("unevaluatedProperties", "unevaluatedItems", "contentSchema")


class Target(NamedTuple):
    """A schema that a reference names, with the base URI that its own references start from."""

    schema: Any
    base: str


class References:
    """Finds what the references of one document refer to."""

    def __init__(self, document: Any) -> None:
        self._document = document
        self._by_uri: dict[str, Target] = {"": Target(document, base_of(document, ""))}
        for schema, base in _subschemas(document, ""):
            self._index(schema, base)

    def _index(self, schema: Mapping[str, Any], base: str) -> None:
        target = Target(schema, base)
        name = schema.get("$id", schema.get("id"))
        if isinstance(name, str):
            self._by_uri.setdefault(base if not name.startswith("#") else base + name, target)
        for keyword in ("$anchor", "$dynamicAnchor"):
            if isinstance(anchor := schema.get(keyword), str):
                self._by_uri.setdefault(f"{base}#{anchor}", target)

    def find(self, reference: Any, base: str, where: str) -> Target:
        """Return the schema that `reference` names, starting from `base`. Raises SchemaError, naming `where`."""
        if not isinstance(reference, str):
            raise SchemaError(where, "a reference should be a text")
        uri = urljoin(base, reference) if base or not reference.startswith("#") else reference
        document, fragment = urldefrag(uri)
        whole = self._by_uri.get(document) if document else self._by_uri[""]
        if whole is None:
            raise SchemaError(where, f"{reference} is not within the schema, and nothing is fetched from elsewhere")
        if not fragment:
            return whole
        if fragment.startswith("/"):
            return self._pointed(whole, unquote(fragment), where)
        if found := self._by_uri.get(f"{document}#{fragment}"):
            return found
        raise SchemaError(where, f"{reference} refers to nothing")

    def _pointed(self, whole: Target, pointer: str, where: str) -> Target:
        value, base = whole
        for part in pointer[1:].split("/"):
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(value, Mapping) and name in value:
                value = value[name]
            elif isinstance(value, list) and name.isascii() and name.isdigit() and int(name) < len(value):
                value = value[int(name)]
            else:
                raise SchemaError(where, f"#{pointer} refers to nothing")
            base = base_of(value, base)
        return Target(value, base)


def base_of(schema: Any, base: str) -> str:
    """Return the base URI within a schema in a place where it is `base`."""
    name = schema.get("$id", schema.get("id")) if isinstance(schema, Mapping) else None
    if not isinstance(name, str) or name.startswith("#"):
        return base
    try:
        return urldefrag(urljoin(base, name))[0]
    except ValueError:
        return base


def _subschemas(schema: Any, base: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield each schema within a schema, itself included, with its base URI."""
    if not isinstance(schema, Mapping):
        return
    base = base_of(schema, base)
    yield schema, base
    for keyword, value in schema.items():
        if keyword in BY_NAME and isinstance(value, Mapping):
            inner: Any = value.values()
        elif keyword in IN_LIST or (keyword in ALONE and isinstance(value, list)):
            inner = value if isinstance(value, list) else ()
        else:
            inner = (value,) if keyword in ALONE else ()
        for each in inner:
            yield from _subschemas(each, base)
