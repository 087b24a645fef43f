"""The objects and arrays that fit a schema, for families that write them in a form of their own instead of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from services.replies.formats.text_schema import UnkeptSchema
from services.replies.formats.values import referred, types_in
from services.replies.grammar import Lark, all_unlike, repeated, unlike

DEEPEST = 6
"""Deeper objects and arrays are not kept to."""
# The most members of a set whose presence a rule's parameter holds.
_MOST_BITS = 64
_ANNOTATIONS = {"title", "description", "default", "examples", "$comment", "$schema", "$id", "deprecated", "readOnly"}
_ANNOTATIONS |= {"writeOnly", "$defs", "definitions"}
_UNKEPT_ITEMS = ("prefixItems", "contains", "unevaluatedItems", "additionalItems", "minContains")


class Shape(NamedTuple):
    """Objects or arrays ("object", "array") that fit a schema without references and choices."""

    kind: str
    schema: Mapping[str, Any]


def shapes(part: Any, root: Any, depth: int = 0) -> Iterator[Shape]:
    """Yield the kinds of objects and arrays that fit a part of a schema. Raises UnkeptSchema."""
    schema = resolved(part, root)
    for key in ("anyOf", "oneOf"):
        if choices := schema.get(key):
            beside = {name: value for name, value in schema.items() if name != key}
            found = [shape for each in choices for shape in shapes({"allOf": [beside, each]}, root, depth + 1)]
            if key == "oneOf" and len({shape.kind for shape in found}) < len(found):
                raise UnkeptSchema("oneOf", "several of its objects or arrays may fit the same value")
            yield from found
            return
    types = types_in(schema, root)
    for kind in ("object", "array"):
        if kind in types:
            for keyword in ("not", "if"):
                if keyword in schema:
                    raise UnkeptSchema(keyword, "it cannot be kept to in this model's form of calls")
            yield Shape(kind, schema)


def items_of(schema: Mapping[str, Any]) -> tuple[Any, int, int | None]:
    """Return the schema of an array's items, and the least and the greatest number of them. Raises UnkeptSchema."""
    for keyword in _UNKEPT_ITEMS:
        if schema.get(keyword) not in (None, False):
            raise UnkeptSchema(keyword, "it cannot be kept to in this model's form of calls")
    if isinstance(schema.get("items"), list):
        raise UnkeptSchema("items", "a list of schemas cannot be kept to in this model's form of calls")
    most = schema.get("maxItems")
    least, most = int(schema.get("minItems", 0)), None if most is None else int(most)
    if most is not None and most < least:
        raise UnkeptSchema("minItems", "it is more than maxItems")
    return schema.get("items", {"type": "string"}), least, most


def list_grammar(lark: Lark, schema: Mapping[str, Any], root: Any, item: Callable[[Any], str], comma: str = "") -> str:
    """Return the expression for an array's items, `comma` between them; `item` makes the one of an item by its schema.

    It is empty if there can be none. Raises UnkeptSchema.
    """
    items, least, most = items_of(schema)
    if most == 0:
        return ""
    if schema.get("uniqueItems") is True:
        return _unique_grammar(lark, items, root, (least, most), item, comma)
    one = item(items)
    return repeated(one, f"{comma} {one}", least, most)


def _unique_grammar(
    lark: Lark, items: Any, root: Any, counts: tuple[int, int | None], item: Callable[[Any], str], comma: str
) -> str:
    """Return the expression for items no two of which are equal."""
    least, most = counts
    values = _values_of(items, root)
    if values is not None:
        most = len(values) if most is None else min(most, len(values))
        if most < least:
            raise UnkeptSchema("uniqueItems", f"there are only {most} different items: nothing fits it")
        if len(values) <= _MOST_BITS:
            return _subset_grammar(lark, [item({"allOf": [items, {"const": each}]}) for each in values], least, most, comma)
    if types_in(items, root) & {"number", "object", "array"}:
        raise UnkeptSchema("uniqueItems", "this model's form of calls has several spellings for the same item")
    # Equal items have the same text.
    one = unlike(item(items))
    return all_unlike(repeated(one, f"{comma} {one}", least, most))


