"""Regular expressions of ECMA-262 (JSON Schema's `pattern`) and of Python, written as Rust's, without anchors.

Only what is regular is read: no back-references. What the languages read differently is read so that it fits all of them.
A pattern that is searched for becomes one that the whole text matches. Lookaround, which Rust's expressions lack, becomes
several patterns that hold together, or is worked out by an automaton (`lookaround`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from services.patterns.charsets import ANY, Ranges, char_text, class_text
from services.patterns.effort import Effort
from services.patterns.lookaround import without_lookaround
from services.patterns.syntax import Branches, Item, NothingFits, Parser, PatternError

__all__ = [
    "NothingFits",
    "PatternError",
    "all_searched",
    "character_set",
    "literal",
    "matched",
    "not_searched",
    "other_than",
    "searched",
]

# A side of a pattern: within the text; at its end; at its end with any text between (a pattern that is searched for).
Edge = Literal["inside", "at", "open"]

_ANY = "(?s:.*)"


def searched(pattern: str, effort: Effort | None = None) -> str:
    """Return a pattern for the whole of each text in which `pattern` is found. Raises PatternError."""
    return _whole(*_parsed(pattern), "open", effort or Effort())


def matched(pattern: str) -> str:
    """Return a pattern for the texts that `pattern` matches from beginning to end. Raises PatternError."""
    return _whole(*_parsed(pattern), "at", Effort())


def all_searched(pattern: str, effort: Effort | None = None) -> list[str]:
    """Return patterns for the whole of a text, all of which match just where `pattern` is found. Raises PatternError.

    A pattern with lookaround at its ends becomes several, which are shorter than the one of `searched`.
    """
    return _all_whole(*_parsed(pattern), "open", effort or Effort())


def not_searched(pattern: str, effort: Effort | None = None) -> str:
    """Return a pattern for the whole of each text in which no language finds `pattern`.

    Raises NothingFits if it is found in every text, PatternError if the opposite cannot be described.
    """
    branches, flags = _parsed(pattern, is_wide=True)
    return without_lookaround(branches, flags, effort or Effort(), is_open=(True, True), is_complement=True)


def literal(text: str) -> str:
    """Return the pattern of one text."""
    return "".join(char_text(ord(char)) for char in text)


def other_than(texts: Iterable[str]) -> str:
    """Return a pattern for the whole of each text that is none of `texts`."""
    return _outside(sorted(set(texts)))


def character_set(ranges: Ranges, is_negated: bool) -> str:
    """Return the pattern of one character that is in one of these ranges of code points, or in none."""
    return class_text(ranges, is_negated)


def _outside(texts: list[str]) -> str:
    heads: dict[str, list[str]] = {}
    for text in texts:
        if text:
            heads.setdefault(text[0], []).append(text[1:])
    none_of = class_text([(ord(head), ord(head)) for head in heads], negated=True)
    sides = [f"{none_of}{_ANY}"] + [f"{char_text(ord(head))}{_outside(rest)}" for head, rest in heads.items()]
    if "" not in texts:
        sides.append("")
    return f"(?:{'|'.join(sides)})"


def _parsed(pattern: str, is_wide: bool = False) -> tuple[Branches, str]:
    try:
        return Parser(pattern, is_wide).parse()
    except RecursionError:
        raise PatternError("it is nested too deeply") from None


def _whole(branches: Branches, flags: str, edge: Edge, effort: Effort) -> str:
    try:
        if any(item.has_look for branch in branches for item in branch):
            return without_lookaround(branches, flags, effort, is_open=(edge == "open", edge == "open"))
        try:
            return _flagged(flags, _alternatives(branches, edge, edge))
        except PatternError:
            # An anchor within the pattern.
            return without_lookaround(branches, flags, effort, is_open=(edge == "open", edge == "open"))
    except RecursionError:
        raise PatternError("it is nested too deeply") from None


def _all_whole(branches: Branches, flags: str, edge: Edge, effort: Effort) -> list[str]:
    if len(branches) > 1:
        return [_whole(branches, flags, edge, effort)]
    items, is_left, is_right = list(branches[0]), edge == "at", edge == "at"
    looks: list[Item] = []
    # At the text's beginning or end a lookaround says something of the whole text.
    while items and (items[0].kind == "^" or (is_left and items[0].kind == "look" and not items[0].is_behind)):
        first = items.pop(0)
        is_left = True
        looks += [first] if first.kind == "look" else []
    while items and (items[-1].kind == "$" or (is_right and items[-1].kind == "look" and items[-1].is_behind)):
        last = items.pop()
        is_right = True
        looks += [last] if last.kind == "look" else []
    begin, end = (Item("^"),) if is_left else (), (Item("$"),) if is_right else ()
    at_ends = [_look(look, flags, effort) for look in looks]
    try:
        return [_whole(((*begin, *items, *end),), flags, "open", effort), *at_ends]
    except PatternError:
        inner: list[Item] = []
        rest = _without_inner(items, inner, flags) if is_left else items
        if not inner:
            raise
    at_ends += [_look(look, flags, effort) for look in inner]
    return [_whole(((*begin, *rest, *end),), flags, "open", effort), *at_ends]


def _without_inner(items: list[Item], looks: list[Item], flags: str) -> list[Item]:
    """The items of a sequence without lookaheads that stand behind a fixed number of characters; those join `looks`."""
    kept: list[Item] = []
    for n, item in enumerate(items):
        if item.kind == "look" and not item.is_behind:
            # The characters in front match in one way only, so that the lookahead may start with them. Languages have
            # different other cases of letters: there any characters are taken.
            group = Item("group", branches=item.branches)
            front = (replace(each, chars=ANY) if "i" in flags else each for each in kept)
            looks.append(replace(item, branches=((*front, group),)))
        elif item.kind == "set" and item.least == item.most:
            kept.append(item)
        else:
            return [*kept, *items[n:]]
    return kept


def _look(look: Item, flags: str, effort: Effort) -> str:
    """The pattern for the whole of a text of a lookahead at its beginning, or of a lookbehind at its end."""
    if look.is_negative:
        is_open = (look.is_behind, not look.is_behind)
        try:
            return without_lookaround(look.branches, flags, effort, is_open=is_open, is_complement=True)
        except RecursionError:
            raise PatternError("it is nested too deeply") from None
    group = Item("group", branches=look.branches)
    return _whole(((group, Item("$")) if look.is_behind else (Item("^"), group),), flags, "open", effort)


def _alternatives(branches: Branches, left: Edge, right: Edge) -> str:
    return f"(?:{'|'.join(_sequence(branch, left, right) for branch in branches)})"


def _sequence(items: tuple[Item, ...], left: Edge, right: Edge) -> str:
    start, end = 0, len(items)
    while start < end and items[start].kind == "^" and left != "inside":
        start, left = start + 1, "at"
    while end > start and items[end - 1].kind == "$" and right != "inside":
        end, right = end - 1, "at"
    written = [_ANY] if start == end and "open" in (left, right) else []
    for n in range(start, end):
        written.append(_part(items[n], left if n == start else "inside", right if n == end - 1 else "inside"))
    return "".join(written)


def _part(item: Item, left: Edge, right: Edge) -> str:
    if item.kind in "^$":
        raise PatternError(f"{item.kind} stands where the text cannot {'begin' if item.kind == '^' else 'end'}")
    if item.kind == "group":
        if item.has_anchor and not item.is_repeated:
            return _flagged(item.flags, _alternatives(item.branches, left, right))
        text = _flagged(item.flags, _alternatives(item.branches, "inside", "inside"))
    else:
        text = item.chars.text
    return f"{_ANY if left == 'open' else ''}{text}{_quantifier(item)}{_ANY if right == 'open' else ''}"


def _quantifier(item: Item) -> str:
    if not item.is_repeated:
        return ""
    short = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((item.least, item.most))
    if short or item.least == item.most:
        return short or f"{{{item.least}}}"
    return f"{{{item.least},{'' if item.most is None else item.most}}}"


def _flagged(flags: str, text: str) -> str:
    return f"(?{flags}:{text})" if flags else text
