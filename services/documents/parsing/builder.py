"""A document's text while it is read: paragraphs, headings and pages, and the limits of all of them."""

from __future__ import annotations

import re

from services.documents.parsing import failures
from services.documents.parsing.document import Heading, ParsedDocument
from services.documents.parsing.limits import ParseLimits

# Ligatures that typesetting made, U+FB00 to U+FB06.
_LIGATURES = {0xFB00 + n: letters for n, letters in enumerate(("ff", "fi", "fl", "ffi", "ffl", "st", "st"))}
# Control characters other than tab and line feed, soft hyphens, byte order marks and halves of surrogate pairs.
_DROPPED = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160), 0xAD, 0xFEFF, *range(0xD800, 0xE000)), "")
_TRANSLATED = {**_DROPPED, **_LIGATURES, 0x85: "\n", 0x2028: "\n", 0x2029: "\n\n"}
_ODD = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\ufeff\ufb00-\ufb06\u2028\u2029\ud800-\udfff]")
_BLANK_LINES = re.compile(r"\n[ \t]*\n\s*")
TITLE_LENGTH = 300


def clean(text: str) -> str:
    """Return the text with "\\n" line ends, and without ligatures and characters that nobody sees."""
    if not _ODD.search(text):
        return text
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n").replace("\v", "\n")
    return text.translate(_TRANSLATED)


def one_line(text: str) -> str:
    """Return the text with each run of whitespace as one space."""
    return " ".join(text.split())


class TextBuilder:
    """Puts a document together. Each method raises TooLarge once there is more text than the limits allow."""

    def __init__(self, kind: str, limits: ParseLimits) -> None:
        self._kind = kind
        self._limits = limits
        self._parts: list[str] = []
        self._length = 0
        self._pages: list[int] = []
        self._headings: list[Heading] = []

    @property
    def next_start(self) -> int:
        """The offset at which the next paragraph will begin."""
        return self._length + 2 if self._length else 0

    def paragraph(self, text: str) -> str:
        """Add a paragraph, or several with empty lines between them, and return it as it was added; "": it was blank."""
        text = _BLANK_LINES.sub("\n\n", clean(text)).strip("\n").rstrip()
        if not text:
            return ""
        if self._length:
            self._parts.append("\n\n")
        self._parts.append(text)
        self._length = self.next_start + len(text)
        if self._length > self._limits.characters:
            raise failures.too_much_text(self._limits.characters)
        return text

    def heading(self, level: int, title: str) -> None:
        """Add a heading as a paragraph of one line; a blank one is left out."""
        title = one_line(clean(title))
        if title:
            self.mark(self.next_start, level, title)
            self.paragraph(title)

    def mark(self, start: int, level: int, title: str) -> None:
        """Note that the line at the offset `start` is a heading."""
        if len(self._headings) < self._limits.headings:
            self._headings.append(Heading(start, level, one_line(title)[:TITLE_LENGTH]))

    def page(self) -> None:
        """Begin a page."""
        self._pages.append(self.next_start)

    def build(self) -> ParsedDocument:
        """Return the document. Raises Unprocessable if it has no text."""
        if not self._length:
            raise failures.no_text()
        # The last pages may be empty.
        pages = tuple(min(start, self._length) for start in self._pages)
        headings = tuple(sorted(self._headings, key=lambda heading: heading.start))
        return ParsedDocument("".join(self._parts), self._kind, pages, headings)
