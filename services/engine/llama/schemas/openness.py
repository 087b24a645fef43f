"""Which simplified schemas let objects have properties of any name, so that a name might be written twice."""

from __future__ import annotations

from typing import Any


def bare(schema: Any) -> Any:
    """Return a simplified schema without `uniqueItems`, which llguidance does not know."""
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in ("properties", "patternProperties", "$defs"):
            kept[keyword] = {name: bare(each) for name, each in value.items()}
        elif keyword in ("allOf", "anyOf", "prefixItems"):
            kept[keyword] = [bare(each) for each in value]
        elif keyword in ("items", "additionalProperties"):
            kept[keyword] = bare(value)
        elif keyword != "uniqueItems":
            kept[keyword] = value
    return kept


class Openness:
    """Finds objects with properties that are not named in advance, in a simplified schema."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._definitions = schema["$defs"]
        self._open: set[str] = set()
        """The definitions by which an object may have such properties."""
        self._find_open()
        self._seen: set[str] = set()
        self.is_open = self._within({"allOf": schema["allOf"]})

    def _find_open(self) -> None:
        # Each definition refers to later ones in most cases.
        names = list(reversed(self._definitions))
        while True:
            n_found = len(self._open)
            for name in names:
                if name not in self._open and self._here(self._definitions[name]):
                    self._open.add(name)
            if len(self._open) == n_found:
                return

    def _within(self, schema: Any) -> bool:
        """True if there is such an object at this place, or anywhere below."""
        return self._here(schema) or self._below(schema)

    def _below(self, schema: Any) -> bool:
        """True if there is such an object in a property or an item, as far as this schema says."""
        if not isinstance(schema, dict) or "enum" in schema:
            return False
        if "$ref" in schema and (name := schema["$ref"].rpartition("/")[2]) not in self._seen:
            self._seen.add(name)
            if self._below(self._definitions[name]):
                return True
        inner = [*schema.get("properties", {}).values(), *schema.get("prefixItems", ())]
        if "type" in schema and _may_be(schema, "array") and schema.get("maxItems") != len(schema.get("prefixItems", ())):
            inner.append(schema.get("items", True))
        beside = (*schema.get("allOf", ()), *schema.get("anyOf", ()))
        return any(self._within(each) for each in inner) or any(self._below(each) for each in beside)

    def _here(self, schema: Any) -> bool:
        """True if an object at this place may have such properties: each of the schemas that hold there lets it."""
        if isinstance(schema, bool):
            return schema
        if "enum" in schema or not _may_be(schema, "object"):
            return False
        name = schema.get("$ref", "").rpartition("/")[2]
        if name and name not in self._open:
            return False
        if not all(self._here(each) for each in schema.get("allOf", ())):
            return False
        if not any(self._here(each) for each in schema.get("anyOf", (True,))):
            return False
        return schema.get("additionalProperties", True) is not False or bool(schema.get("patternProperties"))


def _may_be(schema: dict[str, Any], name: str) -> bool:
    given = schema.get("type", name)
    return name in given if isinstance(given, list) else given == name
