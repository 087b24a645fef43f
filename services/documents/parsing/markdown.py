"""Markdown: the text as it stands, and its headings (CommonMark 0.31, sections 4.2 and 4.3)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO

from services.documents.parsing.builder import TITLE_LENGTH, one_line
from services.documents.parsing.document import Heading, ParsedDocument
from services.documents.parsing.limits import ParseLimits
from services.documents.parsing.plain import read_text

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*))?$")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")
# A line that belongs to no paragraph, so that dashes below it underline nothing: lists, quotes, tables, code.
_NO_PARAGRAPH = re.compile(r"[ \t]*$|[ \t]*(?:[-+*>|]|\d+[.)])(?:[ \t]|$)| {4}|\t|.*\|")
_FRONT_MATTER = re.compile(r"---[ \t]*\n.*?\n(?:---|\.\.\.)[ \t]*(?:\n|$)", re.DOTALL)


def read_markdown(file: IO[bytes], limits: ParseLimits) -> ParsedDocument:
    """Return the document of a Markdown file. Raises what `read_text` raises."""
    text = read_text(file, limits)
    headings = []
    for heading in headings_of(text):
        headings.append(heading)
        if len(headings) >= limits.headings:
            break
    return ParsedDocument(text, "markdown", headings=tuple(headings))


def headings_of(text: str) -> Iterator[Heading]:
    """Yield the headings of a text in Markdown, in their order."""
    fence = ""
    # The line before, and where it begins; "": none that could be a heading.
    previous, previous_start = "", 0
    for start, line in _lines(text):
        opened = _FENCE.match(line)
        if fence or opened:
            fence = _fence_after(fence, opened, line)
            previous = ""
        elif found := _ATX.match(line):
            yield from _heading(start, len(found[1]), _unclosed(found[2] or ""))
            previous = ""
        elif previous and (found := _UNDERLINE.match(line)):
            yield from _heading(previous_start, 1 if found[1][0] == "=" else 2, previous)
            previous = ""
        else:
            previous, previous_start = "" if _NO_PARAGRAPH.match(line) else line, start


def _lines(text: str) -> Iterator[tuple[int, str]]:
    front = _FRONT_MATTER.match(text)
    start = front.end() if front else 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield start, text[start:end]
        start = end + 1


def _fence_after(fence: str, found: re.Match[str] | None, line: str) -> str:
    """Return the fence of the code that goes on after this line; "": none."""
    if not fence:
        return found[1] if found else ""
    closes = found and found[1].startswith(fence) and not line[found.end() :].strip()
    return "" if closes else fence


def _unclosed(title: str) -> str:
    """Return the title without the number signs that may close it."""
    rest = title.rstrip().rstrip("#")
    return title if rest and rest[-1] not in " \t" else rest


def _heading(start: int, level: int, title: str) -> Iterator[Heading]:
    title = one_line(title)[:TITLE_LENGTH]
    if title:
        yield Heading(start, level, title)
