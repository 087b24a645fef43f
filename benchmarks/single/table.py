"""The table, for the terminal and for docs/performance.md."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.single.figures import Line

HEADINGS = ("row", "measurement", "Hearth", "llama-server", "ratio", "pairs", "target", "met")


def cells(line: Line) -> tuple[str, ...]:
    """Return one line of the table as texts."""
    figure = line.figure

    def show(value: float | None) -> str:
        return "" if value is None else f"{value:,.{figure.digits}f}"

    theirs = figure.beside + show(line.theirs) if line.theirs is not None else ""
    pairs = f"{line.ratios[0]:.2f}–{line.ratios[1]:.2f}" if line.ratios else ""  # noqa: RUF001
    ratio = f"{line.ratio:.2f}" if line.ratio is not None else ""
    reached = {True: "yes", False: "no", None: ""}[line.reached]
    return (figure.row, figure.what, f"{show(line.ours)} {figure.unit}", theirs, ratio, pairs, line.goal_text, reached)


def as_text(lines: Sequence[Line]) -> str:
    """Return columns under their headings."""
    rows = [HEADINGS, *(cells(line) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def as_markdown(lines: Sequence[Line]) -> str:
    """Return a Markdown table."""
    rows = [HEADINGS, ("---",) * len(HEADINGS), *(cells(line) for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
