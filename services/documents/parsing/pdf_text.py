"""The text of a PDF's page, mended: words that were hyphenated, and the paragraphs that the page shows by short lines."""

from __future__ import annotations

import re

from services.documents.parsing.builder import clean

# Hyphens at the end of a line, inside a word of small letters: the word's rest moves up.
_HYPHENATED = re.compile(r"([^\W\d_]{2})[-\u2010]\n[ \t]*([a-zß-öø-ÿ]+[^\s]*)[ \t]*\n?")
_SOFT_HYPHENATED = re.compile(r"\u00ad[ \t]*\n[ \t]*([^\s]+)[ \t]*\n?")
_ENDS = re.compile(r"[.!?:\u2026][\"'\u201d\u2019\u00bb)\]]*$")
# A line that is so much shorter than the page's full lines ends a paragraph, if a sentence ends there.
_SHORT = 0.85
_FEW = 3


def mend(text: str) -> str:
    """Return a page's text with whole words, and with empty lines between its paragraphs."""
    text = _SOFT_HYPHENATED.sub(r"\1\n", text.replace("\r\n", "\n"))
    text = _HYPHENATED.sub(r"\1\2\n", clean(text))
    lines = [line.rstrip() for line in text.split("\n")]
    lengths = sorted(len(line) for line in lines if line)
    if len(lengths) < _FEW:
        return "\n".join(lines)
    # Few lines are longer than most: the running head may be.
    short = lengths[len(lengths) * 3 // 4] * _SHORT
    return "\n".join(line + "\n" if 0 < len(line) < short and _ENDS.search(line) else line for line in lines)


class LineFinder:
    """Finds the lines of a page by their letters and digits alone."""

    def __init__(self, text: str, start: int) -> None:
        """`start` is the offset of the page's text in the document."""
        self._lines: list[tuple[int, int, str]] = []
        for line in text.split("\n"):
            if letters := _letters(line):
                self._lines.append((start, start + len(line), letters))
            start += len(line) + 1

    def find(self, title: str) -> tuple[int, int] | None:
        """Return the offsets of begin and end of the title where it stands alone, on up to three lines; None: nowhere."""
        wanted = _letters(title)
        for n, (start, end, whole) in enumerate(self._lines):
            for _, further, more in self._lines[n + 1 : n + 3]:
                if len(whole) >= len(wanted):
                    break
                whole, end = whole + more, further
            # Its number may be missing in the outline.
            if wanted and whole.endswith(wanted) and (whole == wanted or whole[: -len(wanted)].isdigit()):
                return start, end
        return None


def _letters(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())
