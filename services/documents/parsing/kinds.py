"""The kinds of documents, chosen by a file's name together with its content."""

from __future__ import annotations

import re
from typing import IO

from services.documents.parsing import failures
from services.documents.parsing.archive import check_archive, content_of, open_archive
from services.documents.parsing.limits import ParseLimits
from services.documents.parsing.signatures import HEAD, OLE, PDF, ZIP, binary_content

_CODE = (
    "asm bash bat bib c cc cfg clj cmake conf cpp cs css cxx dart diff env erl ex fs go gradle graphql groovy h hpp hs ini "
    "ipynb java jl js json jsonl jsx kt less lisp log lua m make mjs ml mm nim nix patch php pl properties proto ps1 py "
    "pyi r rb rs rst scala scss sh sql srt svelte swift tcl tex tf toml ts tsx v vb vhdl vim vue xml yaml yml zig zsh"
)
_EXTENSIONS = {
    "pdf": "pdf",
    "docx": "docx",
    "odt": "odt",
    "epub": "epub",
    **dict.fromkeys(("html", "htm", "xhtml"), "html"),
    **dict.fromkeys(("md", "markdown", "mdown", "mkd"), "markdown"),
    **dict.fromkeys(("csv", "tsv"), "csv"),
    **dict.fromkeys(("txt", "text"), "text"),
    **dict.fromkeys(_CODE.split(), "code"),
}
KINDS = ("pdf", "docx", "odt", "epub", "html", "markdown", "csv", "text", "code")
_TEXTUAL = {"html", "markdown", "csv", "text", "code"}
_WORKING = "PDF, Word (.docx), OpenDocument text (.odt), EPUB, HTML, Markdown, CSV and TSV, plain text, and source code"
_IN_WORDS = {"docx": "a Word document (.docx)", "odt": "an OpenDocument text (.odt)", "epub": "an EPUB"}
_EXTENSION = re.compile(r"\.([A-Za-z0-9]{1,10})$")
_HTML = re.compile(
    rb"(\xef\xbb\xbf)?\s*(<!--.{0,2000}?-->\s*)?(<\?xml[^>]{0,200}>\s*)?<(!doctype\s+html|html)\b", re.I | re.S
)


def extension_of(name: str) -> str:
    """Return the extension of a file's name in lower case and without its dot; "" if it has none that could be one."""
    visible = "".join(character for character in name if character.isprintable()).strip()
    last = re.split(r"[/\\]", visible)[-1]
    found = _EXTENSION.search(last)
    # .gitignore is a name, not an extension.
    return found[1].lower() if found and found.start() else ""


def check_extension(name: str) -> None:
    """Raise UnsupportedType for a file whose name says that no content of it could be read."""
    if (extension := extension_of(name)) and extension not in _EXTENSIONS:
        raise failures.unsupported(f"files of the type .{extension} cannot be read", _WORKING)


def kind_of(file: IO[bytes], name: str, limits: ParseLimits) -> str:
    """Return the kind of the opened file with this name; the file is at its beginning again.

    Raises UnsupportedType if no kind has such a name or such a content, or the two do not belong together; TooLarge or
    Unprocessable if it is empty, or an archive that cannot be unpacked.
    """
    extension = extension_of(name)
    head = file.read(HEAD)
    if not head:
        raise failures.empty()
    content = _content_of(file, head, limits)
    file.seek(0)
    if extension and extension not in _EXTENSIONS:
        known = f", here {_in_words(content)}," if content not in _TEXTUAL else ""
        raise failures.unsupported(f"files of the type .{extension}{known} cannot be read", _WORKING)
    if not extension:
        if content in KINDS:
            return content
        raise failures.unsupported(f"the file is {content}, which cannot be read", _WORKING)
    kind = _EXTENSIONS[extension]
    if content == kind or (content in _TEXTUAL and kind in _TEXTUAL):
        return kind
    if content == OLE and kind == "docx" and "EncryptedPackage".encode("utf-16-le") in file.read():
        raise failures.encrypted("the Word document is encrypted: it needs a password")
    raise failures.disguised(extension, _in_words(content))


def _content_of(file: IO[bytes], head: bytes, limits: ParseLimits) -> str:
    """Return one of KINDS, or what the content is, in words."""
    binary = binary_content(head)
    if binary == PDF:
        return "pdf"
    if binary == ZIP:
        with open_archive(file) as archive:
            content = content_of(archive)
            if content in KINDS:
                check_archive(archive, limits)
            return content
    if binary:
        return binary
    return "html" if _HTML.match(head) else "text"


def _in_words(content: str) -> str:
    if content in _TEXTUAL:
        return "text"
    return _IN_WORDS.get(content, PDF if content == "pdf" else content)
