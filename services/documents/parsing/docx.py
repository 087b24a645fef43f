"""Word documents: python-docx opens them and knows their styles; the text is taken from the tree below it.

python-docx's own paragraphs leave out tracked insertions, and its document the content controls.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import IO, Any

from services.documents.parsing import failures
from services.documents.parsing.builder import TextBuilder, one_line
from services.documents.parsing.document import ParsedDocument
from services.documents.parsing.limits import ParseLimits
from services.documents.parsing.xml_tree import attribute, local_name, outermost, parse_xml, refuse_entities

_HEADING_STYLE = re.compile(r"heading ([1-9])$")
_BREAKS = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}
# Deleted text, fields' instructions, the second version of drawings, and properties.
_SKIPPED = {"del", "moveFrom", "instrText", "delText", "Fallback", "pPr", "rPr", "sdtPr", "tblPr", "trPr", "tcPr"}
_DEEPEST = 8
_REPORTED = 200


def read_docx(file: IO[bytes], limits: ParseLimits, report: Callable[[int, int], None]) -> ParsedDocument:
    """Return the document of an opened docx file. Raises Unprocessable if it is damaged or has no text, TooLarge."""
    import docx

    try:
        document = docx.Document(file)
        body = document.element.body
        levels = _levels(document.styles.element)
        notes = [
            relation.target_part.blob
            for relation in document.part.rels.values()
            if not relation.is_external and relation.reltype.endswith(("/footnotes", "/endnotes"))
        ]
    except (MemoryError, RecursionError):
        raise
    except Exception as error:
        # python-docx believes that a package is whole.
        raise failures.damaged("the file is damaged and cannot be read as a Word document") from error
    if body is None:
        raise failures.damaged("the file is damaged: the Word document has no body")
    refuse_entities(body)
    builder = TextBuilder("docx", limits)
    reader = _Reader(builder, levels)
    # lxml counts anew each time.
    of = len(body)
    for done, element in enumerate(body, 1):
        reader.block(element)
        if done % _REPORTED == 0 or done == of:
            report(done, of)
    for note in notes:
        reader.block(parse_xml(note))
    return builder.build()


def _levels(styles: Any) -> dict[str, int]:
    """Return the level of heading of each style's id, inherited ones included; of others 0, and -1 of those of lists."""
    own: dict[str, int] = {}
    parents: dict[str, str] = {}
    for style in styles:
        if local_name(style) != "style":
            continue
        id_ = attribute(style, "styleId")
        found = {local_name(each): attribute(each, "val") for each in style.iter() if attribute(each, "val")}
        parents[id_] = found.get("basedOn", "")
        name = found.get("name", "").lower()
        if heading := _HEADING_STYLE.match(name):
            own[id_] = int(heading[1])
        elif name == "title":
            own[id_] = 1
        elif found.get("outlineLvl", "9").isdigit() and int(found.get("outlineLvl", "9")) < 9:
            own[id_] = int(found["outlineLvl"]) + 1
        elif name.startswith("list ") or "numId" in found:
            own[id_] = -1
    return {id_: _inherited(id_, own, parents) for id_ in parents}


def _inherited(id_: str, own: dict[str, int], parents: dict[str, str]) -> int:
    for _ in range(_DEEPEST):
        if id_ in own:
            return own[id_]
        id_ = parents.get(id_, "")
    return 0


class _Reader:
    """Puts the blocks of a Word document into a TextBuilder."""

    def __init__(self, builder: TextBuilder, levels: dict[str, int]) -> None:
        self._builder = builder
        self._levels = levels

    def block(self, element: Any) -> None:
        """Add a paragraph, a table, or the blocks in an element that holds them."""
        stack = [element]
        while stack:
            each = stack.pop()
            name = local_name(each)
            if name == "p":
                self._paragraph(each)
            elif name == "tbl":
                self._table(each)
            elif name and name not in _SKIPPED:
                stack.extend(reversed(each))

    def _paragraph(self, paragraph: Any) -> None:
        text = "".join(_text_of(paragraph))
        level, indent = self._style(paragraph)
        if level > 0:
            self._builder.heading(level, text)
        elif level < 0 and text.strip():
            self._builder.paragraph("  " * indent + "- " + text.strip())
        else:
            self._builder.paragraph(text)

    def _style(self, paragraph: Any) -> tuple[int, int]:
        """Return a paragraph's level of heading (0: none; -1: an item of a list), and how deep the item is."""
        properties = next((each for each in paragraph if local_name(each) == "pPr"), None)
        if properties is None:
            return 0, 0
        found = {local_name(each): attribute(each, "val") for each in properties.iter()}
        level = self._levels.get(found.get("pStyle", ""), 0)
        outline = found.get("outlineLvl", "9")
        if level <= 0 and outline.isdigit() and int(outline) < 9:
            level = int(outline) + 1
        if level == 0 and found.get("numId", "0") != "0":
            level = -1
        deep = found.get("ilvl", "0")
        return level, min(int(deep), _DEEPEST) if deep.isdigit() else 0

    def _table(self, table: Any) -> None:
        rows = (
            " | ".join(filter(None, (one_line("".join(_text_of(cell))) for cell in outermost(row, "tc"))))
            for row in outermost(table, "tr")
        )
        self._builder.paragraph("\n".join(filter(None, rows)))


def _text_of(element: Any) -> Iterator[str]:
    """Yield the text below an element, that of its paragraphs separated by spaces."""
    stack = list(reversed(element))
    while stack:
        each = stack.pop()
        name = local_name(each)
        if name == "t":
            yield each.text or ""
        elif name in _BREAKS:
            yield _BREAKS[name]
        elif name and name not in _SKIPPED:
            if name == "p":
                yield " "
            stack.extend(reversed(each))
