"""The ways to write one text in JSON: characters as they are, or escaped by `\\u`."""

from __future__ import annotations

import json
import re

# Whole escapes, a surrogate pair as one; the last of a text may be cut.
_ESCAPE = re.compile(rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[^u])")
_CUT = re.compile(rb"\\(?:u[0-9a-fA-F]{0,3}|u[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u[0-9a-fA-F]{0,3})?)?)?$")

_CHARACTER = re.compile(rb'\\(?:u[0-9a-f]{4}|.)|[^\\"\x80-\xff]|[\xc0-\xff][\x80-\xbf]+')


def canonical(text: bytes) -> bytes:
    """Return part of a JSON string as `json.dumps` writes it, without an escape that is cut at its end.

    The part may begin and end anywhere outside of an escape's middle, quotation marks included.
    """
    if b"\\" not in text:
        return text
    text = text[: _cut(text)]
    return _ESCAPE.sub(_plain, text)


def may_become(part: bytes, text: bytes) -> bool:
    """Return whether a JSON string that begins with `part` may be another way to write `text`, a canonical string."""
    cut = _cut(part)
    if cut is None:
        return text.startswith(canonical(part))
    head, rest = canonical(part[:cut]), part[cut:]
    if not text.startswith(head):
        return False
    character = _CHARACTER.match(text, len(head))
    if character is None or text.startswith(rest, len(head)):
        return character is not None
    units = json.loads(b'"' + character[0] + b'"').encode("utf-16-be").hex()
    return "".join(f"\\u{units[n : n + 4]}" for n in range(0, len(units), 4)).encode().startswith(rest.lower())


def begins_escape(text: bytes) -> bool:
    """Return whether part of a JSON string ends within an escape by `\\u`."""
    return b"\\u" in text[-12:] and _cut(text) is not None


def _cut(text: bytes) -> int | None:
    """Where the escape begins that a text ends within; None if it ends in none."""
    at = 0
    while (at := text.find(b"\\", at)) >= 0:
        if _CUT.match(text, at):
            return at
        match = _ESCAPE.match(text, at)
        at = match.end() if match else at + 1
    return None


def _plain(match: re.Match[bytes]) -> bytes:
    if match[0][1:2] != b"u":
        return match[0]
    text = json.loads(b'"' + match[0] + b'"')
    return json.dumps(text, ensure_ascii="\ud800" <= text <= "\udfff")[1:-1].encode()
