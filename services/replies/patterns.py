"""Regular expressions of ECMA-262 (JSON Schema's `pattern`) and of Python, written as Rust's, without anchors.

Only what is regular in all three is read: no lookaround, no back-references, no word boundaries. What the languages read
differently is read so that it fits all of them.
A pattern that is searched for becomes one that the whole text matches.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Ranges = list[tuple[int, int]]
# A side of a pattern: within the text; at its end; at its end with any text between (a pattern that is searched for).
Edge = Literal["inside", "at", "open"]

_LAST = 0x10FFFF
_ANY = "(?s:.*)"
_LINE_ENDS = [(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)]
_DIGITS: Ranges = [(0x30, 0x39)]
_WORDS: Ranges = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
_SPACES: Ranges = [(0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029)]
_SPACES += [(0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000)]
# Also white space in one of the languages.
_MORE_SPACES: Ranges = [*_SPACES, (0x1C, 0x1F), (0x85, 0x85), (0xFEFF, 0xFEFF)]
_UNICODE_WORDS = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}"
_CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D, "0": 0x00, "a": 0x07}
_HEX = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}|U([0-9a-fA-F]{8})")
_PROPERTY = re.compile(r"[pP]\{(?:[A-Za-z_]+=)?[A-Za-z_]+\}|[pP][A-Z]")
_REPEAT = re.compile(r"\{(\d+)(?:(,)(\d*))?\}")
_GROUP = re.compile(r"\?(?:P?<([A-Za-z_]\w*)>|:|([isu]+):)")
_FLAGS = re.compile(r"\(\?([isu]+)\)")


def _class_named(name: str, is_negated: bool) -> Ranges | str:
    """The characters of \\d, \\w, \\s and their opposites that are so in every language.

    In a negated set, those that are so in any of them.
    """
    sets: dict[str, tuple[Ranges | str, Ranges | str]] = {
        "d": (_DIGITS, "\\p{Nd}"),
        "w": (_WORDS, _UNICODE_WORDS),
        "s": (_SPACES, _MORE_SPACES),
        "D": ("\\P{Nd}", _complement(_DIGITS)),
        "W": (f"[^{_UNICODE_WORDS}]", _complement(_WORDS)),
        "S": (_complement(_MORE_SPACES), _complement(_SPACES)),
    }
    return sets[name][is_negated]


class PatternError(ValueError):
    """A pattern is wrong, or not regular; the message says where and why."""


@dataclass(frozen=True)
class _Item:
    """A part of a sequence: an anchor (^ or $), a group, or text in Rust's syntax; `repeat` is its quantifier."""

    kind: Literal["^", "$", "group", "text"]
    text: str = ""
    branches: tuple[tuple[_Item, ...], ...] = ()
    flags: str = ""
    repeat: str = ""

    @property
    def has_anchor(self) -> bool:
        return self.kind in "^$" or any(item.has_anchor for branch in self.branches for item in branch)


def searched(pattern: str) -> str:
    """Return a pattern for the whole of each text in which `pattern` is found. Raises PatternError."""
    return _whole(pattern, "open")


def matched(pattern: str) -> str:
    """Return a pattern for the texts that `pattern` matches from beginning to end. Raises PatternError."""
    return _whole(pattern, "at")


def literal(text: str) -> str:
    """Return the pattern of one text."""
    return "".join(_char(ord(char)) for char in text)


def other_than(texts: Iterable[str]) -> str:
    """Return a pattern for the whole of each text that is none of `texts`."""
    return _outside(sorted(set(texts)))


def character_set(ranges: Ranges, is_negated: bool) -> str:
    """Return the pattern of one character that is in one of these ranges of code points, or in none."""
    return _class(ranges, is_negated)


def _outside(texts: list[str]) -> str:
    heads: dict[str, list[str]] = {}
    for text in texts:
        if text:
            heads.setdefault(text[0], []).append(text[1:])
    none_of = _class([(ord(head), ord(head)) for head in heads], negated=True)
    sides = [f"{none_of}{_ANY}"] + [f"{_char(ord(head))}{_outside(rest)}" for head, rest in heads.items()]
    if "" not in texts:
        sides.append("")
    return f"(?:{'|'.join(sides)})"


def _whole(pattern: str, edge: Edge) -> str:
    try:
        branches, flags = _Parser(pattern).parse()
        written = _alternatives(branches, edge, edge)
    except RecursionError:
        raise PatternError("it is nested too deeply") from None
    return f"(?{flags}:{written})" if flags else written


