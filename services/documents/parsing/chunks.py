"""Chunks: the pieces of a document that are found and quoted. They end at headings and sentences, and overlap."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from services.documents.parsing.document import Chunk, Heading, ParsedDocument

# Tokens of a chunk, and how many of them the next one begins with again.
CHUNK_TOKENS, OVERLAP_TOKENS = 200, 40
# Characters of a token where no tokenizer says: of alphabets, and of scripts with a character a syllable or a word.
_ALPHABETIC, _IDEOGRAPHIC = 4.0, 1.5
_IDEOGRAPHS = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
# From the best place to cut to the worst: between paragraphs, lines, sentences, clauses, words, and anywhere.
_SEPARATORS = [
    r"\n\n+",
    r"\n",
    r"(?<=[.!?\u2026])[\"'\u201d\u2019)\]]*\s+|(?<=[\u3002\uff01\uff1f])",
    r"(?<=[;:,\uff0c\u3001\uff1b])\s*",
    r"\s+",
    "",
]
# A piece of text by which tokens are counted, and how many there are, in characters.
_SAMPLE, _SAMPLES = 2000, 4
# Characters of a chunk's headings, the last ones.
_LONGEST_HEADING = 300
# Between the titles of headings, from the highest to the lowest.
_BELOW = " > "


def chunks_of(document: ParsedDocument, characters: float | None = None) -> list[Chunk]:
    """Split a document into chunks of about CHUNK_TOKENS, none of which reaches over a heading, or over the end of a page.

    `characters` is how many of the document's characters are a token on average; None: an estimate by its script.
    """
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    a_token = characters or likely_characters(document.text)
    overlap = int(OVERLAP_TOKENS * a_token)
    splitter = RecursiveCharacterTextSplitter(
        chunk_size=max(int(CHUNK_TOKENS * a_token), 20),
        chunk_overlap=overlap,
        separators=_SEPARATORS,
        is_separator_regex=True,
        keep_separator="end",
        strip_whitespace=False,
    )
    chunks: list[Chunk] = []
    for start, end, heading in _sections(document):
        section = document.text[start:end]
        for first, last in _places(section, splitter.split_text(section), overlap):
            page = bisect_right(document.pages, start + first) or None
            chunks.append(Chunk(start + first, start + last, page, heading))
    return chunks


def with_chunks(
    document: ParsedDocument, characters_per_token: Callable[[list[str]], float | None] = lambda _: None
) -> ParsedDocument:
    """Return a document with its chunks, and about how many tokens it has.

    `characters_per_token` is given a few pieces of the text; it is as in `parser.parse`.
    """
    characters = characters_per_token(samples_of(document.text)) or likely_characters(document.text)
    return replace(
        document,
        chunks=tuple(chunks_of(document, characters)),
        n_tokens=round(len(document.text) / characters),
    )


def samples_of(text: str) -> list[str]:
    """Return a few pieces from all over a text, by which its tokens can be estimated."""
    return [text[at : at + _SAMPLE] for at in range(0, len(text), max(len(text) // _SAMPLES, _SAMPLE))][:_SAMPLES]


def likely_characters(text: str) -> float:
    """Return how many characters of a text are likely to be a token on average."""
    sample = text[:20_000]
    share = len(_IDEOGRAPHS.findall(sample)) / max(len(sample), 1)
    return _ALPHABETIC + share * (_IDEOGRAPHIC - _ALPHABETIC)


def _sections(document: ParsedDocument) -> Iterator[tuple[int, int, str]]:
    """Yield the start, the end and the headings of each part of a document between two headings or pages."""
    above: list[Heading] = []
    starts: list[tuple[int, str]] = [(0, "")]
    for heading in document.headings:
        above = [each for each in above if each.level < heading.level] + [heading]
        title = _BELOW.join(each.title for each in above)[-_LONGEST_HEADING:]
        # A heading right below another belongs to the same section: a title alone answers nothing.
        if not document.text[starts[-1][0] : heading.start].strip() or _is_title_alone(document, starts[-1], heading):
            starts[-1] = (starts[-1][0], title)
        else:
            starts.append((heading.start, title))
    for (start, title), (end, _) in pairwise([*starts, (len(document.text), "")]):
        # A citation names one page.
        pages = [page for page in document.pages if start < page < end]
        for first, last in pairwise([start, *pages, end]):
            yield first, last, title


def _is_title_alone(document: ParsedDocument, begun: tuple[int, str], heading: Heading) -> bool:
    """Return whether a section consists of its heading's line."""
    title = begun[1].rpartition(_BELOW)[2]
    between = document.text[begun[0] : heading.start].strip(" \n#=-")
    return bool(title) and between == title.strip()


def _places(text: str, pieces: Sequence[str], overlap: int) -> Iterator[tuple[int, int]]:
    """Yield where each piece of a text stands in it, without the white space at its ends.

    Each begins with at most `overlap` characters of the one before it.
    """
    at = 0
    for piece in pieces:
        found = text.find(piece, at)
        stripped = piece.strip()
        if found < 0 or not stripped:
            continue
        first = found + len(piece) - len(piece.lstrip())
        yield first, first + len(stripped)
        at = max(found + 1, found + len(piece) - overlap)
