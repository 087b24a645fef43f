"""A plot with the project's settings, saved as an SVG file that comes out the same from the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

SETTINGS: Any = {
    "svg.hashsalt": "hearth",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def new_figure() -> tuple[Figure, Any]:
    """Return an empty figure and its axes."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    return figure, figure.subplots()


def save_figure(figure: Figure, axes: Any, path: Path, legend_title: str = "") -> None:
    """Write the figure with a grid and a legend, and without the date."""
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, title=legend_title or None)
    figure.savefig(path, format="svg", metadata={"Date": None})
