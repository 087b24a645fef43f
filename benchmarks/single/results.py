"""The stored results: a JSON file in which each run of a row replaces that row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.single.bench import Pair
from benchmarks.single.figures import FIGURES, Line, measure_up


class Results:
    """The rows in `path`: name → {"date", "pairs"}."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def save(self, row: str, pairs: Sequence[Pair]) -> None:
        """Replace a row's numbers."""
        self.rows[row] = {"date": datetime.now(timezone.utc).date().isoformat(), "pairs": pairs}
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(self.rows, indent=1), encoding="utf-8")
        part.replace(self._path)

    def pairs(self, row: str) -> list[Pair]:
        """Return a row's numbers; [] if it was not measured."""
        return list(self.rows[row]["pairs"]) if row in self.rows else []

    def lines(self, rows: Sequence[str] | None = None) -> list[Line]:
        """Return the table's lines of those rows, or of all, as far as they were measured."""
        figures = (figure for figure in FIGURES if rows is None or figure.row in rows)
        return [measure_up(figure, pairs) for figure in figures if (pairs := self.pairs(figure.row))]

    def dates(self) -> str:
        """Return the day of the measurements, or the first and the last."""
        days = sorted({row["date"] for row in self.rows.values()})
        return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
