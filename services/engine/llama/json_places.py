"""The schemas that hold at each place of a JSON text, in a simplified schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from services.engine.llama.schemas.unique import Domain, domain_of, nodes_of


class Places:
    """The places of texts by one simplified schema."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._definitions: Mapping[str, Any] = schema["$defs"]
        self.has_unique = '"uniqueItems"' in json.dumps(schema)
        nodes = list(nodes_of(schema))
        self.has_patterns = any("patternProperties" in node for node in nodes)
        """True if objects have properties whose names fit patterns."""
        self.names = frozenset(name for node in nodes for name in (*node.get("properties", ()), *node.get("required", ())))
        """The names of properties that are declared anywhere."""
        self.root = self._flat({"allOf": schema["allOf"]}) if self.has_unique else []

    def below(self, nodes: list[Any], name: str) -> list[Any]:
        """Return the schemas of an object's property."""
        found = []
        for node in nodes:
            properties = node.get("properties", {})
            if name in properties:
                found += self._flat(properties[name])
            else:
                for each in (*node.get("patternProperties", {}).values(), node.get("additionalProperties", True)):
                    found += self._flat(each)
        return found

    def items(self, nodes: list[Any]) -> list[Any]:
        """Return the schemas of an array's items."""
        found = []
        for node in nodes:
            for each in (*node.get("prefixItems", ()), node.get("items", True)):
                found += self._flat(each)
        return found

    def domain(self, nodes: list[Any]) -> Domain | None:
        """Return the items of an array in which no two may be equal; None if they may."""
        if not any("uniqueItems" in node for node in nodes):
            return None
        found = Domain()
        for node in nodes:
            if "uniqueItems" in node:
                for each in (*node.get("prefixItems", ()), node.get("items", True)):
                    found |= domain_of(each, self._definitions)
        return found

    def _flat(self, schema: Any) -> list[Any]:
        """The schemas that may hold where this one does, without references and choices."""
        found: list[Any] = []
        waiting, seen = [schema], set()
        while waiting:
            node = waiting.pop()
            if not isinstance(node, dict) or id(node) in seen:
                continue
            seen.add(id(node))
            found.append(node)
            if "$ref" in node:
                waiting.append(self._definitions[node["$ref"].rpartition("/")[2]])
            waiting += [*node.get("allOf", ()), *node.get("anyOf", ())]
        return found
