"""The chunks that a retriever finds: a source's text in pieces of a few sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from langchain_text_splitters import RecursiveCharacterTextSplitter

# Paragraphs, lines, the ends of sentences (also Chinese and Japanese ones), words.
SEPARATORS = ["\n\n", "(?<=[.!?]) +", r"(?<=[\u3002\uff01\uff1f])", "\n", " ", ""]
# A chapter, a heading of Markdown or reStructuredText, a numbered one, an article, an entry of a dictionary.
_HEADING = re.compile(
    r"^(?:#+ (.+)|((?:CHAPTER|ACT|SCENE|BOOK|_?PROP|Article|Artículo) ?.*)|(\d+(?:\.\d+)+\. .+)|(第.{1,5}[条条].*)"
    r"|(\S.*)\n(?:[=~`'^-]{4,})$)",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Chunk:
    """A piece of a source's text, from `start` to `end`, and the nearest heading before it."""

    id: int
    source: str
    start: int
    end: int
    text: str
    heading: str = ""


def split(texts: dict[str, str], size: int = 800, overlap: int = 120) -> list[Chunk]:
    """Return the chunks of all texts, by source; sizes are characters."""
    splitter = RecursiveCharacterTextSplitter(
        chunk_size=size, chunk_overlap=overlap, add_start_index=True, separators=SEPARATORS, is_separator_regex=True
    )
    chunks: list[Chunk] = []
    for source, text in texts.items():
        headings = [(match.start(), next(filter(None, match.groups()), "")) for match in _HEADING.finditer(text)]
        for piece in splitter.create_documents([text]):
            start = piece.metadata["start_index"]
            end = start + len(piece.page_content)
            chunks.append(Chunk(len(chunks), source, start, end, piece.page_content, _before(headings, start)))
    return chunks


def _before(headings: Sequence[tuple[int, str]], start: int) -> str:
    """The last heading at or before `start`."""
    low, high = 0, len(headings)
    while low < high:
        middle = (low + high) // 2
        if headings[middle][0] <= start:
            low = middle + 1
        else:
            high = middle
    return headings[low - 1][1] if low else ""
