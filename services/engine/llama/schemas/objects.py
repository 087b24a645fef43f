"""The keywords of objects, in the form that llguidance keeps to."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from services.engine.llama.schemas.errors import SchemaError, inside
from services.engine.llama.schemas.keywords import OBJECT_KEYWORDS, checked_names, count, listed, mapping
from services.engine.llama.schemas.mode import Mode, Subschemas
from services.engine.llama.schemas.scalars import Whole, anchored, pattern_of, textual

# The most choices of properties that bounds on their number are written out as.
MOST_CHOICES = 64
_NAME_KEYWORDS = {"pattern", "minLength", "maxLength", "format"}
_REMARKS = {"type", "title", "description", "$comment", "examples", "default", "$defs", "definitions", "$schema", "$id"}


def plain(
    simplifier: Subschemas, schema: Mapping[str, Any], types: list[str] | None, where: str, base: str, mode: Mode
) -> dict[str, Any]:
    """Return the object keywords of a schema, without those that depend on which properties there are."""
    if isinstance(schema.get("required"), bool):
        # Draft 3 has it beside a property's own keywords, whatever its type.
        raise SchemaError(inside(where, "required"), "it should be a list of names (draft 4 and later)")
    if not any(keyword in schema for keyword in OBJECT_KEYWORDS) or (types is not None and "object" not in types):
        return {}
    inner: Mode = "open" if mode == "open" else "whole"
    properties = {
        name: simplifier.schema(each, inside(where, "properties", name), base, inner)
        for name, each in mapping(schema, "properties", where).items()
    }
    by_pattern = {
        pattern: simplifier.schema(each, inside(where, "patternProperties", pattern), base, inner)
        for pattern, each in mapping(schema, "patternProperties", where).items()
    }
    patterns = {
        anchored(pattern_of(pattern, inside(where, "patternProperties", pattern), simplifier.effort)): each
        for pattern, each in by_pattern.items()
    }
    properties = _beside_patterns(properties, by_pattern, schema, where)
    further = None
    if "additionalProperties" in schema:
        further = simplifier.schema(schema["additionalProperties"], inside(where, "additionalProperties"), base, inner)
    required = _required(schema, where)
    if "propertyNames" in schema:
        properties, patterns, further = _names(simplifier, schema, where, base, properties, patterns, further)
    elif mode == "whole" and further is None and properties and not patterns and "minProperties" not in schema:
        # As llama.cpp does: a model that may add properties of its own often goes on without end.
        properties |= {name: True for name in required if name not in properties}
        further = False
    kept: dict[str, Any] = {}
    if properties:
        kept["properties"] = properties
    if patterns:
        kept["patternProperties"] = patterns
    if further is not None:
        kept["additionalProperties"] = further
    if required:
        kept["required"] = required
    return kept | _counted(schema, where, kept)


def _beside_patterns(
    properties: dict[str, Any], by_pattern: Mapping[str, Any], schema: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Return the named properties' schemas, with those of the patterns where `_counted` may leave these out."""
    if schema.keys().isdisjoint(("minProperties", "maxProperties")):
        return properties
    return {name: _with_patterns(name, each, by_pattern, where) for name, each in properties.items()}


def _with_patterns(name: str, schema: Any, by_pattern: Mapping[str, Any], where: str) -> Any:
    """Return the schema of a named property together with those of the patterns that its name matches."""
    parts = [schema]
    for pattern, each in by_pattern.items():
        try:
            parts += [each] if re.search(pattern, name, re.ASCII) else []
        except re.error:
            here = inside(where, "patternProperties", pattern)
            raise SchemaError(here, "beside bounds of the number of properties it cannot be kept to") from None
    parts = [part for part in parts if part is not True]
    if False in parts:
        return False
    return True if not parts else parts[0] if len(parts) == 1 else {"allOf": parts}


def _required(schema: Mapping[str, Any], where: str) -> list[str]:
    return list(dict.fromkeys(checked_names(schema.get("required", []), inside(where, "required"))))


def _counted(schema: Mapping[str, Any], where: str, kept: dict[str, Any]) -> dict[str, Any]:
    """The bounds of the number of properties; llguidance counts those that are not named, and required ones."""
    least, most = count(schema, "minProperties", where) or 0, count(schema, "maxProperties", where)
    required = kept.get("required", [])
    named = list(dict.fromkeys([*kept.get("properties", {}), *required]))
    optional = [name for name in named if name not in required and kept["properties"].get(name) is not False]
    if most is not None and (least > most or len(required) > most):
        raise SchemaError(inside(where, "maxProperties"), "nothing fits it beside the properties that are required")
    is_closed = kept.get("additionalProperties") is False and not kept.get("patternProperties")
    if is_closed and most is not None and most >= len(required) + len(optional):
        most = None
    if not optional:
        return _bounds(least if least > len(required) else 0, most)
    return _chosen(where, kept, optional, max(0, least - len(required)), None if most is None else most - len(required))


def _bounds(least: int, most: int | None) -> dict[str, Any]:
    return ({"minProperties": least} if least else {}) | ({} if most is None else {"maxProperties": most})


