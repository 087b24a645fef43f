"""Regular expressions of JSON schemas as rules of llama.cpp's grammar (GBNF), for the inside of a JSON string.

Python's own parser reads them. A character that JSON escapes is written escaped where the pattern names it, and is left out
of sets that merely include it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from services.engine.llama.re_internals import ops, parse_regex

# The most optional characters in a row: llama.cpp follows all paths through them, for each token.
MOST_OPTIONAL = 32
# The most characters of a pattern with its repetitions written out.
MOST_WRITTEN = 4_000
# Ranges of code points that cannot stand in a JSON string unescaped, and of surrogates.
_FORBIDDEN = ((0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F), (0xD800, 0xDFFF))
_LAST = 0x10FFFF
_CATEGORIES = {
    ops.CATEGORY_DIGIT: [(0x30, 0x39)],
    ops.CATEGORY_WORD: [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)],
    ops.CATEGORY_SPACE: [(0x09, 0x0D), (0x20, 0x20)],
}
_NEGATED = {
    ops.CATEGORY_NOT_DIGIT: ops.CATEGORY_DIGIT,
    ops.CATEGORY_NOT_WORD: ops.CATEGORY_WORD,
    ops.CATEGORY_NOT_SPACE: ops.CATEGORY_SPACE,
}

Ranges = list[tuple[int, int]]


class Rule(NamedTuple):
    """A part of a pattern in GBNF, and its cost.

    `before`, `behind` and `longest` count optional parts in a row: at its beginning, at its end, and anywhere; all three
    are the same if it may be empty as a whole. `written` counts characters.
    """

    text: str
    empty: bool
    before: int
    behind: int
    longest: int
    written: int


def rule_of(pattern: str) -> str:
    """Return the GBNF of the texts in which the pattern is found, as they stand in JSON between the quotes.

    Raises ValueError, naming the part of the pattern that is not supported.
    """
    try:
        parsed = parse_regex(pattern)
    except ValueError as error:
        raise ValueError(f"the pattern cannot be read: {error}") from None
    whole = _whole(parsed)
    if whole.longest > MOST_OPTIONAL:
        raise ValueError(f"the pattern may leave out {whole.longest} parts in a row, and {MOST_OPTIONAL} are the most")
    if whole.written > MOST_WRITTEN:
        raise ValueError(f"the pattern comes to {whole.written} characters, and {MOST_WRITTEN} are the most")
    return whole.text


def _whole(parsed: list[Any]) -> Rule:
    """A pattern, with any text before and behind it unless it is anchored; each side of a branch separately."""
    if len(parsed) == 1 and parsed[0][0] is ops.BRANCH:
        return _branch([_whole(list(side)) for side in parsed[0][1][1]])
    anywhere = Rule(f"{_set(_complement([]))}*", True, 1, 1, 1, 1)
    starts = bool(parsed) and parsed[0] in ((ops.AT, ops.AT_BEGINNING), (ops.AT, ops.AT_BEGINNING_STRING))
    ends = bool(parsed) and parsed[-1] in ((ops.AT, ops.AT_END), (ops.AT, ops.AT_END_STRING))
    body = _sequence(parsed[1 if starts else 0 : -1 if ends else None])
    return _joined([*([] if starts else [anywhere]), body, *([] if ends else [anywhere])])


def _sequence(items: Sequence[Any]) -> Rule:
    return _joined([_item(kind, value) for kind, value in items])


def _joined(parts: Sequence[Rule]) -> Rule:
    if not parts:
        return Rule('""', True, 0, 0, 0, 0)
    before = run = longest = 0
    leads = True
    for part in parts:
        if part.empty:
            run += part.longest
        else:
            longest = max(longest, run + part.before, part.longest)
            before, leads = (run + part.before, False) if leads else (before, False)
            run = part.behind
    longest = max(longest, run)
    text, written = " ".join(part.text for part in parts), sum(part.written for part in parts)
    return Rule(text, leads, run if leads else before, run, longest, written)


def _item(kind: Any, value: Any) -> Rule:
    if kind is ops.LITERAL:
        return Rule(_literal(value), False, 0, 0, 0, 1)
    if kind is ops.NOT_LITERAL:
        return Rule(_set(_complement([(value, value)])), False, 0, 0, 0, 1)
    if kind is ops.ANY:
        return Rule(_set(_complement([])), False, 0, 0, 0, 1)
    if kind is ops.IN:
        return Rule(_class(value), False, 0, 0, 0, 1)
    if kind is ops.SUBPATTERN:
        inner = _sequence(value[3])
        return inner._replace(text=f"({inner.text})")
    if kind is ops.BRANCH:
        return _branch([_sequence(side) for side in value[1]])
    if kind in (ops.MAX_REPEAT, ops.MIN_REPEAT):
        least, most, inside = value
        return _repeated(_sequence(inside), int(least), None if most is ops.MAXREPEAT else int(most))
    raise ValueError(f"the pattern has what cannot be kept to: {str(kind).lower().replace('_', ' ')}")


def _branch(sides: Sequence[Rule]) -> Rule:
    text, empty = "(" + " | ".join(side.text for side in sides) + ")", any(side.empty for side in sides)
    before, behind, longest = (max(getattr(side, name) for side in sides) for name in ("before", "behind", "longest"))
    if empty:
        # Each side is a separate path.
        before = behind = longest = max(longest, 1) * len(sides)
    return Rule(text, empty, before, behind, longest, sum(side.written for side in sides))


def _repeated(item: Rule, least: int, most: int | None) -> Rule:
    times = max(1, least + 1 if most is None else most)
    before, behind, longest = item.before, item.behind, item.longest
    if item.empty and most is None:
        raise ValueError("the pattern repeats without end what may be empty")
    if item.empty:
        longest *= times
    elif times > 1:
        longest = max(longest, behind + before)
    if item.empty or least == 0:
        before = behind = longest = max(longest, 1)
    bounds = "*" if (least, most) == (0, None) else f"{{{least},{'' if most is None else most}}}"
    return Rule(f"({item.text}){bounds}", item.empty or least == 0, before, behind, longest, item.written * times)


def _literal(code: int) -> str:
    """A character as JSON writes it, as a literal or a set of the grammar."""
    if any(first <= code <= last for first, last in _FORBIDDEN):
        return _escape(code)
    return _set([(code, code)])


def _escape(code: int) -> str:
    if 0xD800 <= code <= 0xDFFF:
        raise ValueError("the pattern has half a character (a lone surrogate)")
    written = json.dumps(chr(code))[1:-1] if code != 0x7F else r"\u007f"
    return '"' + written.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _class(items: Sequence[tuple[Any, Any]]) -> str:
    """A set in brackets. If it names a quote, a backslash or a control character, the escape of that is allowed too."""
    negated = bool(items) and items[0][0] is ops.NEGATE
    ranges: Ranges = []
    escapes: list[str] = []
    for kind, value in items[1:] if negated else items:
        if kind is ops.LITERAL:
            ranges.append((value, value))
            if not negated and any(first <= value <= last for first, last in _FORBIDDEN):
                escapes.append(_escape(value))
        elif kind is ops.RANGE:
            ranges.append((value[0], value[1]))
        elif kind is ops.CATEGORY:
            ranges += _complement(_CATEGORIES[_NEGATED[value]]) if value in _NEGATED else _CATEGORIES[value]
        else:
            raise ValueError(f"the pattern has what cannot be kept to: {str(kind).lower()}")
    kept = _complement(ranges) if negated else _cut(ranges)
    choices = [*([_set(kept)] if kept else []), *escapes]
    if not choices:
        raise ValueError("the pattern has a set of which nothing can stand in a JSON text")
    return choices[0] if len(choices) == 1 else f"({' | '.join(choices)})"


def _cut(ranges: Ranges) -> Ranges:
    """The ranges without the forbidden code points."""
    kept = sorted(ranges)
    for low, high in _FORBIDDEN:
        kept = [
            part
            for first, last in kept
            for part in ((first, min(last, low - 1)), (max(first, high + 1), last))
            if part[0] <= part[1]
        ]
    return kept


def _complement(ranges: Ranges) -> Ranges:
    """All allowed code points outside of these ranges."""
    kept, at = [], 0
    for first, last in sorted(ranges):
        if at < first:
            kept.append((at, first - 1))
        at = max(at, last + 1)
    if at <= _LAST:
        kept.append((at, _LAST))
    return _cut(kept)


def _set(ranges: Ranges) -> str:
    """A set in GBNF, with escaped bounds."""
    return "[" + "".join(f"\\U{first:08X}-\\U{last:08X}" for first, last in ranges) + "]"
