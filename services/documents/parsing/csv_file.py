"""Tables in CSV and TSV: a paragraph for each row, as lines of `column: value`."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import IO

from services.documents.parsing import failures
from services.documents.parsing.builder import TextBuilder
from services.documents.parsing.decoding import encoding_of
from services.documents.parsing.document import ParsedDocument
from services.documents.parsing.limits import ParseLimits

_DELIMITERS = ",;\t|"
_SNIFFED = 20
_COLUMNS = 20_000
_REPORTED = 500


def read_csv(
    file: IO[bytes], path: Path, extension: str, limits: ParseLimits, report: Callable[[int, int], None]
) -> ParsedDocument:
    """Return the document of a table, whose opened file is at `path`; its first row names the columns.

    Raises TooLarge, UnsupportedType (binary data) or Unprocessable.
    """
    data = file.read(limits.unpacked + 1)
    if len(data) > limits.unpacked:
        raise failures.too_much_text(limits.characters)
    encoding = encoding_of(data)
    rows = max(1, data.count(b"\n"))
    csv.field_size_limit(limits.characters)
    text = io.TextIOWrapper(io.BytesIO(data), encoding, newline="")
    delimiter = "\t" if extension == "tsv" else _delimiter(text)
    text.seek(0)
    try:
        names = _names(next(csv.reader(text, delimiter=delimiter), []))
    except csv.Error as error:
        raise failures.damaged(f"the file is damaged: line 1 is no row of a table ({error})") from error
    del data, text
    builder = TextBuilder("csv", limits)
    _add_rows(builder, path, encoding, {"delimiter": delimiter, "fieldnames": names}, lambda done: report(done, rows))
    return builder.build()


def _add_rows(
    builder: TextBuilder, path: Path, encoding: str, form: dict[str, object], report: Callable[[int], None]
) -> None:
    from langchain_community.document_loaders.csv_loader import CSVLoader

    loader = CSVLoader(path, encoding=encoding, csv_args={**form, "restkey": "more", "restval": ""})
    done = -1
    try:
        for done, row in enumerate(loader.lazy_load()):
            # The first is that of the names.
            if done:
                builder.paragraph(re.sub(r"\n\s*\n", "\n", row.page_content))
                if done % _REPORTED == 0:
                    report(done)
    except RuntimeError as error:
        # The loader's own error has the path in it.
        if isinstance(error.__cause__, csv.Error):
            what = f"the file is damaged: row {done + 2:,} is no row of a table ({error.__cause__})"
            raise failures.damaged(what) from error
        raise error.__cause__ or error from error
    if done == 0:
        # Nothing but one row.
        builder.paragraph("\n".join(str(name) for name in form["fieldnames"]))  # type: ignore[attr-defined]


def _delimiter(text: IO[str]) -> str:
    """Return the delimiter that most of the first lines have, equally often if possible."""
    lines = [line for _, line in zip(range(_SNIFFED), text, strict=False) if line.strip()]

    def merit(delimiter: str) -> tuple[int, int]:
        counts = Counter(line.count(delimiter) for line in lines)
        counts.pop(0, None)
        (often, lines_alike), *_ = [*counts.most_common(1), (0, 0)]
        return lines_alike, often

    return max(_DELIMITERS, key=merit)


def _names(row: list[str]) -> list[str]:
    """Return a name for each column, no two alike: a row is a dictionary to the loader."""
    if len(row) > _COLUMNS:
        raise failures.unpacks_too_large(f"the table has more than {_COLUMNS:,} columns")
    names: list[str] = []
    taken: set[str] = set()
    for number, cell in enumerate(row, 1):
        name = " ".join(cell.split()) or f"column {number}"
        if name in taken:
            name = f"{name} (column {number})"
        taken.add(name)
        names.append(name)
    return names