def _chosen(where: str, kept: dict[str, Any], optional: list[str], least: int, most: int | None) -> dict[str, Any]:
    """Bounds of the number of optional properties, as a choice among them; further ones then do not count."""
    if least == 0 and most is None:
        return {}
    changes: dict[str, Any] = {}
    if most is not None:
        # Further properties would have to be counted together with the optional ones.
        if most < len(optional):
            changes["additionalProperties"] = False
            changes["patternProperties"] = {}
        elif kept.get("additionalProperties") is not False or kept.get("patternProperties"):
            changes["additionalProperties"] = False
            changes["patternProperties"] = {}
            most = None
    n_required = min(least, len(optional))
    n_allowed = len(optional) if most is None else min(most, len(optional))
    is_open = kept.get("additionalProperties") is not False or kept.get("patternProperties")
    if least > len(optional) and not (is_open and most is None):
        raise SchemaError(inside(where, "minProperties"), "there are not so many properties")
    if math.comb(len(optional), n_required) > MOST_CHOICES or math.comb(len(optional), n_allowed) > MOST_CHOICES:
        keyword = "minProperties" if math.comb(len(optional), n_required) > MOST_CHOICES else "maxProperties"
        raise SchemaError(inside(where, keyword), f"beside {len(optional)} optional properties it cannot be kept to")
    if least > len(optional):
        return changes | {
            "required": [*kept.get("required", []), *optional],
            "minProperties": least + len(kept.get("required", [])),
        }
    return changes | {"anyOf": list(_choices(optional, n_required, n_allowed))}


def _choices(optional: list[str], n_required: int, n_allowed: int) -> Iterator[dict[str, Any]]:
    for allowed in itertools.combinations(optional, n_allowed):
        forbidden = {name: False for name in optional if name not in allowed}
        for required in itertools.combinations(allowed, n_required):
            yield {
                "type": "object",
                **({"properties": forbidden} if forbidden else {}),
                **({"required": list(required)} if required else {}),
            }


def _names(
    simplifier: Subschemas,
    schema: Mapping[str, Any],
    where: str,
    base: str,
    properties: dict[str, Any],
    patterns: dict[str, Any],
    further: Any,
) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """`propertyNames`, as names and patterns of properties."""
    here = inside(where, "propertyNames")
    rule = _rule(simplifier, schema["propertyNames"], here, base)
    further = True if further is None else further
    if rule is True:
        return properties, patterns, further
    if patterns:
        raise SchemaError(here, "beside patternProperties it cannot be kept to")
    if rule is False:
        return dict.fromkeys(properties, False), {}, False
    if "enum" in rule:
        names = rule["enum"]
        allowed = {name: each if name in names else False for name, each in properties.items()}
        return allowed | {name: further for name in names if name not in properties}, {}, False
    one = dict(rule)
    if "pattern" in rule:
        one["pattern"] = Whole(pattern_of(rule["pattern"], inside(here, "pattern"), simplifier.effort))
    kept, beside = textual(one, here, simplifier.effort)
    if beside or ("pattern" in kept and len(kept) > 1):
        raise SchemaError(here, "two rules for a name at once cannot be kept to")
    pattern = kept.get("pattern") or f"^(?s:.{{{kept.get('minLength', 0)},{kept.get('maxLength', '')}}})$"
    allowed = {name: each if _fits(name, rule, kept, here) else False for name, each in properties.items()}
    return allowed, {pattern: further}, False


def _rule(simplifier: Subschemas, rule: Any, where: str, base: str) -> Any:
    """What `propertyNames` says: true, false, `{"enum": names}`, or the keywords of a string."""
    while isinstance(rule, Mapping) and set(rule) - _REMARKS == {"$ref"}:
        rule, base = simplifier.references.find(rule["$ref"], base, inside(where, "$ref"))
    if isinstance(rule, bool):
        return rule
    if not isinstance(rule, Mapping):
        raise SchemaError(where, "a schema should be an object, true or false")
    said = {keyword: value for keyword, value in rule.items() if keyword not in _REMARKS}
    if rule.get("type", "string") != "string" and "string" not in rule["type"]:
        return False
    if not said:
        return True
    if set(said) <= {"const", "enum"}:
        values = [said["const"]] if "const" in said else listed(said, "enum", where)
        return {"enum": [value for value in values if isinstance(value, str)]}
    for keyword in said:
        if keyword not in _NAME_KEYWORDS:
            raise SchemaError(inside(where, keyword), "for the names of properties it cannot be kept to")
    return said


def _fits(name: str, rule: Mapping[str, Any], kept: dict[str, Any], where: str) -> bool:
    if "pattern" not in kept:
        return bool(kept.get("minLength", 0) <= len(name) <= kept.get("maxLength", math.inf))
    if "format" in rule:
        raise SchemaError(where, "beside properties a format of names cannot be kept to")
    try:
        return bool(re.search(rule["pattern"], name))
    except re.error:
        raise SchemaError(where, "beside properties this pattern cannot be kept to") from None


def dependent(schema: Mapping[str, Any], types: list[str] | None, where: str) -> Iterator[dict[str, Any]]:
    """Yield `dependentRequired`, `dependentSchemas` and draft 7's `dependencies` as choices."""
    only = {"type": "object"} if types == ["object"] else {}
    for keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
        for name, needed in mapping(schema, keyword, where).items():
            without = {**only, "properties": {name: False}}
            if isinstance(needed, list):
                others = checked_names(needed, inside(where, keyword, name))
                yield {"anyOf": [without, {**only, "required": [name, *others]}]}
            else:
                yield {"anyOf": [without, {"allOf": [{**only, "required": [name]}, needed]}]}
