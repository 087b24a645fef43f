"""The syntax of regular expressions, as far as ECMA-262, Python and Rust agree on it.

What the languages read differently is read so that it fits all of them; within a negative lookaround, so that it takes in
what any of them reads there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from services.patterns.charsets import ANY, LAST, LINE_ENDS, NONE, CharSet, Ranges, class_named

_CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D, "0": 0x00, "a": 0x07}
_HEX = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}|U([0-9a-fA-F]{8})")
_PROPERTY = re.compile(r"[pP]\{(?:[A-Za-z_]+=)?[A-Za-z_]+\}|[pP][A-Z]")
_REPEAT = re.compile(r"\{(\d+)(?:(,)(\d*))?\}")
_GROUP = re.compile(r"\?(?:P?<([A-Za-z_]\w*)>|:|([isu]+):)")
_LOOK = re.compile(r"\?(<?)([=!])")
_FLAGS = re.compile(r"\(\?([isu]+)\)")


class PatternError(ValueError):
    """A pattern is wrong, or not regular; the message says where and why."""


class NothingFits(PatternError):
    """No text is left that a pattern matches."""


@dataclass(frozen=True)
class Item:
    """A part of a sequence: an anchor (^ or $), a group, a lookaround, or a set of characters."""

    kind: Literal["^", "$", "group", "look", "set"]
    chars: CharSet = NONE
    branches: tuple[tuple[Item, ...], ...] = ()
    flags: str = ""
    least: int = 1
    most: int | None = 1
    is_negative: bool = False
    """Of a lookaround: its branches do not match there."""
    is_behind: bool = False

    @property
    def is_repeated(self) -> bool:
        """True if it has a quantifier that makes a difference."""
        return (self.least, self.most) != (1, 1)

    @property
    def has_anchor(self) -> bool:
        """True if ^ or $ is in it, outside of a lookaround."""
        return self.kind in "^$" or (self.kind == "group" and any(item.has_anchor for item in self._inner))

    @property
    def has_look(self) -> bool:
        """True if a lookaround is in it."""
        return self.kind == "look" or any(item.has_look for item in self._inner)

    @property
    def _inner(self) -> list[Item]:
        return [item for branch in self.branches for item in branch]


Branches = tuple[tuple[Item, ...], ...]


class Parser:
    """Reads one pattern; `is_wide`: so that it takes in what any of the languages reads in it."""

    def __init__(self, pattern: str, is_wide: bool = False) -> None:
        self._pattern = pattern
        self._at = 0
        self._is_wide = is_wide

    def parse(self) -> tuple[Branches, str]:
        """Return the pattern's alternatives, and the flags that hold for the whole of it. Raises PatternError."""
        flags = _FLAGS.match(self._pattern)
        self._at = flags.end() if flags else 0
        branches = self._branches()
        if self._at < len(self._pattern):
            raise self._error("this bracket closes nothing")
        return branches, flags[1].replace("u", "") if flags else ""

    def _branches(self) -> Branches:
        branches: list[tuple[Item, ...]] = []
        while True:
            items: list[Item] = []
            while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
                items.append(self._item())
            branches.append(tuple(items))
            if not self._take("|"):
                return tuple(branches)

    def _item(self) -> Item:
        char = self._pattern[self._at]
        if char in "^$":
            self._at += 1
            return self._unrepeated(Item("^") if char == "^" else self._end())
        if char == "(" and (look := _LOOK.match(self._pattern, self._at + 1)):
            return self._look(look)
        if char == "(":
            return self._repeated(self._group())
        if char == "[":
            return self._repeated(Item("set", self._set()))
        if char == "\\":
            return self._escape()
        if char in "*+?":
            raise self._error("nothing to repeat")
        self._at += 1
        return self._repeated(Item("set", self._dot() if char == "." else self._chars([(ord(char),) * 2])))

    def _chars(self, ranges: Ranges, properties: tuple[str, ...] = (), is_negated: bool = False) -> CharSet:
        return CharSet(tuple(ranges), properties, is_negated, self._is_wide)

    def _dot(self) -> CharSet:
        # Python's reaches to the next line feed only.
        return replace(self._chars(LINE_ENDS[:1] if self._is_wide else LINE_ENDS, is_negated=True), is_dot=True)

    def _end(self) -> Item:
        if not self._is_wide:
            return Item("$")
        # Python's also matches in front of a last line feed.
        return Item("look", branches=((Item("$"),), (Item("set", self._chars([(0x0A, 0x0A)])), Item("$"))))

    def _look(self, match: re.Match[str]) -> Item:
        start, is_wide = self._at, self._is_wide
        self._at = match.end()
        self._is_wide = is_wide != (match[2] == "!")
        branches = self._branches()
        self._is_wide = is_wide
        if not self._take(")"):
            self._at = start
            raise self._error("this group is not closed")
        return self._unrepeated(
            Item("look", branches=branches, is_negative=match[2] == "!", is_behind=bool(match[1])), "a lookaround"
        )

    def _boundary(self, is_negated: bool) -> Item:
        """\\b or \\B: a word's character is on one side of it only, or on both or on none."""
        branches: list[tuple[Item, ...]] = [
            (self._beside(is_behind=True, is_word=left), self._beside(is_behind=False, is_word=left == is_negated))
            for left in (True, False)
        ]
        if is_negated and not self._is_wide:
            # Python's \\B, up to 3.13, is not found in the empty text.
            some = ((Item("set", ANY),),)
            branches += [(*branches[1], Item("look", branches=some, is_behind=True))]
            branches[1] = (*branches[1], Item("look", branches=some))
        return Item("group", branches=tuple(branches))

    def _beside(self, *, is_behind: bool, is_word: bool) -> Item:
        words = class_named("w", self._is_wide == is_word)
        chars = self._chars([], (words,)) if isinstance(words, str) else self._chars(words)
        return Item("look", branches=((Item("set", chars),),), is_negative=not is_word, is_behind=is_behind)

    def _group(self) -> Item:
        start = self._at
        self._at += 1
        flags = ""
        if self._pattern.startswith("?", self._at):
            match = _GROUP.match(self._pattern, self._at)
            if not match:
                self._at = start
                raise self._error("groups with (? of this kind cannot be kept to")
            self._at = match.end()
            flags = (match[2] or "").replace("u", "")
        branches = self._branches()
        if not self._take(")"):
            self._at = start
            raise self._error("this group is not closed")
        return Item("group", branches=branches, flags=flags)

    def _escape(self) -> Item:
        name = self._pattern[self._at + 1 : self._at + 2]
        if name and name in "AZz":
            self._at += 2
            return self._unrepeated(Item("^") if name == "A" else self._end() if name == "Z" else Item("$"))
        if name and name in "bB":
            self._at += 2
            return self._unrepeated(self._boundary(name == "B"))
        found = self._escaped()
        return self._repeated(Item("set", self._chars([], (found,)) if isinstance(found, str) else self._chars(found)))

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
            return class_named(name, is_negated != self._is_wide)
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
        if code > LAST or 0xD800 <= code <= 0xDFFF:
            raise self._error("this is no character")
        return [(code, code)]

    def _set(self) -> CharSet:
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
        return self._chars(ranges, tuple(properties), is_negated)

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

    def _repeated(self, item: Item) -> Item:
        bounds: tuple[int, int | None]
        if self._at < len(self._pattern) and self._pattern[self._at] in "*+?":
            bounds = {"*": (0, None), "+": (1, None), "?": (0, 1)}[self._pattern[self._at]]
            self._at += 1
        elif match := _REPEAT.match(self._pattern, self._at):
            bounds = int(match[1]), int(match[3] or match[1]) if match[3] or not match[2] else None
            if bounds[1] is not None and bounds[1] < bounds[0]:
                raise self._error("this quantifier's bounds are the wrong way round")
            self._at = match.end()
        elif self._pattern.startswith("{,", self._at):
            raise self._error("a quantifier without its least number is read in two ways")
        else:
            return item
        # Whether it takes as few as possible makes no difference to the texts that match.
        self._take("?")
        if self._at < len(self._pattern) and self._pattern[self._at] in "*+?":
            raise self._error("a quantifier stands behind another")
        return replace(item, least=bounds[0], most=bounds[1])

    def _unrepeated(self, anchor: Item, name: str = "an anchor") -> Item:
        if self._at < len(self._pattern) and (self._pattern[self._at] in "*+?" or _REPEAT.match(self._pattern, self._at)):
            raise self._error(f"{name} cannot be repeated")
        return anchor

    def _take(self, char: str) -> bool:
        found = self._pattern.startswith(char, self._at)
        self._at += found
        return found

    def _error(self, reason: str) -> PatternError:
        return PatternError(f"at character {self._at} of {self._pattern[:100]!r}: {reason}")
