"""The plots, as SVG files that come out the same from the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import matplotlib as mpl

from benchmarks.harness.plots import SETTINGS, new_figure, save_figure
from benchmarks.single.bench import OURS, THEIRS, Pair
from benchmarks.single.results import Results

SIDES = ((OURS, "Hearth", "#c4501b", "o"), (THEIRS, "llama-server", "#4a6a8a", "s"))


def draw_plots(results: Results, folder: Path) -> None:
    """Draw the results into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(SETTINGS):
        if pairs := results.pairs("long-talk"):
            _draw_turns(pairs, "A long talk", folder / "long-talk.svg")
        if pairs := results.pairs("twelve"):
            _draw_turns(pairs, "Twelve users on eight slots", folder / "twelve.svg")
        if pairs := results.pairs("users"):
            _draw_users(pairs, folder / "users.svg")
        if pairs := results.pairs("stall"):
            _draw_gaps(pairs, folder / "stall.svg")


def _draw_turns(pairs: Sequence[Pair], title: str, path: Path) -> None:
    """Draw the first token's time by turn, for every pair, and the median."""
    figure, axes = new_figure()
    for side, name, colour, marker in SIDES:
        runs = [pair[side]["turns"] for pair in pairs]
        turns = range(1, len(runs[0]) + 1)
        for run in runs:
            axes.plot(turns, run, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(turns, [median(times) for times in zip(*runs, strict=True)], color=colour, marker=marker, label=name)
    axes.set(title=f"{title}: seconds to the first token", xlabel="turn", xticks=list(turns), ylim=(0, None))
    save_figure(figure, axes, path)


def _draw_users(pairs: Sequence[Pair], path: Path) -> None:
    """Draw all users' tokens a second by the number of users."""
    figure, axes = new_figure()
    for side, name, colour, marker in SIDES:
        counts = list(pairs[0][side]["rates"])
        rates = [median(pair[side]["rates"][count] for pair in pairs) for count in counts]
        axes.plot([int(count) for count in counts], rates, color=colour, marker=marker, label=name)
    axes.set(title="Tokens a second, all users together", xlabel="users at once", xticks=[1, 2, 4, 8], ylim=(0, None))
    save_figure(figure, axes, path)


def _draw_gaps(pairs: Sequence[Pair], path: Path) -> None:
    """Draw the first stream's gaps in the first pair: a dot per chunk, at the end of a line as long as its gap."""
    figure, axes = new_figure()
    for side, name, colour, marker in SIDES:
        numbers = pairs[0][side]
        times, gaps = zip(*numbers["gaps"], strict=True)
        axes.hlines(gaps, [time - gap for time, gap in numbers["gaps"]], times, color=colour, linewidth=0.8)
        axes.plot(times, gaps, color=colour, marker=marker, markersize=3, linestyle="none", label=name)
        axes.axvline(numbers["first_token"], color=colour, linestyle=":", linewidth=1)
    axes.axvline(0, color="black", linestyle=":", linewidth=1)
    axes.set(title="A stream beside a prompt of 2,000 tokens: gaps", ylabel="seconds since the piece before")
    axes.set(xlabel="seconds since the long prompt was sent (dotted: sent, and its first token)", yscale="log")
    save_figure(figure, axes, path)
