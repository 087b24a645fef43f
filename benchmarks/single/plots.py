"""The plots, as SVG files that come out the same from the same numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.harness.plots import new_figure, plot_settings, save_figure
from benchmarks.harness.servers import SYNTHETIC
from benchmarks.single.bench import OURS, THEIRS, TUNED, Pair
from benchmarks.single.figures import RATIO, Figure
from benchmarks.single.results import Results

MODELS = (("#c4501b", "o"), ("#4a6a8a", "s"), ("#4a8a5a", "^"), ("#8a4a7a", "D"), ("#7a7a2a", "v"))
SIDES = ((OURS, "Hearth", "#c4501b", "o"), (THEIRS, "llama-server", "#4a6a8a", "s"))


def draw_plots(results: Sequence[Results], folder: Path) -> None:
    """Draw the ratios of all models, and the details of the first model's rows, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    first = results[0]
    with plot_settings():
        _draw_ratios(results, folder / "ratios.svg")
        if pairs := first.pairs("long-talk"):
            _draw_turns(pairs, "A long talk", folder / "long-talk.svg")
        if pairs := first.pairs("twelve"):
            _draw_turns(pairs, "Twelve users on eight slots", folder / "twelve.svg")
        if pairs := first.pairs("users"):
            _draw_users(pairs, folder / "users.svg")
        if pairs := first.pairs("stall"):
            _draw_gaps(pairs, folder / "stall.svg")


def title_of(results: Results) -> str:
    """Return the name of a model for people."""
    if f"{results.name}.gguf" == SYNTHETIC:
        return "The synthetic 0.4 B (Q4_0)"
    return results.name.removesuffix(TUNED) + ", tuned" * results.is_tuned


def _draw_ratios(results: Sequence[Results], path: Path) -> None:
    """Draw each model's ratios to llama-server, a line a figure; a bar where a ratio is a goal."""
    lines = [(each, line) for each in results for line in each.lines() if line.figure.of == RATIO and line.ratio]
    names = list(dict.fromkeys(_label(line.figure) for _, line in lines))
    figure, axes = new_figure(7, 1.2 + 0.26 * len(names))
    for number, each in enumerate(results):
        mine = [line for of, line in lines if of is each]
        at = [names.index(_label(line.figure)) for line in mine]
        colour, marker = MODELS[number % len(MODELS)]
        axes.plot(
            [line.ratio or math.nan for line in mine],
            at,
            color=colour,
            marker=marker,
            linestyle="none",
            label=title_of(each),
        )
        goals = [(line.goal, place) for line, place in zip(mine, at, strict=True) if line.goal is not None]
        axes.plot(
            *zip(*goals, strict=True) if goals else ((), ()), color=colour, marker="|", markersize=11, linestyle="none"
        )
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(title="Hearth's figures, divided by llama-server's (bars: goals)", xscale="log", yticks=range(len(names)))
    axes.set(yticklabels=names)
    axes.invert_yaxis()
    save_figure(figure, axes, path)


def _label(figure: Figure) -> str:
    return f"{figure.row}: {figure.key.replace('_', ' ')}"


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
