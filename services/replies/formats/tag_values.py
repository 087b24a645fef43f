"""Grammars for values of parameters that stand between tags, texts without quotes among them, by the tool's schema."""

from __future__ import annotations

from typing import Any

from services.replies.formats.python_values import literal_grammar
from services.replies.formats.text_schema import UnkeptSchema, written
from services.replies.formats.values import ALL_TYPES, Types, types_in
from services.replies.formats.values_grammar import Place, text_to
from services.replies.grammar import Lark, any_of

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


def value_grammar(lark: Lark, part: Any, root: Any, ends: str, place: Place, without: str = "") -> str:
    """Return the expression for a value that fits `part` of a tool's schema `root`, and the text `ends` behind it.

    A value that may be a text has no quotes, and holds neither `ends` nor what the regular expression `without` matches.
    Raises UnkeptSchema.
    """
    types = types_in(part, root)
    if "string" not in types:
        return f"{literal_grammar(lark, part, root, place, types)} {lark.text(ends)}"
    choices = []
    if (scalar := _scalar(part, root, types, without)) is not None:
        choices.append(text_to(lark, ends, scalar))
    if groups := sorted(types & {"object", "array"}):
        choices.append(f"{literal_grammar(lark, part, root, place, frozenset(groups))} {lark.text(ends)}")
    if not choices:
        raise UnkeptSchema("", "nothing fits it")
    return any_of(choices) if len(choices) > 1 else choices[0]


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
