"""What the parser's process writes: lines of JSON, none longer than LINE bytes.

`{"progress": [done, of]}` at any time; then either `{"error": {kind, message, code}}`, or `{"samples": [text, …]}`, which
the parent answers by `{"characters"}` (how many of them a token has, or null), and the document in pieces: lines of
`{"text"}`, `{"headings": [[start, level, title], …]}`, `{"pages": [offset, …]}` and `{"chunks": [[start, end, page,
heading], …]}`, and last `{"kind", "n_tokens"}`. The parent believes none of it: a damaged file may have taken over the
process.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from services.documents.parsing import failures
from services.documents.parsing.document import Chunk, Heading, ParsedDocument
from services.documents.parsing.kinds import KINDS
from services.documents.parsing.limits import ParseLimits
from services.errors import HearthError, TooLarge, Unprocessable, UnsupportedType

LINE = 1 << 20
_CHARACTERS = 1 << 16
_ITEMS = 100
_ERRORS: dict[str, type[HearthError]] = {kind.__name__: kind for kind in (UnsupportedType, TooLarge, Unprocessable)}
_MESSAGE = 1000


def to_line(value: dict[str, Any]) -> bytes:
    """Return a message as a line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def error_line(error: HearthError) -> bytes:
    """Return the line of an error."""
    return to_line({"error": {"kind": type(error).__name__, "message": error.message, "code": error.code}})


def document_lines(document: ParsedDocument) -> Iterator[bytes]:
    """Yield the lines of a document, the last of them its end."""
    for start in range(0, len(document.text), _CHARACTERS):
        yield to_line({"text": document.text[start : start + _CHARACTERS]})
    for start in range(0, len(document.headings), _ITEMS):
        headings = document.headings[start : start + _ITEMS]
        yield to_line({"headings": [[each.start, each.level, each.title] for each in headings]})
    for start in range(0, len(document.pages), _ITEMS):
        yield to_line({"pages": document.pages[start : start + _ITEMS]})
    for start in range(0, len(document.chunks), _ITEMS):
        chunks = document.chunks[start : start + _ITEMS]
        yield to_line({"chunks": [[each.start, each.end, each.page, each.heading] for each in chunks]})
    yield to_line({"kind": document.kind, "n_tokens": document.n_tokens})


class ReplyError(Exception):
    """A line that the parser's process would not write."""


class ReplyReader:
    """Puts the lines of one process together; `document` is None until the last one."""

    def __init__(self, limits: ParseLimits) -> None:
        self._limits = limits
        self._text: list[str] = []
        self._length = 0
        self._headings: list[Heading] = []
        self._pages: list[int] = []
        self._chunks: list[Chunk] = []
        self.samples: list[str] | None = None
        """Pieces of the text whose tokens are to be counted."""
        self.progress = (0, 0)
        self.document: ParsedDocument | None = None

    def read(self, line: bytes) -> None:
        """Take a line. Raises the error that it has, or ReplyError."""
        try:
            self._take(json.loads(line))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ReplyError(f"a line of the parser is wrong: {error!r}") from error

    def _take(self, message: dict[str, Any]) -> None:
        if "progress" in message:
            done, of = (_number(each) for each in message["progress"])
            self.progress = (min(done, of), of)
        elif "error" in message:
            error = message["error"]
            text, code = _text(error["message"]), _text(error["code"])
            raise _ERRORS[error["kind"]](text[:_MESSAGE], param=failures.PARAM, code=code[:_MESSAGE])
        elif "samples" in message:
            self.samples = [_text(each) for each in message["samples"]]
        elif "text" in message:
            self._text.append(_text(message["text"]))
            self._length += len(self._text[-1])
            _check(self._length <= self._limits.characters)
        elif "headings" in message:
            self._headings += [
                Heading(_number(start), _number(level), _text(title)) for start, level, title in message["headings"]
            ]
            _check(len(self._headings) <= self._limits.headings)
        elif "pages" in message:
            self._pages += [_number(start) for start in message["pages"]]
            _check(len(self._pages) <= self._limits.pages)
        elif "chunks" in message:
            self._chunks += [
                Chunk(_number(start), _number(end), None if page is None else _number(page), _text(heading))
                for start, end, page, heading in message["chunks"]
            ]
            _check(len(self._chunks) <= self._limits.characters)
        else:
            self._end(message["kind"], _number(message["n_tokens"]))

    def _end(self, kind: str, n_tokens: int) -> None:
        starts = [*self._pages, *(heading.start for heading in self._headings)]
        _check(kind in KINDS and self._length > 0 and all(start <= self._length for start in starts))
        _check(all(chunk.start < chunk.end <= self._length for chunk in self._chunks))
        self.document = ParsedDocument(
            "".join(self._text), kind, tuple(self._pages), tuple(self._headings), tuple(self._chunks), n_tokens
        )


def _check(is_right: bool) -> None:
    if not is_right:
        raise ValueError("more than the limits, or out of range")


def _number(value: Any) -> int:
    _check(isinstance(value, int) and value >= 0)
    return int(value)


def _text(value: Any) -> str:
    _check(isinstance(value, str))
    return str(value)
