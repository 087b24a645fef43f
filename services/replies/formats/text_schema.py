"""Regular expressions of values as they are written without quotes: texts and other scalars that fit a JSON schema.

The expressions are those of Lark's terminals in llguidance's dialect, which has `&` and `~` besides regular expressions
(its docs/syntax.md), so that every keyword of scalars is kept, however schemas are combined.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from services.patterns.patterns import PatternError, literal, matched, searched
from services.patterns.string_formats import REFUSED_FORMATS, STRING_FORMATS
from services.replies.formats.values import referred

ANY_TEXT = "/(?s:.*)/"
_DEEPEST = 16
_INTEGER = "/-?(0|[1-9][0-9]*)/"
_BASES = {"string": ANY_TEXT, "number": "/-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][-+]?[0-9]+)?/"}
_BASES |= {"boolean": "/true|false/", "null": "/null/"}
_PYTHON_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")


class UnkeptSchema(ValueError):
    """A schema that no grammar of unquoted values keeps to: `keyword` says which of its keywords, and `reason` why."""

    def __init__(self, keyword: str, reason: str) -> None:
        super().__init__(f"{keyword}: {reason}")
        self.keyword = keyword
        self.reason = reason


def written(schema: Any, root: Any, kind: str, depth: int = 0) -> str | None:
    """Return the terminal's expression for the values of a kind that fit a schema, as they are written; None if none do.

    `kind` is "string" (a text without quotes), "number", "boolean" or "null". `root` is the document that references of
    the form `#/…` begin at. Raises UnkeptSchema.
    """
    if depth > _DEEPEST:
        raise UnkeptSchema("$ref", "schemas are nested too deeply")
    if not isinstance(schema, Mapping):
        return None if schema is False else _BASES[kind]
    parts = [_own(schema, kind), *_combined(schema, root, kind, depth)]
    found = _all(parts)
    if schema.get("nullable") is True and kind == "null" and not _values(schema):
        return _BASES[kind]
    return found


def _own(schema: Mapping[str, Any], kind: str) -> str | None:
    """Return the expression for a schema's plain keywords."""
    base = _base(schema, kind)
    if base is None:
        return None
    parts = [base]
    if values := _values(schema):
        own = [value for value in values if _is_of(value, kind)]
        if not own:
            return None
        parts.append(_any(_literal(value, kind) for value in own) or base)
    elif kind == "number":
        for keyword in _BOUNDS:
            if keyword in schema:
                raise UnkeptSchema(keyword, "beside texts without quotes it cannot be kept to")
    return _all([*parts, *(_textual(schema) if kind == "string" else ())])


def _base(schema: Mapping[str, Any], kind: str) -> str | None:
    named = schema.get("type")
    types = named if isinstance(named, list) else [named] if named is not None else [*_BASES, "integer"]
    if kind in types:
        return _BASES[kind]
    return _INTEGER if kind == "number" and "integer" in types else None


def _values(schema: Mapping[str, Any]) -> list[Any]:
    """Return the only values that a schema allows; [] if it does not list them."""
    values = schema.get("enum")
    listed = values if isinstance(values, list) else []
    if "const" not in schema:
        return listed
    only = schema["const"]
    return [only] if not listed or only in listed else [_Nothing()]


class _Nothing:
    """No value of JSON."""


def _is_of(value: Any, kind: str) -> bool:
    return isinstance(value, _PYTHON_TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _literal(value: Any, kind: str) -> str:
    text = value if kind == "string" else json.dumps(value)
    return f"/{literal(text)}/" if text else '""'


def _textual(schema: Mapping[str, Any]) -> Iterable[str]:
    least, most = (_count(schema, key) for key in ("minLength", "maxLength"))
    if least or most is not None:
        yield f"/(?s:.){{{least or 0},{'' if most is None else most}}}/"
    if "pattern" in schema:
        yield _pattern(schema["pattern"])
    name = schema.get("format")
    if name in REFUSED_FORMATS:
        raise UnkeptSchema("format", f"the format {name} cannot be kept to")
    if name in STRING_FORMATS:
        yield f"/{matched(STRING_FORMATS[name])}/"


def _count(schema: Mapping[str, Any], keyword: str) -> int | None:
    value = schema.get(keyword)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 0:
        raise UnkeptSchema(keyword, "it should be a whole number, 0 or more")
    return int(value)


def _pattern(pattern: Any) -> str:
    try:
        return f"/{searched(pattern)}/" if isinstance(pattern, str) else _raise("pattern", "it should be a text")
    except PatternError as error:
        raise UnkeptSchema("pattern", str(error)) from None


def _raise(keyword: str, reason: str) -> str:
    raise UnkeptSchema(keyword, reason)


def _combined(schema: Mapping[str, Any], root: Any, kind: str, depth: int) -> Iterable[str | None]:
    """Yield the expressions of the schemas that hold beside a schema's own keywords."""

    def of(part: Any) -> str | None:
        return written(part, root, kind, depth + 1)

    if isinstance(ref := schema.get("$ref"), str):
        yield of(referred(ref, root) if ref.startswith("#") else _raise("$ref", f"{ref} is no part of the tool's schema"))
    yield from map(of, _list(schema, "allOf"))
    if choices := _list(schema, "anyOf"):
        yield _any(map(of, choices))
    if choices := _list(schema, "oneOf"):
        found = [of(each) for each in choices]
        yield _any(
            _all([each, *(_none(other, kind) for m, other in enumerate(found) if m != n)]) for n, each in enumerate(found)
        )
    if "not" in schema:
        yield _none(of(schema["not"]), kind)
    if "if" in schema:
        test = of(schema["if"])
        then, other = of(schema.get("then", True)), of(schema.get("else", True))
        yield _any([_all([test, then]), _all([_none(test, kind), other])])


def _list(schema: Mapping[str, Any], keyword: str) -> Sequence[Any]:
    value = schema.get(keyword)
    return value if isinstance(value, list) else ()


def _all(parts: Iterable[str | None]) -> str | None:
    """Return the expression for what fits all of them; None: one of them fits nothing."""
    found: list[str] = []
    for part in parts:
        if part is None:
            return None
        found += [part] if part != ANY_TEXT and part not in found else []
    return f"({' & '.join(found)})" if len(found) > 1 else found[0] if found else ANY_TEXT


def _any(parts: Iterable[str | None]) -> str | None:
    """Return the expression for what fits one of them; None parts fit nothing."""
    found = list(dict.fromkeys(part for part in parts if part is not None))
    return f"({' | '.join(found)})" if len(found) > 1 else found[0] if found else None


def _none(part: str | None, kind: str) -> str:
    """Return the expression for values of a kind that do not fit."""
    return _BASES[kind] if part is None else f"({_BASES[kind]} & ~{part})"
