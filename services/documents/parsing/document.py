"""A parsed document: its text, and where its pages and headings begin."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Heading:
    """A heading: the offset of its line in the text, its level (1 is the highest) and its words."""

    start: int
    level: int
    title: str


@dataclass(frozen=True)
class ParsedDocument:
    """A document's text, with "\\n" at line ends.

    `pages` are the offsets at which its pages begin; () for kinds of files that have none.
    """

    text: str = field(repr=False)
    kind: str = "text"
    pages: tuple[int, ...] = ()
    headings: tuple[Heading, ...] = ()
