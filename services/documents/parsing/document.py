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
class Chunk:
    """A piece of a document's text, from `start` to `end` (in characters).

    `page` is the number of the page on which it begins; None where there are no pages. `heading` joins the titles of the
    headings that it stands under.
    """

    start: int
    end: int
    page: int | None
    heading: str


@dataclass(frozen=True)
class ParsedDocument:
    """A document's text, with "\\n" at line ends.

    `pages` are the offsets at which its pages begin; () for kinds of files that have none.
    """

    text: str = field(repr=False)
    kind: str = "text"
    pages: tuple[int, ...] = ()
    headings: tuple[Heading, ...] = ()
    chunks: tuple[Chunk, ...] = ()
    n_tokens: int = 0
    """About how many tokens the text has."""
