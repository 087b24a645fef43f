"""Chunks: where a document is cut, and that nothing of it is lost."""

from __future__ import annotations

from itertools import pairwise

import pytest

from services.documents.parsing.chunks import CHUNK_TOKENS, OVERLAP_TOKENS, chunks_of, likely_characters, samples_of
from services.documents.parsing.document import Heading, ParsedDocument

SENTENCE = "The lighthouse keeper wrote the weather into a large book each evening. "


def document(text: str, *titles: str, pages: tuple[int, ...] = ()) -> ParsedDocument:
    headings = tuple(Heading(text.index(title), title.count("#"), title.strip("# ")) for title in titles)
    return ParsedDocument(text, "markdown", pages, headings)


@pytest.mark.parametrize(
    "text",
    [
        SENTENCE * 200,
        "\n\n".join([SENTENCE * 3] * 60),
        "\n".join(["a line of code()"] * 900),
        "word" * 5000,
        "东京是日本的首都。大阪很大。" * 400,
        "ราชอาณาจักรไทย" * 300,
        "a" * 10,
    ],
)
def test_every_character_is_in_a_chunk(text: str) -> None:
    chunks = chunks_of(document(text))
    covered = {n for chunk in chunks for n in range(chunk.start, chunk.end)}
    assert [n for n, character in enumerate(text) if not character.isspace() and n not in covered] == []
    a_token = likely_characters(text)
    assert max(chunk.end - chunk.start for chunk in chunks) <= CHUNK_TOKENS * a_token
    for one, other in pairwise(chunks):
        assert one.start < other.start
        assert one.end - other.start <= OVERLAP_TOKENS * a_token


def test_sentences_stay_whole() -> None:
    text = SENTENCE * 100
    for chunk in chunks_of(document(text)):
        piece = text[chunk.start : chunk.end]
        assert piece.startswith("The lighthouse")
        assert piece.endswith("evening.")


def test_no_chunk_reaches_over_a_heading() -> None:
    text = f"Before.\n\n# Sea\n\n{SENTENCE * 3}\n\n## Waves\n\n{SENTENCE * 30}\n\n# Land\n\nHills."
    chunks = chunks_of(document(text, "# Sea", "## Waves", "# Land"))
    assert [each.heading for each in chunks if each.heading != "Sea > Waves"] == ["", "Sea", "Land"]
    assert sum(each.heading == "Sea > Waves" for each in chunks) > 1
    assert text[chunks[-1].start : chunks[-1].end] == "# Land\n\nHills."


def test_a_title_alone_is_no_chunk() -> None:
    text = "# Book\n\n## Chapter\n\nWords."
    (chunk,) = chunks_of(document(text, "# Book", "## Chapter"))
    assert (chunk.start, chunk.heading) == (0, "Book > Chapter")


def test_chunks_know_their_pages() -> None:
    pages = [f"Page {n}. {SENTENCE * 15}" for n in range(1, 6)]
    starts = tuple(sum(len(page) + 1 for page in pages[:n]) for n in range(5))
    text = "\n".join(pages)
    for chunk in chunks_of(document(text, pages=starts)):
        assert chunk.page == max(n for n, start in enumerate(starts, 1) if start <= chunk.start)
    assert {chunk.page for chunk in chunks_of(document(SENTENCE))} == {None}


def test_samples_come_from_all_over_the_text() -> None:
    text = "".join(f"{n:05} " for n in range(5000))
    samples = samples_of(text)
    assert [sample[:5] for sample in samples] == ["00000", "01250", "02500", "03750"]
    assert samples_of("short") == ["short"]
