"""Schemas that refer to themselves without end, which no finite text fits."""

from __future__ import annotations

from typing import Any

from services.engine.llama.schemas.errors import SchemaError


def without_endless(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a simplified schema in which every definition that no finite text fits is false.

    Raises SchemaError if none fits the schema itself.
    """
    definitions = schema["$defs"]
    finite: set[str] = set()
    while True:
        found = {name for name, each in definitions.items() if name not in finite and _ends(each, finite)}
        if not found:
            break
        finite |= found
    if not _ends({"allOf": schema["allOf"]}, finite):
        raise SchemaError("#", "it refers to itself without end: no finite text fits it")
    kept = {name: each if name in finite else False for name, each in definitions.items()}
    return {**schema, "$defs": kept}


def _ends(schema: Any, finite: set[str]) -> bool:
    """Return whether some finite text may fit a schema, if one fits each definition in `finite` and no other."""
    if isinstance(schema, bool):
        return True
    if "$ref" in schema and schema["$ref"].rpartition("/")[2] not in finite:
        return False
    if not all(_ends(each, finite) for each in schema.get("allOf", ())):
        return False
    if "anyOf" in schema and not any(_ends(each, finite) for each in schema["anyOf"]):
        return False
    if "enum" in schema or not _is_only(schema, "object", "array"):
        return True
    return _ends_object(schema, finite) if schema["type"] == "object" else _ends_array(schema, finite)


def _is_only(schema: dict[str, Any], *types: str) -> bool:
    return schema.get("type") in types if isinstance(schema.get("type"), str) else False


def _ends_object(schema: dict[str, Any], finite: set[str]) -> bool:
    properties = schema.get("properties", {})
    further = schema.get("additionalProperties", True)
    return all(_ends(properties.get(name, further), finite) for name in schema.get("required", ()))


def _ends_array(schema: dict[str, Any], finite: set[str]) -> bool:
    least, first = schema.get("minItems", 0), schema.get("prefixItems", [])
    items = [*first[:least], *([schema.get("items", True)] if least > len(first) else [])]
    return all(_ends(each, finite) for each in items)
