"""The chunks that a retriever finds: the project's own, of each source's text."""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.documents.parsing.chunks import with_chunks
from services.documents.parsing.document import Heading, ParsedDocument

# A chapter, a heading of Markdown or reStructuredText, a numbered one, an article, an entry of a dictionary.
_HEADING = re.compile(
    r"^(?:#+ (.+)|((?:CHAPTER|ACT|SCENE|BOOK|_?PROP|Article|Artículo) ?.*)|(\d+(?:\.\d+)+\. .+)|(第.{1,5}[条条].*)"
    r"|(\S.*)\n(?:[=~`'^-]{4,})$)",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Chunk:
    """A piece of a source's text, from `start` to `end`."""

    id: int
    source: str
    start: int
    end: int
    text: str


def parsed(text: str) -> ParsedDocument:
    """Return a source's text as a document with headings and chunks."""
    headings = tuple(Heading(match.start(), 1, next(filter(None, match.groups()), "")) for match in _HEADING.finditer(text))
    return with_chunks(ParsedDocument(text, "text", headings=headings))


def listed(documents: dict[str, ParsedDocument]) -> list[Chunk]:
    """Return the chunks of all sources' documents, in their order."""
    pieces = [(source, chunk, document.text) for source, document in documents.items() for chunk in document.chunks]
    return [
        Chunk(n, source, chunk.start, chunk.end, text[chunk.start : chunk.end])
        for n, (source, chunk, text) in enumerate(pieces)
    ]
