"""Plain text and source code: the text as it stands."""

from __future__ import annotations

from typing import IO

from services.documents.parsing import failures
from services.documents.parsing.builder import clean
from services.documents.parsing.decoding import decode
from services.documents.parsing.document import ParsedDocument
from services.documents.parsing.limits import ParseLimits

# The most bytes that a character takes, in UTF-32.
_BYTES = 4


def read_text(file: IO[bytes], limits: ParseLimits) -> str:
    """Return the whole text of a file. Raises TooLarge, or what `decode` raises, or Unprocessable if it is blank."""
    data = file.read(limits.characters * _BYTES + 5)
    if len(data) > limits.characters * _BYTES + 4:
        raise failures.too_much_text(limits.characters)
    text = clean(decode(data)).rstrip()
    if len(text) > limits.characters:
        raise failures.too_much_text(limits.characters)
    if not text:
        raise failures.no_text()
    return text


def read_plain(file: IO[bytes], kind: str, limits: ParseLimits) -> ParsedDocument:
    """Return a document of the file's text. Raises what `read_text` raises."""
    return ParsedDocument(read_text(file, limits), kind)