class _Parser:
    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def parse(self) -> tuple[tuple[tuple[_Item, ...], ...], str]:
        flags = _FLAGS.match(self._pattern)
        self._at = flags.end() if flags else 0
        branches = self._branches()
        if self._at < len(self._pattern):
            raise self._error("this bracket closes nothing")
        return branches, flags[1].replace("u", "") if flags else ""

    def _branches(self) -> tuple[tuple[_Item, ...], ...]:
        branches: list[tuple[_Item, ...]] = []
        while True:
            items: list[_Item] = []
            while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
                items.append(self._item())
            branches.append(tuple(items))
            if not self._take("|"):
                return tuple(branches)

    def _item(self) -> _Item:
        char = self._pattern[self._at]
        if char in "^$":
            self._at += 1
            return self._unrepeated(_Item("^" if char == "^" else "$"))
        if char == "(":
            return self._repeated(self._group())
        if char == "[":
            return self._repeated(_Item("text", self._set()))
        if char == "\\":
            return self._escape()
        if char in "*+?":
            raise self._error("nothing to repeat")
        self._at += 1
        return self._repeated(_Item("text", _class(_LINE_ENDS, negated=True) if char == "." else _char(ord(char))))

    def _group(self) -> _Item:
        start = self._at
        self._at += 1
        flags = ""
        if self._pattern.startswith("?", self._at):
            match = _GROUP.match(self._pattern, self._at)
            if not match:
                self._at = start
                raise self._error("lookaround and other groups with (? cannot be kept to")
            self._at = match.end()
            flags = (match[2] or "").replace("u", "")
        branches = self._branches()
        if not self._take(")"):
            self._at = start
            raise self._error("this group is not closed")
        return _Item("group", branches=branches, flags=flags)

    def _escape(self) -> _Item:
        name = self._pattern[self._at + 1 : self._at + 2]
        if name and name in "AZz":
            self._at += 2
            return self._unrepeated(_Item("^" if name == "A" else "$"))
        if name and name in "bB":
            raise self._error("word boundaries cannot be kept to")
        found = self._escaped()
        return self._repeated(
            _Item("text", _class([], False, [found]) if isinstance(found, str) else _class(found, negated=False))
        )

    def _escaped(self, is_negated: bool = False) -> Ranges | str:
        """The characters of an escape; or Rust's own escape of a Unicode property."""
        self._at += 1
        rest = self._pattern[self._at :]
        name = rest[:1]
        if match := _HEX.match(rest):
            return self._code(match)
        if match := _PROPERTY.match(rest):
            self._at += match.end()
            return f"\\{match[0]}"
        self._at += 1
        if name and name in "dwsDWS":
            return _class_named(name, is_negated)
        if name == "c" and rest[1:2].isascii() and rest[1:2].isalpha():
            self._at += 1
            return [(ord(rest[1]) % 32, ord(rest[1]) % 32)]
        if name in _CONTROLS and not (name == "0" and rest[1:2].isdigit()):
            return [(_CONTROLS[name], _CONTROLS[name])]
        if not name or (name.isascii() and name.isalnum()):
            self._at -= 2
            raise self._error("this escape cannot be kept to")
        return [(ord(name), ord(name))]

    def _code(self, match: re.Match[str]) -> Ranges:
        """The character of a hexadecimal escape, or of two that make a surrogate pair."""
        code = int(next(filter(None, match.groups())), 16)
        self._at += match.end()
        if 0xD800 <= code <= 0xDBFF and (low := re.match(r"\\u([dD][c-fC-F][0-9a-fA-F]{2})", self._pattern[self._at :])):
            self._at += low.end()
            code = 0x10000 + ((code - 0xD800) << 10) + int(low[1], 16) - 0xDC00
        if code > _LAST or 0xD800 <= code <= 0xDFFF:
            raise self._error("this is no character")
        return [(code, code)]

    def _set(self) -> str:
        start = self._at
        self._at += 1
        is_negated = self._take("^")
        ranges: Ranges = []
        properties: list[str] = []
        if self._pattern.startswith("]", self._at):
            raise self._error("a set that is empty, or begins with a bracket, is read in two ways")
        while not self._take("]"):
            if self._at >= len(self._pattern):
                self._at = start
                raise self._error("this set is not closed")
            first = self._member(is_negated)
            if isinstance(first, str):
                properties.append(first)
            elif self._begins_range() and len(first) == 1 and first[0][0] == first[0][1]:
                self._at += 1
                ranges.append(self._range(first[0][0]))
            else:
                ranges += first
        return _class(ranges, is_negated, properties)

    def _begins_range(self) -> bool:
        return self._pattern.startswith("-", self._at) and not self._pattern.startswith("-]", self._at)

    def _range(self, first: int) -> tuple[int, int]:
        last = self._member(False)
        if isinstance(last, str) or len(last) != 1 or last[0][0] != last[0][1] or last[0][0] < first:
            raise self._error("this range ends before it begins")
        return first, last[0][0]

    def _member(self, is_negated: bool) -> Ranges | str:
        if self._pattern.startswith("\\b", self._at):
            self._at += 2
            return [(0x08, 0x08)]
        if self._pattern[self._at] == "\\":
            return self._escaped(is_negated)
        self._at += 1
        return [(ord(self._pattern[self._at - 1]),) * 2]

    def _repeated(self, item: _Item) -> _Item:
        repeat = ""
        if self._at < len(self._pattern) and self._pattern[self._at] in "*+?":
            repeat = self._pattern[self._at]
            self._at += 1
        elif match := _REPEAT.match(self._pattern, self._at):
            least, most = int(match[1]), int(match[3] or match[1])
            if most < least:
                raise self._error("this quantifier's bounds are the wrong way round")
            repeat = f"{{{least}{match[2] or ''}{most if match[3] else ''}}}"
            self._at = match.end()
        elif self._pattern.startswith("{,", self._at):
            raise self._error("a quantifier without its least number is read in two ways")
        if not repeat:
            return item
        # Whether it takes as few as possible makes no difference to the texts that match.
        self._take("?")
        if self._at < len(self._pattern) and self._pattern[self._at] in "*+?":
            raise self._error("a quantifier stands behind another")
        return _Item(item.kind, item.text, item.branches, item.flags, repeat)

    def _unrepeated(self, anchor: _Item) -> _Item:
        if self._at < len(self._pattern) and (self._pattern[self._at] in "*+?" or _REPEAT.match(self._pattern, self._at)):
            raise self._error("an anchor cannot be repeated")
        return anchor

    def _take(self, char: str) -> bool:
        found = self._pattern.startswith(char, self._at)
        self._at += found
        return found

    def _error(self, reason: str) -> PatternError:
        return PatternError(f"at character {self._at} of {self._pattern[:100]!r}: {reason}")


