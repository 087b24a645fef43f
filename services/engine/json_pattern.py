"""Regular expressions of JSON schemas, made such that what fits them can stand in a JSON text as it is.

A quote, a backslash and control characters would have to be escaped there: sets are cut by them, and patterns that ask for
them are refused.
"""

from __future__ import annotations

from collections.abc import Iterator

_CLASSES = {"d": "0-9", "w": "A-Za-z0-9_", "s": " "}
# First and last code points: control characters, quote, backslash, delete, and what is no character by itself.
_FORBIDDEN = ((0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F), (0xD800, 0xDFFF))
_LAST = 0x10FFFF

Ranges = list[tuple[int, int]]


def safe_pattern(pattern: str) -> str:
    """The same pattern, anchored, with every set of characters written out and cut, for llama-cpp-python's converter.

    Raises ValueError, saying what cannot be kept to.
    """
    body = pattern[1:] if pattern.startswith("^") else f".*{pattern}"
    body = body[:-1] if body.endswith("$") and not body.endswith("\\$") else f"{body}.*"
    return f"^({''.join(_pieces(body))})$"


def _pieces(body: str) -> Iterator[str]:
    at = 0
    while at < len(body):
        char = body[at]
        if char == "[":
            end = _end_of_class(body, at)
            yield _class(body[at + 1 : end])
            at = end + 1
        elif char == "\\":
            yield _escaped(body[at + 1 : at + 2])
            at += 2
        elif char == ".":
            yield _written(_negated([]))
            at += 1
        elif body.startswith("(?:", at):
            yield "("
            at += 3
        elif char in "^$" or body.startswith("(?", at):
            raise ValueError(f"{char} cannot stand in the middle of a pattern" if char in "^$" else "(? is not known")
        else:
            yield _literal(char)
            at += 1


def _end_of_class(body: str, start: int) -> int:
    at = start + 1
    while at < len(body) and body[at] != "]":
        at += 2 if body[at] == "\\" else 1
    if at >= len(body):
        raise ValueError("a [ is not closed")
    return at


def _class(inside: str) -> str:
    """A set in brackets, written out."""
    negated = inside.startswith("^")
    ranges = _ranges(inside[1:] if negated else inside)
    kept = _negated(ranges) if negated else _cut(ranges)
    if not kept:
        raise ValueError(f"[{inside}] holds nothing that can stand in a text without being escaped")
    return _written(kept)


def _ranges(inside: str) -> Ranges:
    ranges: Ranges = []
    at = 0
    while at < len(inside):
        first, at = _item(inside, at)
        if inside[at : at + 1] == "-" and at + 1 < len(inside) and len(first) == 1:
            last, at = _item(inside, at + 1)
            if len(last) != 1 or ord(last) < ord(first):
                raise ValueError(f"[{inside}] has a range that ends before it begins")
            ranges.append((ord(first), ord(last)))
        elif len(first) == 1:
            ranges.append((ord(first), ord(first)))
        else:
            ranges += _ranges(first)
    return ranges


def _item(inside: str, at: int) -> tuple[str, int]:
    """A character of a set, or what a class like \\d stands for, and where the next begins."""
    if inside[at] != "\\":
        return inside[at], at + 1
    char = inside[at + 1 : at + 2]
    if char in _CLASSES:
        return _CLASSES[char], at + 2
    if char.isalnum():
        controls = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "0": "\0"}
        if char not in controls:
            raise ValueError(f"\\{char} is not known")
        return controls[char], at + 2
    return char, at + 2


def _cut(ranges: Ranges) -> Ranges:
    """The ranges without what is forbidden."""
    kept = sorted(ranges)
    for low, high in _FORBIDDEN:
        kept = [
            part
            for first, last in kept
            for part in ((first, min(last, low - 1)), (max(first, high + 1), last))
            if part[0] <= part[1]
        ]
    return kept


def _negated(ranges: Ranges) -> Ranges:
    """All characters but these."""
    kept, at = [], 0
    for first, last in sorted(ranges):
        if at < first:
            kept.append((at, first - 1))
        at = max(at, last + 1)
    if at <= _LAST:
        kept.append((at, _LAST))
    return _cut(kept)


def _written(ranges: Ranges) -> str:
    """A set in llama.cpp's grammar, each end escaped: \\UXXXXXXXX."""
    return "[" + "".join(f"\\U{first:08X}-\\U{last:08X}" for first, last in ranges) + "]"


def _escaped(char: str) -> str:
    if char in _CLASSES:
        return _class(_CLASSES[char])
    if not char or char.isalnum():
        raise ValueError(f"\\{char} is not known, or would have to be escaped in JSON")
    return _class(f"\\{char}")


def _literal(char: str) -> str:
    """A character that stands for itself, or an operator."""
    return char if char in "()|*+?{},0123456789" or char.isalpha() or char == " " else _class(f"\\{char}")
