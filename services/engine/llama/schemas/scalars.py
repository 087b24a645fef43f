"""The keywords of numbers and strings, and literal values, in the form that the grammar keeps to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from services.engine.llama.schemas.errors import SchemaError, inside
from services.engine.llama.schemas.keywords import (
    LARGEST_MULTIPLE,
    LARGEST_NUMBER,
    MOST_DIGITS,
    checked_number,
    count,
    number,
)
from services.patterns.effort import Effort
from services.patterns.patterns import NothingFits, PatternError, all_searched, matched, not_searched, searched
from services.patterns.string_formats import INTEGER_FORMATS, REFUSED_FORMATS, STRING_FORMATS

# The most characters of a pattern: the grammar follows each of its states.
LONGEST_PATTERN = 4_000


class Whole(str):
    """A pattern in Rust's syntax that the whole of a string matches: one of ours, which is not read again."""

    __slots__ = ()


def numeric(schema: Mapping[str, Any], types: list[str] | None, where: str) -> dict[str, Any]:
    """Return the keywords of numbers. Raises SchemaError."""
    kept: dict[str, Any] = {}
    schema = _within_reach(schema)
    low, high = number(schema, "minimum", where), number(schema, "maximum", where)
    for keyword, bound, name in (("exclusiveMinimum", low, "minimum"), ("exclusiveMaximum", high, "maximum")):
        value = schema.get(keyword)
        if isinstance(value, bool):
            # Draft 4: it says whether the bound beside it is exclusive.
            if value and bound is not None:
                kept[keyword] = bound
            elif bound is not None:
                kept[name] = bound
            continue
        if bound is not None:
            kept[name] = bound
        if value is not None:
            kept[keyword] = number(schema, keyword, where)
    if "multipleOf" in schema:
        kept["multipleOf"] = _multiple(schema, where)
    if types is not None and "integer" in types and schema.get("format") in INTEGER_FORMATS:
        least, most = INTEGER_FORMATS[schema["format"]]
        kept["minimum"] = max(least, kept.get("minimum", least))
        kept["maximum"] = min(most, kept.get("maximum", most))
    return kept


def _within_reach(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a schema whose bounds on the far side, as those of 64-bit integers, are the widest that can be kept to."""
    changed = {}
    for keyword, sign in (("minimum", -1), ("exclusiveMinimum", -1), ("maximum", 1), ("exclusiveMaximum", 1)):
        value = schema.get(keyword)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            continue
        if value * sign > LARGEST_NUMBER:
            changed[keyword] = sign * LARGEST_NUMBER
    return {**schema, **changed}


def _multiple(schema: Mapping[str, Any], where: str) -> int | float:
    value = number(schema, "multipleOf", where)
    if value is None or value <= 0:
        raise SchemaError(inside(where, "multipleOf"), "it should be more than 0")
    exponent = Decimal(repr(value)).normalize().as_tuple().exponent
    digits = -exponent if isinstance(exponent, int) and exponent < 0 else 0
    # llguidance multiplies by ten until nothing is left behind the point, in floats.
    scaled: float = value
    for _ in range(digits):
        scaled *= 10
    if digits > MOST_DIGITS or not math.isclose(scaled, round(scaled), rel_tol=0, abs_tol=0) or scaled > LARGEST_MULTIPLE:
        raise SchemaError(inside(where, "multipleOf"), f"{value} has too many digits to be kept to")
    return value


def textual(schema: Mapping[str, Any], where: str, effort: Effort) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the keywords of strings, and further schemas that hold beside them. Raises SchemaError."""
    kept: dict[str, Any] = {}
    for keyword in ("minLength", "maxLength"):
        if (value := count(schema, keyword, where)) is not None:
            kept[keyword] = value
    patterns = _patterns(schema["pattern"], inside(where, "pattern"), effort, all_searched) if "pattern" in schema else []
    if (pattern := _format(schema, where)) is not None:
        patterns.append(pattern)
    if patterns:
        kept["pattern"] = anchored(patterns[0])
    return kept, [{"pattern": anchored(pattern)} for pattern in patterns[1:]]


def pattern_of(value: Any, where: str, effort: Effort) -> str:
    """Return a pattern for the whole of a string in which `value` is found. Raises SchemaError."""
    return _patterns(value, where, effort, lambda *given: [searched(*given)])[0]


def not_pattern(value: Any, where: str, effort: Effort) -> Whole | None:
    """Return a pattern for the strings in which `value` is not found; None if there are none. Raises SchemaError."""

    def opposite(pattern: str, effort: Effort) -> list[str]:
        try:
            return [not_searched(pattern, effort)]
        except NothingFits:
            return []

    found = _patterns(value, where, effort, opposite)
    return Whole(found[0]) if found else None


def _patterns(value: Any, where: str, effort: Effort, read: Callable[[str, Effort], list[str]]) -> list[str]:
    if isinstance(value, Whole):
        return [value]
    if not isinstance(value, str):
        raise SchemaError(where, "a pattern should be a text")
    if len(value) > LONGEST_PATTERN:
        raise SchemaError(where, f"a pattern of more than {LONGEST_PATTERN} characters cannot be kept to")
    try:
        return read(value, effort.part())
    except PatternError as error:
        raise SchemaError(where, str(error)) from None


def anchored(pattern: str) -> str:
    """Return a pattern for the whole of a text as one that is searched for."""
    return f"^(?:{pattern})$"


def _format(schema: Mapping[str, Any], where: str) -> str | None:
    name = schema.get("format")
    if name is None:
        return None
    if not isinstance(name, str):
        raise SchemaError(inside(where, "format"), "it should be a name")
    if name in REFUSED_FORMATS:
        raise SchemaError(inside(where, "format"), f"the format {name} cannot be kept to")
    # A name that the specification does not know says nothing about the text (2020-12, Validation, section 7.1).
    return matched(STRING_FORMATS[name]) if name in STRING_FORMATS else None


def check_literal(value: Any, where: str) -> Any:
    """Return a value of `const` or `enum`, with numbers as the grammar writes them. Raises SchemaError."""
    if isinstance(value, list):
        return [check_literal(each, inside(where, n)) for n, each in enumerate(value)]
    if isinstance(value, dict):
        return {name: check_literal(each, inside(where, name)) for name, each in value.items()}
    if isinstance(value, str):
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise SchemaError(where, "it has half a character (a lone surrogate)")
        return value
    return value if value is None or isinstance(value, bool) else checked_number(value, where)
