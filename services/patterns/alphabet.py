"""The letters of an automaton: characters between which no set of a pattern makes a difference."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product

from services.patterns.charsets import (
    DIGITS,
    LAST,
    UNICODE_DIGITS,
    UNICODE_WORDS,
    WORDS,
    CharSet,
    Ranges,
    complement,
    ranges_text,
)
from services.patterns.effort import Effort
from services.patterns.syntax import PatternError

_MOST_PROPERTIES = 3
_MOST_RANGES = 300
# More characters than this are not looked at one by one for their other case.
_MOST_FOLDED = 1_000
# What is known of the properties of ASCII.
_ASCII = {UNICODE_DIGITS: DIGITS, UNICODE_WORDS: WORDS}
# What Python counts as the other case of a letter of ASCII, besides ASCII's own.
_FAR_CASES = {"k": "\u212a", "s": "\u017f", "i": "\u0130\u0131"}

# A block of code points, and which of the properties its characters have.
Part = tuple[int, tuple[bool, ...]]


class Alphabet:
    """The letters that tell these sets apart; each is a tuple of parts of the code points."""

    def __init__(self, sets: list[CharSet], effort: Effort) -> None:
        names = list(dict.fromkeys(_plain(name)[0] for each in sets for name in each.properties))
        bounds = {0, 0x80} if names else {0}
        for each in sets:
            bounds |= {bound for first, last in each.ranges for bound in (first, last + 1)}
        bounds |= {bound for name in names for first, last in _ASCII.get(name, ()) for bound in (first, last + 1)}
        self._starts = sorted(bounds - {LAST + 1})
        if len(names) > _MOST_PROPERTIES or len(self._starts) > _MOST_RANGES:
            raise PatternError("its lookaround has too many sets of characters to be kept to")
        self._names = names
        effort.spend(20 * len(sets) * len(self._starts) * 2 ** len(names))
        self._members = {each: self._parts_of(each) for each in sets}
        found: dict[tuple[bool, ...], list[Part]] = {}
        for part in (part for block in range(len(self._starts)) for part in self._parts(block)):
            found.setdefault(tuple(part in members for members in self._members.values()), []).append(part)
        self.letters = [tuple(parts) for parts in found.values()]

    def has(self, letter: int, chars: CharSet) -> bool:
        """Return whether a set has the characters of a letter."""
        return self.letters[letter][0] in self._members[chars]

    def text(self, letters: Iterable[int]) -> str:
        """Return the set of these letters in Rust's syntax."""
        kept = set(letters)
        if len(kept) == len(self.letters):
            return "(?s:.)"
        masks: dict[int, set[tuple[bool, ...]]] = {}
        for block, mask in (part for letter in kept for part in self.letters[letter]):
            masks.setdefault(block, set()).add(mask)
        blocks: dict[frozenset[tuple[bool, ...]], list[int]] = {}
        for block, found in masks.items():
            is_whole = len(found) == len(self._parts(block))
            blocks.setdefault(frozenset() if is_whole else frozenset(found), []).append(block)
        return f"[{''.join(self._text(each, found) for found, each in blocks.items())}]"

    def _text(self, blocks: list[int], masks: frozenset[tuple[bool, ...]]) -> str:
        ranges = ranges_text(_joined(self._range(block) for block in sorted(blocks)))
        if not masks or not ranges:
            return ranges
        return "".join(
            f"[[{ranges}]"
            + "".join(f"&&[{'' if is_so else '^'}{name}]" for name, is_so in zip(self._names, mask, strict=True))
            + "]"
            for mask in sorted(masks)
        )

    def _range(self, block: int) -> tuple[int, int]:
        return self._starts[block], self._starts[block + 1] - 1 if block + 1 < len(self._starts) else LAST

    def _parts(self, block: int) -> list[Part]:
        code = self._starts[block]
        known = [(_is_in(code, _ASCII[name]),) if code < 0x80 and name in _ASCII else (True, False) for name in self._names]
        return [(block, mask) for mask in product(*known)]

    def _parts_of(self, chars: CharSet) -> frozenset[Part]:
        asked = [_plain(name) for name in chars.properties]
        columns = [(self._names.index(name), is_so) for name, is_so in asked]
        blocks = set()
        for first, last in chars.ranges:
            blocks |= set(range(bisect_right(self._starts, first) - 1, bisect_right(self._starts, last)))
        return frozenset(
            part
            for block in range(len(self._starts))
            for part in self._parts(block)
            if (block in blocks or any(part[1][column] == is_so for column, is_so in columns)) != chars.is_negated
        )


def folded(chars: CharSet) -> CharSet:
    """Return a set with the other cases of its letters. Raises PatternError for one that has too many to look at."""
    if {_plain(name)[0] for name in chars.properties} - _ASCII.keys():
        raise PatternError("properties beside (?i) and lookaround cannot be kept to")
    is_wide = chars.is_wide != chars.is_negated
    ranges: Ranges = list(chars.ranges)
    cases: set[int] = set()
    if _size(ranges) <= _MOST_FOLDED:
        cases = {case for code in _codes(ranges) for case in _cases(chr(code), is_wide)}
    elif _size(gaps := complement(ranges)) <= _MOST_FOLDED:
        # The letters that are not in it, of which another case is.
        cases = {code for code in _codes(gaps) if any(_is_in(case, ranges) for case in _cases(chr(code), is_wide))}
    elif is_wide:
        raise PatternError("a set of so many characters beside (?i) and lookaround cannot be kept to")
    found = _joined([*chars.ranges, *((code, code) for code in cases)])
    return replace(chars, ranges=tuple(found))


def _size(ranges: Ranges) -> int:
    return sum(last - first + 1 for first, last in ranges)


def _codes(ranges: Ranges) -> Iterator[int]:
    for first, last in ranges:
        yield from range(first, last + 1)


def _cases(char: str, is_wide: bool) -> set[int]:
    found = {char.lower(), char.upper(), char.swapcase()}
    if is_wide:
        found |= {char.casefold(), char.title(), *_FAR_CASES.get(char.lower(), "")}
        found |= {near for near, far in _FAR_CASES.items() if char in far} | {
            near.upper() for near, far in _FAR_CASES.items() if char in far
        }
    elif char.isascii():
        found = {case for case in found if case.isascii()}
    else:
        # Only letters that have just one other case, each the other's.
        found = {case for case in found if case.lower() == char.lower() and case.upper() == char.upper()}
        found = {case for case in found if not case.isascii()}
    return {ord(case) for case in found if len(case) == 1}


def _plain(name: str) -> tuple[str, bool]:
    """A property, and False if it is the opposite that is named."""
    if name.startswith("[^"):
        return name[2:-1], False
    return re.sub(r"\\P", r"\\p", name), not name.startswith("\\P")


def _is_in(code: int, ranges: Ranges) -> bool:
    return any(first <= code <= last for first, last in ranges)


def _joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Sorted ranges, those that touch as one."""
    return complement(complement(ranges))
