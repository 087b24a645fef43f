"""HTML as a document: headings, paragraphs, lists and tables, read as events in bounded memory, at any depth of nesting."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from typing import IO

from services.documents.parsing import failures
from services.documents.parsing.builder import TextBuilder, one_line
from services.documents.parsing.decoding import decode
from services.documents.parsing.document import ParsedDocument
from services.documents.parsing.limits import ParseLimits

_SKIPPED = {
    *("script", "style", "nav", "template", "head", "title", "svg", "math", "iframe", "object", "embed", "audio", "video"),
    *("canvas", "select", "button", "textarea", "datalist", "noscript", "rt", "rp"),
}
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BLOCKS = {
    *(
        "address",
        "article",
        "aside",
        "blockquote",
        "body",
        "caption",
        "center",
        "dd",
        "details",
        "dialog",
        "div",
        "dl",
        "dt",
    ),
    *("fieldset", "figcaption", "figure", "footer", "form", "header", "hgroup", "hr", "legend", "li", "main", "menu", "ol"),
    *("p", "pre", "section", "summary", "table", "tbody", "tfoot", "thead", "ul"),
}
_CELLS = {"td", "th"}
_META = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w-]{2,30})", re.I)
_XML_DECLARATION = re.compile(rb"<\?xml[^>]{0,100}?encoding\s*=\s*[\"']([\w-]{2,30})[\"']", re.I)
_PIECE = 1 << 16
# Deeper items are indented no further.
_DEEPEST = 8


class HtmlReader:
    """The target of an lxml parser: puts a page into a TextBuilder. lxml calls `start`, `end`, `data` and `close`."""

    def __init__(self, builder: TextBuilder) -> None:
        self._builder = builder
        self._skipped = 0
        """How many elements deep the parser is in one that is left out."""
        self._preformatted = 0
        self._heading = 0
        """The level of the open heading; 0: none."""
        self._lists: list[str] = []
        self._text: list[str] = []
        self._cells: list[str] | None = None
        """Of the row that is open."""
        self._rows: list[str] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """Begin an element."""
        if self._skipped or tag in _SKIPPED or "hidden" in attributes:
            self._skipped += 1
        elif tag in _HEADINGS:
            self._flush_all()
            self._heading = _HEADINGS[tag]
        elif tag == "tr":
            self._end_row()
            self._flush()
            self._cells = []
        elif tag in _CELLS:
            self._end_cell()
        elif tag == "br":
            self._text.append(" " if self._cells is not None or self._heading else "\n")
        elif tag in _BLOCKS:
            self._start_block(tag)

    def _start_block(self, tag: str) -> None:
        if self._cells is not None and tag != "table":
            # Paragraphs of a cell are its text.
            self._text.append(" ")
            return
        # A table in a cell: the outer one serves the layout.
        self._flush_all()
        if tag in ("ul", "ol", "menu"):
            self._lists.append(tag)
        elif tag == "li":
            self._text.append("  " * min(max(len(self._lists) - 1, 0), _DEEPEST) + "- ")
        elif tag == "pre":
            self._preformatted += 1

    def end(self, tag: str) -> None:
        """End an element."""
        if self._skipped:
            self._skipped -= 1
        elif tag in _HEADINGS and self._heading:
            title = "".join(self._text)
            self._text.clear()
            self._builder.heading(self._heading, title)
            self._heading = 0
        elif tag in _CELLS:
            self._end_cell()
        elif tag == "tr":
            self._end_row()
        elif tag in _BLOCKS:
            self._end_block(tag)

    def _end_block(self, tag: str) -> None:
        if self._cells is not None and tag != "table":
            self._text.append(" ")
            return
        self._flush_all()
        if tag in ("ul", "ol", "menu") and self._lists:
            self._lists.pop()
        elif tag == "pre" and self._preformatted:
            self._preformatted -= 1

    def data(self, data: str) -> None:
        """Take text."""
        if not self._skipped:
            self._text.append(data if self._preformatted else re.sub(r"\s+", " ", data))

    def close(self) -> None:
        """End the page."""
        self._flush_all()

    def _flush_all(self) -> None:
        self._end_row()
        if self._rows:
            self._builder.paragraph("\n".join(self._rows))
            self._rows.clear()
        self._flush()

    def _flush(self) -> None:
        """Add the text as a paragraph."""
        text = "".join(self._text)
        self._text.clear()
        if self._heading:
            # It was left open, or holds blocks.
            self._builder.heading(self._heading, text)
            self._heading = 0
        elif self._preformatted:
            self._builder.paragraph(text)
        elif text.strip(" -\n"):
            indent = text[: len(text) - len(text.lstrip(" "))] if text.lstrip(" ").startswith("- ") else ""
            self._builder.paragraph(indent + "\n".join(filter(None, map(one_line, text.split("\n")))))

    def _end_cell(self) -> None:
        text = one_line("".join(self._text))
        if self._cells is not None:
            self._text.clear()
            if text:
                self._cells.append(text)

    def _end_row(self) -> None:
        if self._cells is None:
            return
        self._end_cell()
        if self._cells:
            self._rows.append(" | ".join(self._cells))
        self._cells = None


def read_page(text: str, builder: TextBuilder, report: Callable[[int, int], None] | None = None) -> None:
    """Add an HTML page to a document; `report` is called with the characters that are done, and all.

    Raises TooLarge if the document becomes too large.
    """
    from lxml import etree

    reader = HtmlReader(builder)
    # Only what is given is parsed: this parser fetches nothing, and knows no entities but HTML's own.
    parser = etree.HTMLParser(target=reader, huge_tree=True, no_network=True)
    for start in range(0, len(text), _PIECE):
        parser.feed(text[start : start + _PIECE])
        if report:
            report(min(start + _PIECE, len(text)), len(text))
    if text.strip():
        parser.close()


def decode_page(data: bytes) -> str:
    """Return the bytes of a page as text, by the encoding that it names if that fits. Raises what `decode` raises."""
    named = _XML_DECLARATION.match(data[:200]) or _META.search(data[:4096])
    if named and b"\0" not in data and not data.startswith(codecs.BOM_UTF8):
        try:
            encoding = codecs.lookup(named[1].decode("ascii")).name
            if not encoding.startswith(("utf-16", "utf-32")):
                # Browsers too read Latin-1 as Windows' superset of it.
                return data.decode("cp1252" if encoding == "iso8859-1" else encoding)
        except (LookupError, ValueError):
            # It is mistaken, as that of a page that was saved anew.
            pass
    return decode(data)


def read_html(file: IO[bytes], limits: ParseLimits, report: Callable[[int, int], None]) -> ParsedDocument:
    """Return the document of an HTML file. Raises TooLarge, UnsupportedType (binary data) or Unprocessable."""
    data = file.read(limits.unpacked + 1)
    if len(data) > limits.unpacked:
        raise failures.too_much_text(limits.characters)
    builder = TextBuilder("html", limits)
    read_page(decode_page(data), builder, report)
    return builder.build()
