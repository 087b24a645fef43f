"""Sets of characters in regular expressions, as ranges of code points and Unicode properties, and in Rust's syntax."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Ranges = list[tuple[int, int]]

LAST = 0x10FFFF
LINE_ENDS: Ranges = [(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)]
DIGITS: Ranges = [(0x30, 0x39)]
WORDS: Ranges = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
UNICODE_DIGITS = "\\p{Nd}"
UNICODE_WORDS = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}"
_SPACES: Ranges = [(0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029)]
_SPACES += [(0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000)]
# Also white space in one of the languages.
_MORE_SPACES: Ranges = [*_SPACES, (0x1C, 0x1F), (0x85, 0x85), (0xFEFF, 0xFEFF)]


@dataclass(frozen=True)
class CharSet:
    """Characters in one of the ranges, or with one of the properties in Rust's syntax; `is_negated`: all others."""

    ranges: tuple[tuple[int, int], ...]
    properties: tuple[str, ...] = ()
    is_negated: bool = False
    is_wide: bool = False
    """True if it holds what is so in any of the languages; False: what is so in each of them."""
    is_dot: bool = False

    @property
    def text(self) -> str:
        """The set in Rust's syntax."""
        if len(self.ranges) == 1 and self.ranges[0][0] == self.ranges[0][1] and not self.properties and not self.is_negated:
            return char_text(self.ranges[0][0])
        return class_text(list(self.ranges), self.is_negated, self.properties)


NONE = CharSet(())
ANY = CharSet((), is_negated=True)


def class_named(name: str, is_wide: bool) -> Ranges | str:
    """Return the characters of \\d, \\w, \\s or their opposites that are so in every language; `is_wide`: in any."""
    sets: dict[str, tuple[Ranges | str, Ranges | str]] = {
        "d": (DIGITS, UNICODE_DIGITS),
        "w": (WORDS, UNICODE_WORDS),
        "s": (_SPACES, _MORE_SPACES),
        "D": ("\\P{Nd}", complement(DIGITS)),
        "W": (f"[^{UNICODE_WORDS}]", complement(WORDS)),
        "S": (complement(_MORE_SPACES), complement(_SPACES)),
    }
    return sets[name][is_wide]


def complement(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Return the ranges of the code points that are in none of these."""
    kept, at = [], 0
    for first, last in sorted(ranges):
        if at < first:
            kept.append((at, first - 1))
        at = max(at, last + 1)
    return [*kept, (at, LAST)] if at <= LAST else kept


def class_text(ranges: Ranges, negated: bool, properties: Iterable[str] = ()) -> str:
    """Return a set in Rust's syntax, in which only hexadecimal escapes stand for characters."""
    members = "".join(properties) + ranges_text(ranges)
    if not members:
        return "(?s:.)" if negated else "[^\\x{0}-\\x{10FFFF}]"
    return f"[{'^' if negated else ''}{members}]"


def ranges_text(ranges: Iterable[tuple[int, int]]) -> str:
    """Return the members of a set without its brackets."""
    return "".join(
        f"\\x{{{first:X}}}" if first == last else f"\\x{{{first:X}}}-\\x{{{last:X}}}" for first, last in _cut(ranges)
    )


def char_text(code: int) -> str:
    """Return one character in Rust's syntax."""
    char = chr(code)
    return char if char.isascii() and char.isalnum() else f"\\x{{{code:X}}}"


def _cut(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The ranges without surrogates, which Rust refuses as bounds."""
    kept = []
    for first, last in sorted(set(ranges)):
        kept += [part for part in ((first, min(last, 0xD7FF)), (max(first, 0xE000), last)) if part[0] <= part[1]]
    return kept
