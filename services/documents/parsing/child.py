"""The parser's own process: `python3 -m services.documents.parsing.child` parses one file and ends.

It reads a line of JSON from standard input, `{"path", "name", "limits"}`, and later another one, and writes the lines of
protocol.py to standard output. parser.py starts it.
"""

from __future__ import annotations

from services.storage.processes import end_with_parent, take_stdout

if __name__ == "__main__":
    end_with_parent()

import gc
import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from services.documents.parsing import failures
from services.documents.parsing.chunks import with_chunks
from services.documents.parsing.confinement import limit_resources, refuse_other_files
from services.documents.parsing.document import ParsedDocument
from services.documents.parsing.kinds import extension_of, kind_of
from services.documents.parsing.limits import ParseLimits
from services.documents.parsing.protocol import document_lines, error_line, to_line
from services.errors import HearthError

Report = Callable[[int, int], None]
# Between two reports of progress.
_SECONDS = 0.1
# Left for telling that the memory was not enough.
_RESERVE = 4 * 1024 * 1024


def read(file: IO[bytes], path: Path, name: str, limits: ParseLimits, report: Report) -> ParsedDocument:
    """Return the document of an opened file. Each kind imports its libraries itself. Raises HearthError, and theirs."""
    kind = kind_of(file, name, limits)
    if kind == "pdf":
        from services.documents.parsing.pdf import read_pdf

        return read_pdf(file, limits, report)
    if kind == "csv":
        from services.documents.parsing.csv_file import read_csv

        return read_csv(file, path, extension_of(name), limits, report)
    if kind == "markdown":
        from services.documents.parsing.markdown import read_markdown

        return read_markdown(file, limits)
    if kind in ("text", "code"):
        from services.documents.parsing.plain import read_plain

        return read_plain(file, kind, limits)
    return _read_marked_up(kind, file, limits, report)


def _read_marked_up(kind: str, file: IO[bytes], limits: ParseLimits, report: Report) -> ParsedDocument:
    if kind == "docx":
        from services.documents.parsing.docx import read_docx

        return read_docx(file, limits, report)
    if kind == "odt":
        from services.documents.parsing.odt import read_odt

        return read_odt(file, limits, report)
    if kind == "epub":
        from services.documents.parsing.epub import read_epub

        return read_epub(file, limits, report)
    from services.documents.parsing.html import read_html

    return read_html(file, limits, report)


def reply(path: Path, name: str, limits: ParseLimits, output: IO[bytes]) -> None:
    """Parse a file and write its document, or its error, to `output`."""
    reserve: bytes | None = bytes(_RESERVE)
    last = 0.0

    def report(done: int, of: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _SECONDS or done == of:
            last = now
            output.write(to_line({"progress": [done, of]}))
            output.flush()

    def ask_parent(samples: list[str]) -> float | None:
        output.write(to_line({"samples": samples}))
        output.flush()
        characters: float | None = json.loads(sys.stdin.readline())["characters"]
        return characters

    try:
        with path.open("rb") as file:
            document = read(file, path, name, limits, report)
        for line in document_lines(with_chunks(document, ask_parent)):
            output.write(line)
    except Exception as error:
        reserve = None
        output.write(error_line(_as_failure(error, limits)))
    output.flush()
    del reserve


def _as_failure(error: Exception, limits: ParseLimits) -> HearthError:
    """Return the error for the client; the log has the one that a library raised."""
    if isinstance(error, HearthError):
        return error
    if isinstance(error, MemoryError):
        return failures.too_much_memory(limits.memory)
    logging.getLogger(__name__).critical("a parser failed: %s: %s", type(error).__name__, str(error)[:500])
    if isinstance(error, RecursionError):
        return failures.damaged("the file is damaged: it is nested too deeply")
    return failures.damaged("the file is damaged and cannot be read")


def main() -> None:
    """Read the request, parse, and write the reply."""
    output = take_stdout()
    # A quarter of a PDF's time otherwise: parsers make many objects, and few that refer to each other.
    gc.set_threshold(200_000, 20, 100)
    # The libraries warn of every oddity of a file.
    logging.disable(logging.ERROR)
    request = json.loads(sys.stdin.readline())
    limits = ParseLimits(**request["limits"])
    path = Path(request["path"])
    limit_resources(limits)
    refuse_other_files(path)
    reply(path, request["name"], limits, output)


if __name__ == "__main__":
    main()
