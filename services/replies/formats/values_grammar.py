"""Grammars for values of parameters that a model writes without quotes, by the tool's schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from services.replies.formats.text_schema import ANY_TEXT, UnkeptSchema, written
from services.replies.formats.values import ALL_TYPES, Types, parameter_of, types_in
from services.replies.grammar import Lark, any_of, quoted
from services.replies.patterns import literal

_ROOT = "tool"
_SCALARS = ("number", "boolean", "null")
# What a reader takes for another value than a text, by the types that it may have (formats/values.py).
_LIKE: dict[str, str] = {
    "null": r"\s*(null|None)\s*",
    "boolean": r"\s*(true|false|True|False)\s*",
    "integer": r"\s*-?[0-9]+\s*",
    "number": r"\s*-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?\s*",
    "object": r"\s*\{(?s:.*)",
    "array": r"\s*\[(?s:.*)",
}


class Place(NamedTuple):
    """The place of a schema: the tool's name, and a JSON pointer in the tool's schema."""

    tool: str
    where: str = "#"


def value_grammar(lark: Lark, part: Any, root: Any, ends: str, place: Place, without: str = "") -> str:
    """Return the expression for a value that fits `part` of a tool's schema `root`, and the text `ends` behind it.

    A value that may be a text has no quotes, and holds neither `ends` nor what the regular expression `without` matches.
    Raises UnkeptSchema.
    """
    types = types_in(part, root)
    if "string" not in types:
        return f"{lark.json(document_of(part, root), *place)} {lark.text(ends)}"
    choices = []
    if (scalar := _scalar(part, root, types, without)) is not None:
        choices.append(text_to(lark, ends, scalar))
    if groups := sorted(types & {"object", "array"}):
        choices.append(json_grammar(lark, part, root, ends, place, frozenset(groups)))
    if not choices:
        raise UnkeptSchema("", "nothing fits it")
    return any_of(choices) if len(choices) > 1 else choices[0]


def json_grammar(lark: Lark, part: Any, root: Any, ends: str, place: Place, types: Types) -> str:
    """Return the expression for a value of one of these types in JSON, and the text `ends` behind it."""
    document = document_of(part, root)
    beside = {key: value for key, value in document.items() if key != "$defs"}
    kept = {**{key: value for key, value in document.items() if key == "$defs"}, "type": sorted(types)}
    return f"{lark.json({'allOf': [beside], **kept} if beside else kept, *place)} {lark.text(ends) if ends else ''}"


def _scalar(part: Any, root: Any, types: Types, without: str) -> str | None:
    """Return the terminal's expression for texts, and for the other scalars that the value may be."""
    text = written(part, root, "string")
    banned = [_LIKE[kind] for kind in sorted(types) if kind in _LIKE] + [without] * bool(without)
    if types == ALL_TYPES:
        # A text with quotes is read as JSON where anything may come.
        banned.append(r'\s*"(?s:.*)')
    if text is not None and banned:
        text = f"({text} & ~/{'|'.join(banned)}/)"
    others = (_other(part, root, kind) for kind in _SCALARS if kind in types or (kind == "number" and "integer" in types))
    found = [each for each in (text, *others) if each is not None]
    return f"({' | '.join(found)})" if found else None


def _other(part: Any, root: Any, kind: str) -> str | None:
    try:
        return written(part, root, kind)
    except UnkeptSchema:
        # Bounds of numbers have no regular expression here, so that the value has to be a text.
        return None


def parameter_document(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the schema of one parameter as a document of its own, in which the tool's references still hold."""
    return document_of(parameter_of(schema, name), schema)


def document_of(part: Any, root: Any) -> dict[str, Any]:
    """Return a part of a schema as a document of its own, in which the references to `root` still hold."""
    own = _moved(part)
    own = {key: value for key, value in own.items() if key != "$defs"} if isinstance(own, dict) else {"allOf": [own]}
    return {**own, "$defs": {_ROOT: _moved(root)}} if '"$ref"' in json.dumps(own) else own


def text_to(lark: Lark, ends: str, text: str = ANY_TEXT) -> str:
    """Return the expression for a text up to the first `ends`, and that; `text` is the terminal's expression for it."""
    before, token, _ = _parted(lark, ends)
    terminal = f"({text} & ~/(?s:.*){literal(ends.strip())}(?s:.*)/)"
    if token:
        # A special token ends a text by itself.
        named = lark.rule("TEXT", f"{terminal} {quoted(before)}" if before else terminal)
        return f"{named} {lark.text(ends[len(before) :])}"
    named = lark.rule("TEXT", terminal)
    # The rule is lazy: what begins like the ending is otherwise taken for text until it is too late.
    name = f"value_{named.lower()}_{len(ends) - len(ends.lstrip())}"
    lark.rules[f"{name}[suffix={quoted(ends)}]"] = named
    return name


def _parted(lark: Lark, text: str) -> tuple[str, str, str]:
    """Return a text before its first special token, that token, and the rest."""
    found = [(text.index(token), -len(token), token) for token in lark.tokens if token and token in text]
    return text.partition(min(found)[2]) if found else (text, "", "")


def _moved(schema: Any) -> Any:
    """Return a schema whose references begin at the tool's place in the document."""
    if isinstance(schema, list):
        return [_moved(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    moved = {key: _moved(value) for key, value in schema.items()}
    ref = schema.get("$ref")
    return {**moved, "$ref": f"#/$defs/{_ROOT}{ref[1:]}"} if isinstance(ref, str) and ref.startswith("#") else moved
