"""E-books: the pages of an EPUB in the order of its spine (EPUB 3.3, sections 4 and 5)."""

from __future__ import annotations

import posixpath
import re
import zipfile
from collections.abc import Callable
from typing import IO
from urllib.parse import unquote

from services.documents.parsing import failures
from services.documents.parsing.archive import open_archive, read_member
from services.documents.parsing.builder import TextBuilder
from services.documents.parsing.document import ParsedDocument
from services.documents.parsing.html import decode_page, read_page
from services.documents.parsing.limits import ParseLimits
from services.documents.parsing.xml_tree import parse_xml

# In XHTML an element may close itself; read as HTML it would stay open.
_SELF_CLOSED = re.compile(r"<([A-Za-z][\w:-]*)((?:\s[^<>]*)?)/>")
_VOID = {*("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr")}
_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"


def read_epub(file: IO[bytes], limits: ParseLimits, report: Callable[[int, int], None]) -> ParsedDocument:
    """Return the document of an opened EPUB. Raises Unprocessable if it is damaged, encrypted or blank, TooLarge."""
    builder = TextBuilder("epub", limits)
    with open_archive(file) as archive:
        names = _spine(archive)
        if _encrypted(archive) & set(names):
            raise failures.encrypted("the e-book is encrypted: it has digital rights management (DRM)")
        for done, name in enumerate(names, 1):
            page = decode_page(read_member(archive, name))
            read_page(_SELF_CLOSED.sub(_opened_and_closed, page), builder)
            report(done, len(names))
    return builder.build()


def _spine(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of the pages in the order of reading."""
    container = parse_xml(read_member(archive, _CONTAINER))
    package = next((each.get("full-path", "") for each in container.iter("{*}rootfile")), "")
    root = parse_xml(read_member(archive, package))
    folder = posixpath.dirname(package)
    hrefs = {each.get("id"): each.get("href", "") for each in root.iter("{*}item")}
    found = [hrefs[each.get("idref")] for each in root.iter("{*}itemref") if each.get("idref") in hrefs]
    names = [posixpath.normpath(posixpath.join(folder, unquote(href.partition("#")[0]))) for href in found]
    if not names:
        raise failures.damaged("the file is damaged: the e-book lists no pages")
    # One that is listed again and again is read once.
    return list(dict.fromkeys(names))


def _encrypted(archive: zipfile.ZipFile) -> set[str]:
    if _ENCRYPTION not in archive.namelist():
        return set()
    root = parse_xml(read_member(archive, _ENCRYPTION))
    return {unquote(each.get("URI", "")) for each in root.iter("{*}CipherReference")}


def _opened_and_closed(found: re.Match[str]) -> str:
    name = found[1]
    return found[0] if name.lower() in _VOID else f"<{name}{found[2]}></{name}>"
