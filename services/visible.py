"""Text of people's as a terminal or a table may show it: nothing in it moves the cursor, hides, or turns a line around."""

from __future__ import annotations

import re

# Control characters (C0, DEL, C1), marks of Arabic and of the zero width and of direction, separators of lines, embeddings,
# isolates, and the mark of byte order. Unicode's "Trojan source" attacks use these (CVE-2021-42574).
_HIDDEN = "\x00-\x1f\x7f-\x9f\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
_ANY = re.compile(f"[{_HIDDEN}]")
_ANY_BUT_SPACING = re.compile(f"(?![\n\t])[{_HIDDEN}]")


def visible(text: str) -> str:
    r"""The text with what is not seen of it written out, as \x1b and \u202e."""
    return _ANY.sub(_escaped, text)


def visible_lines(text: str) -> str:
    """The same of a text of several lines, which keep their ends and tabs."""
    return _ANY_BUT_SPACING.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
