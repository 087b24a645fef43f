"""PDFs, by pypdf: the text of each page, and the outline where its titles stand on the pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any

from services.documents.parsing import failures
from services.documents.parsing.builder import TextBuilder
from services.documents.parsing.document import ParsedDocument
from services.documents.parsing.limits import ParseLimits
from services.documents.parsing.pdf_text import LineFinder, mend
from services.errors import HearthError

if TYPE_CHECKING:
    from pypdf import PageObject, PdfReader

_DEEPEST = 6
# More of the pages are without text than this: what is left is a stamp or a cover.
_MOST = 0.9
_OUTLINE = 5000
# Bytes that one stream unpacks to: no page of text comes near.
_STREAM = 50_000_000


def read_pdf(file: IO[bytes], limits: ParseLimits, report: Callable[[int, int], None]) -> ParsedDocument:
    """Return the document of an opened PDF.

    Raises Unprocessable if it is damaged or encrypted, or if its pages are images without text, and TooLarge.
    """
    import pypdf

    pypdf.overwrite_configuration(
        zlib_maximum_output_length=_STREAM, lzw_maximum_output_length=_STREAM, jbig2dec_binary=None
    )
    reader = _open(file)
    count = _count(reader, limits)
    builder = TextBuilder("pdf", limits)
    titles = _titles(reader)
    without_text = images = 0
    for number in range(count):
        text, has_images = _page_text(reader, number)
        builder.page()
        _add_page(builder, text, titles.get(number, []))
        without_text += not text
        images += has_images
        report(number + 1, count)
    if not count or without_text == count or images > _MOST * count:
        raise failures.no_text(_scanned(count, without_text, images))
    return builder.build()


def _open(file: IO[bytes]) -> PdfReader:
    from pypdf import PdfReader
    from pypdf.errors import DependencyError

    try:
        reader = PdfReader(file)
        # Many PDFs are encrypted with an empty password, only to forbid printing.
        if reader.is_encrypted and not reader.decrypt(""):
            raise failures.encrypted("the PDF is encrypted: it needs a password")
    except (HearthError, MemoryError, RecursionError):
        raise
    except (NotImplementedError, DependencyError) as error:
        raise failures.encrypted("the PDF is encrypted in a way that cannot be read here") from error
    except Exception as error:
        raise failures.damaged("the file is damaged and cannot be read as a PDF") from error
    return reader


def _count(reader: PdfReader, limits: ParseLimits) -> int:
    try:
        count = len(reader.pages)
    except (MemoryError, RecursionError):
        raise
    except Exception as error:
        raise failures.damaged("the file is damaged: the list of the PDF's pages cannot be read") from error
    if count > limits.pages:
        raise failures.too_many_pages(count, limits.pages)
    return count


def _page_text(reader: PdfReader, number: int) -> tuple[str, bool]:
    """Return the mended text of a page, and whether it shows images. Raises Unprocessable or TooLarge with its number."""
    from pypdf.errors import LimitReachedError

    try:
        page = reader.pages[number]
        text = mend(page.extract_text()).strip()
        return text, not text and _has_images(page)
    except (MemoryError, RecursionError):
        raise
    except LimitReachedError as error:
        raise failures.unpacks_too_large(f"page {number + 1:,} of the PDF unpacks to more than any page of text") from error
    except Exception as error:
        raise failures.damaged(f"the file is damaged: page {number + 1:,} of the PDF cannot be read") from error


def _has_images(page: PageObject) -> bool:
    try:
        resources: Any = page["/Resources"]
        return any(each.get_object()["/Subtype"] == "/Image" for each in resources["/XObject"].values())
    except (KeyError, AttributeError, TypeError):
        return False


def _scanned(count: int, without_text: int, images: int) -> str:
    if not images:
        return f"the PDF has no text ({count:,} {'page' if count == 1 else 'pages'})"
    of = f"{without_text:,} of its {count:,} pages have" if count > 1 else "its only page has"
    return f"the PDF seems to be scanned: {of} no text, only images; text recognition (OCR) would have to come first"


def _titles(reader: PdfReader) -> dict[int, list[tuple[int, str]]]:
    """Return the levels and titles of the outline by the number of the page, from 0; {} if the outline is damaged."""
    titles: dict[int, list[tuple[int, str]]] = {}
    try:
        for _, (level, entry) in zip(range(_OUTLINE), _entries(reader.outline, 1), strict=False):
            number = reader.get_destination_page_number(entry)
            if number is not None and entry.title:
                titles.setdefault(number, []).append((level, str(entry.title)))
    except (MemoryError, RecursionError):
        raise
    except Exception:
        # The text is what counts.
        return {}
    return titles


def _entries(outline: list[Any], level: int) -> Iterator[tuple[int, Any]]:
    for entry in outline:
        if isinstance(entry, list):
            yield from _entries(entry, min(level + 1, _DEEPEST))
        else:
            yield level, entry


def _add_page(builder: TextBuilder, text: str, titles: list[tuple[int, str]]) -> None:
    """Add the text of a page, with empty lines around each of its titles, which become headings."""
    finder = LineFinder(text, 0)
    spans = {span for _, title in titles if (span := finder.find(title))}
    for start, end in sorted(spans, reverse=True):
        text = f"{text[:start]}\n{text[start:end]}\n{text[end:]}"
    start = builder.next_start
    finder = LineFinder(builder.paragraph(text), start)
    marked = set()
    for level, title in titles:
        span = finder.find(title)
        if span and span not in marked:
            marked.add(span)
            builder.mark(span[0], level, title)
