"""Values of parameters without quotes, as in `<parameter=n>1</parameter>`: their JSON, by the tool's schema.

Only the schema says whether `1` is a number or a text. A value that does not fit its schema is given as what it looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from services.replies.formats.literals import PYTHON, as_json, in_json
from services.replies.json_scan import JsonScan

Types = frozenset[str]
ALL_TYPES: Types = frozenset(("string", "number", "integer", "boolean", "null", "array", "object"))
_DEEPEST = 32
_PYTHONIC = {"None": "null", "True": "boolean", "False": "boolean", "{": "object", "[": "array"}
_KINDS = {"{": "object", "[": "array", '"': "string", "t": "boolean", "f": "boolean", "n": "null"}


def types_of(schema: Mapping[str, Any], name: str) -> Types:
    """Return the JSON types that the parameter may have by its tool's schema; all of them where it does not say."""
    return types_in(parameter_of(schema, name), schema)


def types_in(part: Any, root: Mapping[str, Any]) -> Types:
    """Return the JSON types that fit a part of a schema, whose references begin at `root`."""
    return _types(part, root, 0)


def parameter_of(schema: Any, name: str, root: Any = None) -> Any:
    """Return the schema of an object's member, by all of the schema that speaks of it; {} if nothing does.

    References begin at `root`, by default at the schema itself.
    """
    found = _said(schema, lambda each: _mapping(each.get("properties")).get(name), schema if root is None else root, 0)
    extra = schema.get("additionalProperties") if isinstance(schema, Mapping) else None
    return (extra if isinstance(extra, Mapping) else {}) if found is None else found


def items_of(schema: Any, root: Any) -> Any:
    """Return the schema of an array's items, by all of the schema that speaks of them; {} if nothing does."""
    found = _said(schema, lambda each: each.get("items"), root, 0)
    return {} if found is None else found


def _said(schema: Any, of: Callable[[Mapping[str, Any]], Any], root: Any, depth: int) -> Any:
    """Return what a schema says, by `of`, itself or in the schemas that it is made of; None: nothing."""
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return None
    own, ref = of(schema), schema.get("$ref")
    beside = [referred(ref, root)] if isinstance(ref, str) else []
    inner = (_said(each, of, root, depth + 1) for each in (*beside, *_list(schema.get("allOf"))))
    found = [each for each in (own, *inner) if each is not None]
    for key in ("anyOf", "oneOf"):
        choices = [_said(each, of, root, depth + 1) for each in _list(schema.get(key))]
        if any(each is not None for each in choices):
            found.append({"anyOf": [{} if each is None else each for each in choices]})
    return (found[0] if len(found) == 1 else {"allOf": found}) if found else None


def value_json(text: str, types: Types) -> str:
    """Return the JSON of a value as it stands between its tags, without the white space that belongs to the tags."""
    if types == {"string"}:
        return f'"{in_json(text)}"'
    stripped = text.strip()
    written = _as_written(stripped)
    if written and _fits(written, types):
        return written
    if "string" in types and not _is_pythonic(stripped, types):
        return f'"{in_json(text)}"'
    found = as_json(stripped, PYTHON) if stripped else None
    if found is not None and _fits(found, types):
        return found
    return written if written and "string" not in types else f'"{in_json(text)}"'


def _as_written(text: str) -> str:
    """Return a JSON value as it stands there, with line breaks in its texts escaped; "" if the text is none."""
    scan = JsonScan()
    written, end = scan.read(text, 0, is_last=True)
    return written if scan.is_done and not scan.is_wrong and end == len(text) else ""


def _is_pythonic(text: str, types: Types) -> bool:
    """True for what is Python's and can hardly be a text: `None`, and lists and objects where these are asked for."""
    kind = _PYTHONIC.get(text) or _PYTHONIC.get(text[:1])
    return kind in types and types != ALL_TYPES


def _fits(value: str, types: Types) -> bool:
    kind = _KINDS.get(value[0])
    if kind is None:
        kind = "number" if any(sign in value for sign in ".eE") else "integer"
        return kind in types or "number" in types
    # A text with quotes is a text of which they are part, where other values are possible too.
    return kind in types and (kind != "string" or types == ALL_TYPES)


def _types(schema: Any, root: Mapping[str, Any], depth: int) -> Types:
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return ALL_TYPES
    found = _own_types(schema)
    if isinstance(ref := schema.get("$ref"), str):
        found &= _types(referred(ref, root), root, depth + 1)
    for each in _list(schema.get("allOf")):
        found &= _types(each, root, depth + 1)
    for key in ("anyOf", "oneOf"):
        if choices := _list(schema.get(key)):
            found &= frozenset().union(*(_types(each, root, depth + 1) for each in choices))
    return found or ALL_TYPES


def _own_types(schema: Mapping[str, Any]) -> Types:
    named = schema.get("type")
    found = frozenset(_list(named) or [named]) & ALL_TYPES if isinstance(named, str | list) else ALL_TYPES
    if "const" in schema:
        found &= {_kind(schema["const"])}
    elif values := _list(schema.get("enum")):
        found &= {_kind(value) for value in values}
    if schema.get("nullable") is True and found != ALL_TYPES:
        found |= {"null"}
    return found or ALL_TYPES


def referred(ref: str, root: Any) -> Any:
    """Return the part of a document that a reference of the form `#/…` names; {} if there is none."""
    part: Any = root
    for step in ref.removeprefix("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        part = part.get(name, {}) if isinstance(part, Mapping) else {}
    return part if ref.startswith("#") else {}


def _kind(value: Any) -> str:
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return kinds.get(type(value), "null")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