def _alternatives(branches: Iterable[tuple[_Item, ...]], left: Edge, right: Edge) -> str:
    return f"(?:{'|'.join(_sequence(branch, left, right) for branch in branches)})"


def _sequence(items: tuple[_Item, ...], left: Edge, right: Edge) -> str:
    start, end = 0, len(items)
    while start < end and items[start].kind == "^" and left != "inside":
        start, left = start + 1, "at"
    while end > start and items[end - 1].kind == "$" and right != "inside":
        end, right = end - 1, "at"
    written = [_ANY] if start == end and "open" in (left, right) else []
    for n in range(start, end):
        written.append(_part(items[n], left if n == start else "inside", right if n == end - 1 else "inside"))
    return "".join(written)


def _part(item: _Item, left: Edge, right: Edge) -> str:
    if item.kind in "^$":
        raise PatternError(f"{item.kind} stands where the text cannot {'begin' if item.kind == '^' else 'end'}")
    if item.kind == "group":
        if item.has_anchor and not item.repeat:
            return _flagged(item.flags, _alternatives(item.branches, left, right))
        text = _flagged(item.flags, _alternatives(item.branches, "inside", "inside"))
    else:
        text = item.text
    return f"{_ANY if left == 'open' else ''}{text}{item.repeat}{_ANY if right == 'open' else ''}"


def _flagged(flags: str, text: str) -> str:
    return f"(?{flags}:{text})" if flags else text


def _complement(ranges: Ranges) -> Ranges:
    kept, at = [], 0
    for first, last in sorted(ranges):
        if at < first:
            kept.append((at, first - 1))
        at = max(at, last + 1)
    return [*kept, (at, _LAST)] if at <= _LAST else kept


def _class(ranges: Ranges, negated: bool, properties: Iterable[str] = ()) -> str:
    """A set in Rust's syntax, in which only hexadecimal escapes stand for characters."""
    members = "".join(properties) + "".join(f"\\x{{{first:X}}}-\\x{{{last:X}}}" for first, last in _cut(ranges))
    if not members:
        return "(?s:.)" if negated else "[^\\x{0}-\\x{10FFFF}]"
    return f"[{'^' if negated else ''}{members}]"


def _cut(ranges: Ranges) -> Ranges:
    """The ranges without surrogates, which Rust refuses as bounds."""
    kept = []
    for first, last in sorted(set(ranges)):
        kept += [part for part in ((first, min(last, 0xD7FF)), (max(first, 0xE000), last)) if part[0] <= part[1]]
    return kept


def _char(code: int) -> str:
    char = chr(code)
    return char if char.isascii() and char.isalnum() else f"\\x{{{code:X}}}"
