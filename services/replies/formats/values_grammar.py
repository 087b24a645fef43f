"""Grammars for values of parameters that a model writes without quotes, by the tool's schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from services.patterns.patterns import literal
from services.replies.formats.text_schema import ANY_TEXT
from services.replies.formats.values import Types, parameter_of
from services.replies.grammar import Lark, quoted

_ROOT = "tool"


class Place(NamedTuple):
    """The place of a schema: the tool's name, and a JSON pointer in the tool's schema."""

    tool: str
    where: str = "#"


def json_grammar(lark: Lark, part: Any, root: Any, ends: str, place: Place, types: Types) -> str:
    """Return the expression for a value of one of these types in JSON, and the text `ends` behind it."""
    document = document_of(part, root)
    beside = {key: value for key, value in document.items() if key != "$defs"}
    kept = {**{key: value for key, value in document.items() if key == "$defs"}, "type": sorted(types)}
    return f"{lark.json({'allOf': [beside], **kept} if beside else kept, *place)} {lark.text(ends) if ends else ''}"


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
