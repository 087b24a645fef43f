"""OpenDocument texts: content.xml of the archive (OASIS OpenDocument 1.3, part 3, sections 5, 6 and 9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO, Any

from services.documents.parsing import failures
from services.documents.parsing.archive import open_archive, read_member
from services.documents.parsing.builder import TextBuilder, one_line
from services.documents.parsing.document import ParsedDocument
from services.documents.parsing.limits import ParseLimits
from services.documents.parsing.xml_tree import attribute, local_name, outermost, parse_xml

# Comments, deleted text, fields of forms, and the table of contents, which repeats the headings.
_SKIPPED = {"annotation", "tracked-changes", "forms", "sequence-decls", "table-of-content", "desc", "title"}
_BREAKS = {"tab": "\t", "line-break": "\n"}
_SPACES = 1000
_DEEPEST = 8
_REPORTED = 200


def read_odt(file: IO[bytes], limits: ParseLimits, report: Callable[[int, int], None]) -> ParsedDocument:
    """Return the document of an opened odt file. Raises Unprocessable if it is damaged, encrypted or blank, TooLarge."""
    with open_archive(file) as archive:
        if "META-INF/manifest.xml" in archive.namelist():
            manifest = parse_xml(read_member(archive, "META-INF/manifest.xml"))
            if next(manifest.iter("{*}encryption-data"), None) is not None:
                raise failures.encrypted("the OpenDocument text is encrypted: it needs a password")
        root = parse_xml(read_member(archive, "content.xml"))
    text = next(root.iter("{*}text"), None)
    if text is None:
        raise failures.damaged("the file is damaged: the OpenDocument text has no body")
    builder = TextBuilder("odt", limits)
    # lxml counts anew each time.
    of = len(text)
    for done, element in enumerate(text, 1):
        _add(builder, element)
        if done % _REPORTED == 0 or done == of:
            report(done, of)
    return builder.build()


def _add(builder: TextBuilder, element: Any) -> None:
    """Add the blocks in an element. The stack has each with the depth of its list; 0: it is in none."""
    stack = [(element, 0)]
    while stack:
        each, depth = stack.pop()
        name = local_name(each)
        if name == "h":
            level = attribute(each, "outline-level")
            builder.heading(int(level) if level.isdigit() else 1, "".join(_text_of(each)))
        elif name == "p":
            text = "".join(_text_of(each))
            item = "  " * min(depth - 1, _DEEPEST) + "- " if depth and text.strip() else ""
            builder.paragraph(item + text.strip())
        elif name == "table":
            builder.paragraph("\n".join(_rows(each)))
        elif name and name not in _SKIPPED:
            stack.extend((below, depth + (name == "list")) for below in reversed(each))


def _rows(table: Any) -> Iterator[str]:
    for row in outermost(table, "table-row"):
        cells = (one_line("".join(_text_of(cell))) for cell in outermost(row, "table-cell"))
        if line := " | ".join(filter(None, cells)):
            yield line


def _text_of(element: Any) -> Iterator[str]:
    """Yield the text below an element, with that of notes in brackets."""
    # Elements that are still to do, and texts.
    stack: list[Any] = [element]
    while stack:
        each = stack.pop()
        if isinstance(each, str):
            yield each
            continue
        name = local_name(each)
        if name == "s":
            count = attribute(each, "c")
            yield " " * min(int(count) if count.isdigit() else 1, _SPACES)
        elif name in _BREAKS:
            yield _BREAKS[name]
        elif name == "note":
            bodies = (one_line("".join(_text_of(body))) for body in each.iterchildren("{*}note-body"))
            yield f" [{' '.join(bodies)}]"
        elif name and name not in _SKIPPED:
            # Paragraphs of a cell or a frame.
            yield " " if name in ("p", "h") else ""
            stack.extend(reversed(list(_parts(each))))


def _parts(element: Any) -> Iterator[Any]:
    yield element.text or ""
    for child in element:
        yield child
        yield child.tail or ""
