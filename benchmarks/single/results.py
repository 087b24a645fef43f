"""The stored results: a JSON file a model, in which each run of a row replaces that row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.harness.servers import SYNTHETIC
from benchmarks.single.bench import TUNED, Pair
from benchmarks.single.figures import FIGURES, Line, measure_up


class Results:
    """The rows of one model in `path`, whose name is the model's: name → {"date", "pairs", "file"}."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = path.stem
        self.rows: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    @property
    def is_tuned(self) -> bool:
        """True if Hearth ran a file that `main.py tune --convert` made of llama-server's."""
        return self.name.endswith(TUNED)

    def save(self, row: str, pairs: Sequence[Pair], file: str = "") -> None:
        """Replace a row's numbers; `file` is the name of Hearth's file."""
        self.rows[row] = {"date": datetime.now(timezone.utc).date().isoformat(), "pairs": pairs, "file": file}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(self.rows, indent=1), encoding="utf-8")
        part.replace(self._path)

    def files(self) -> list[str]:
        """Return the names of the files that Hearth ran."""
        return sorted({row.get("file", "") for row in self.rows.values()} - {""})

    def pairs(self, row: str) -> list[Pair]:
        """Return a row's numbers; [] if it was not measured."""
        return list(self.rows[row]["pairs"]) if row in self.rows else []

    def lines(self, rows: Sequence[str] | None = None) -> list[Line]:
        """Return the table's lines of those rows, or of all, as far as they were measured."""
        figures = (figure for figure in FIGURES if rows is None or figure.row in rows)
        return [measure_up(figure, pairs, self.is_tuned) for figure in figures if (pairs := self.pairs(figure.row))]

    def days(self) -> set[str]:
        """Return the days of the measurements."""
        return {row["date"] for row in self.rows.values()}


def stored_results(folder: Path) -> list[Results]:
    """Return the results of all models in `folder`: the synthetic model first, a tuned file after the file itself."""
    paths = sorted(folder.glob("*.json"), key=lambda path: (f"{path.stem}.gguf" != SYNTHETIC, path.stem))
    return [Results(path) for path in paths]
