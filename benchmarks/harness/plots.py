"""A plot with the project's settings, saved as an SVG file that comes out the same from the same numbers.

Matplotlib is imported when something is drawn: measuring and reading results do without it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SETTINGS: Any = {
    "svg.hashsalt": "hearth",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def plot_settings() -> AbstractContextManager[None]:
    """Return a context in which matplotlib has the project's settings."""
    from matplotlib import rc_context

    return rc_context(SETTINGS)


def new_figure(width: float = 6, height: float = 3, n_axes: int = 1) -> tuple[Figure, Any]:
    """Return an empty figure of this size in inches, and its axes; several stand below each other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(n_axes, sharex=True)


def save_figure(figure: Figure, axes: Any, path: Path, legend_title: str = "") -> None:
    """Write the figure with a grid and a legend, and without the date."""
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, title=legend_title or None)
    figure.savefig(path, format="svg", metadata={"Date": None})
