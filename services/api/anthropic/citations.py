"""Citations as Anthropic's API has them: of pages where a file has some, else of places in its text.

Source: the types `CitationPageLocation` and `CitationCharLocation` of the `anthropic` package.
"""

from __future__ import annotations

from typing import Any

from services.answers.stream import Answer


def cited_of(answer: Answer) -> list[dict[str, Any]]:
    """Return the passages that an answer cites, once it has ended; [] where its request names no files."""
    if answer.given is None:
        return []
    files = list(dict.fromkeys(passage.file.id for passage in answer.given.passages))
    return [_citation(each, files.index(each["file"])) for each in answer.summary["citations"] if each["cited"]]


def _citation(cited: dict[str, Any], index: int) -> dict[str, Any]:
    about = {
        "cited_text": cited["text"],
        "document_index": index,
        "document_title": cited["name"],
        "file_id": cited["file"],
    }
    if cited["page"] is None:
        return {
            "type": "char_location",
            **about,
            "start_char_index": cited["start"],
            "end_char_index": cited["end"],
        }
    page = cited["page"]
    # The end is the first page that is not cited.
    return {"type": "page_location", **about, "start_page_number": page, "end_page_number": page + 1}
