"""Grammars for values of parameters that a model writes without quotes, by the tool's schema."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from services.replies.formats.values import referred, types_of
from services.replies.grammar import Lark, any_of, quoted

_ROOT = "tool"
_DEEPEST = 8


def value_grammar(lark: Lark, schema: Mapping[str, Any], name: str, ends: str, as_json: bool = False) -> str:
    """Return the expression for a value of the tool's parameter `name` and the text `ends` behind it.

    `as_json`: texts are JSON too. A value that may be a text is any text without `ends`, within its lengths.
    """
    part = resolved(schema["properties"][name], schema)
    choices = part.get("enum") if isinstance(part.get("enum"), list) else [part["const"]] if "const" in part else None
    if choices and not as_json:
        values = (lark.text(each if isinstance(each, str) else json.dumps(each)) for each in choices)
        return f"{any_of(values)} {lark.text(ends)}"
    if not as_json and "string" in types_of(schema, name):
        return text_of(lark, part, ends)
    return f"{lark.json(parameter_document(schema, name))} {lark.text(ends)}"


def parameter_document(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the schema of one parameter as a document of its own, in which the tool's references still hold."""
    own = _moved(schema["properties"][name])
    if '"$ref"' not in json.dumps(own):
        return own if isinstance(own, dict) else {"allOf": [own]}
    return {
        "$ref": f"#/$defs/{_ROOT}/properties/{name.replace('~', '~0').replace('/', '~1')}",
        "$defs": {_ROOT: _moved(schema)},
    }


def text_to(lark: Lark, ends: str, lengths: str = "*") -> str:
    """Return the expression for a text up to the first `ends`, and that; `lengths` is a repetition, as in `{2,5}`."""
    before, token, _ = _parted(lark, ends)
    if token:
        # A special token ends a text by itself, so that only what stands before it has to be the text's end.
        text = lark.rule("TEXT", f"/(?s:.){lengths}{_escaped(before.strip())}/")
        return f"{text} {lark.text(ends[len(before) :])}"
    text = lark.rule("TEXT", f"/(?s:.){lengths}/ & ~/(?s:.*){_escaped(ends.strip())}(?s:.*)/")
    # The rule is lazy: what begins like the ending is otherwise taken for text until it is too late.
    name = f"value_{text.lower()}_{len(ends) - len(ends.lstrip())}"
    lark.rules[f"{name}[suffix={quoted(ends)}]"] = text
    return name


def _parted(lark: Lark, text: str) -> tuple[str, str, str]:
    """Return a text before its first special token, that token, and the rest."""
    found = [(text.index(token), -len(token), token) for token in lark.tokens if token and token in text]
    return text.partition(min(found)[2]) if found else (text, "", "")


def _escaped(text: str) -> str:
    return re.escape(text).replace("/", "\\/")


def text_of(lark: Lark, part: Mapping[str, Any], ends: str) -> str:
    """Return the expression for a text by its schema's lengths, up to the first `ends`, and that."""
    least, most = (part.get(key) for key in ("minLength", "maxLength"))
    least, most = (each if isinstance(each, int) and not isinstance(each, bool) else None for each in (least, most))
    if least is None and most is None:
        return text_to(lark, ends)
    return text_to(lark, ends, f"{{{least or 0},{'' if most is None else most}}}")


def resolved(part: Any, root: Any) -> Mapping[str, Any]:
    """Return a schema together with what its reference to the tool's definitions and its `allOf` say; {} for any value."""
    for _ in range(_DEEPEST):
        ref = part.get("$ref") if isinstance(part, Mapping) else None
        if not isinstance(ref, str) or not ref.startswith("#"):
            break
        part = referred(ref, root)
    if not isinstance(part, Mapping):
        return {}
    merged = {key: value for key, value in part.items() if key != "allOf"}
    for each in part.get("allOf", ()) if isinstance(part.get("allOf"), list) else ():
        for key, value in resolved(each, root).items():
            both = isinstance(merged.get(key), Mapping) and isinstance(value, Mapping)
            merged[key] = (
                {**merged[key], **value} if both else [*merged.get(key, ()), *value] if key == "required" else value
            )
    return merged


def choices_of(part: Mapping[str, Any]) -> list[Any]:
    """Return the schemas of which one holds, as `anyOf` or `oneOf` has them; [] if the schema has no such choice."""
    return next((part[key] for key in ("anyOf", "oneOf") if isinstance(part.get(key), list) and part[key]), [])


def _moved(schema: Any) -> Any:
    """Return a schema whose references begin at the tool's place in the document."""
    if isinstance(schema, list):
        return [_moved(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    moved = {key: _moved(value) for key, value in schema.items()}
    ref = schema.get("$ref")
    return {**moved, "$ref": f"#/$defs/{_ROOT}{ref[1:]}"} if isinstance(ref, str) and ref.startswith("#") else moved