def _subset_grammar(lark: Lark, members: Sequence[str], least: int, most: int, comma: str) -> str:
    """Return the expression for some of the members in any order, by a rule with a bit for each that has come."""
    rule = f"subset_{len(lark.rules)}"
    ends = f'"" %if bit_count_ge(_, {least})' if least else '""'
    further = (
        f"{comma} {member} {rule}::set_bit({n}) %if and(bit_clear({n}), bit_count_lt(_, {most}))"
        for n, member in enumerate(members)
    )
    lark.rules[f"{rule}::_"] = "\n  | ".join([ends, *further])
    first = " | ".join(f"{member} {rule}::{1 << n:#x}" for n, member in enumerate(members))
    return f"({first})" if least else f"({first})?"


def _values_of(part: Any, root: Any) -> list[Any] | None:
    """Return the values that fit a schema, None if they are too many to be listed or have several spellings."""
    schema = resolved(part, root)
    for key in ("anyOf", "oneOf"):
        if choices := schema.get(key):
            beside = {name: value for name, value in schema.items() if name != key}
            each = [_values_of({"allOf": [beside, choice]}, root) for choice in choices]
            return None if None in each else _different(value for values in each for value in values or ())
    types = types_in(schema, root)
    listed = [schema["const"]] if "const" in schema else schema.get("enum")
    if listed:
        is_plain = all(value is None or isinstance(value, str | int) for value in listed)
        return _different(listed) if is_plain else None
    if types <= {"boolean", "null"}:
        return [value for kind, value in (("boolean", True), ("boolean", False), ("null", None)) if kind in types]
    low, high = schema.get("minimum"), schema.get("maximum")
    if types == {"integer"} and isinstance(low, int) and isinstance(high, int) and high - low < _MOST_BITS:
        return [number for number in range(low, high + 1) if number % schema.get("multipleOf", 1) == 0]
    return None


def _different(values: Iterable[Any]) -> list[Any]:
    """Return the values without those that are equal in JSON, where `true` is not 1."""
    return list({json.dumps(value): value for value in values}.values())


def resolved(part: Any, root: Any, depth: int = 0) -> Mapping[str, Any]:
    """Return a schema together with what its references and its `allOf` say. Raises UnkeptSchema if they say two things."""
    if depth > 4 * DEEPEST:
        raise UnkeptSchema("$ref", "schemas are nested too deeply")
    if part is False:
        raise UnkeptSchema("", "nothing fits it")
    if not isinstance(part, Mapping):
        return {}
    merged = {key: value for key, value in part.items() if key not in ("allOf", "$ref", *_ANNOTATIONS)}
    ref = part.get("$ref")
    beside = [referred(ref, root)] if isinstance(ref, str) else []
    for each in (*beside, *part.get("allOf", ())):
        for key, value in resolved(each, root, depth + 1).items():
            merged[key] = _both(key, merged[key], value) if key in merged else value
    return merged


def _both(key: str, one: Any, other: Any) -> Any:
    """Return the value of a keyword that stands in two schemas which hold together."""
    if one == other:
        return one
    if key == "required":
        return [*one, *(name for name in other if name not in one)]
    if key == "properties":
        return {**one, **{name: {"allOf": [one[name], value]} if name in one else value for name, value in other.items()}}
    if key == "type":
        both = types_in({"type": one}, {}) & types_in({"type": other}, {})
        return sorted(both) if both else _unkept(key)
    if key == "items":
        return {"allOf": [one, other]}
    if key in ("additionalProperties", "description"):
        return False if False in (one, other) else one
    if key in ("minItems", "minProperties", "minLength"):
        return max(one, other)
    if key in ("maxItems", "maxProperties", "maxLength"):
        return min(one, other)
    return _unkept(key)


def _unkept(key: str) -> Any:
    raise UnkeptSchema(key, "it says two things in schemas that hold together")
