"""What `main.py tune` shows: a progress bar while it measures, and the table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from services.engine.tuning import TURN_DECODED, TURN_READ, Trial


def report(profile: str, trials: Iterable[Trial], n_trials: int, console: Console | None = None) -> dict[str, Any]:
    """Show how far the measuring is, then all trials; return the changes that make the profile fastest ({}: none)."""
    console = console or Console(highlight=False)
    done: list[Trial] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"Measuring {profile}", total=n_trials)
        for trial in trials:
            done.append(trial)
            progress.advance(task)
    console.print(_table(profile, done))
    return {name: value for trial in done if trial.kept for name, value in trial.change.items()}


def _table(profile: str, trials: list[Trial]) -> Table:
    table = Table(
        title=f"{profile}: tokens a second, and a turn of {TURN_READ} tokens read and {TURN_DECODED} decoded",
        title_justify="left",
    )
    table.add_column("settings")
    for heading in ("reading", "one alone", "all at once", "turn, s"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for trial in trials:
        label = ", ".join(f"{name} {value}" for name, value in trial.change.items()) or "as the profile is"
        if speed := trial.speed:
            speeds = [f"{value:.0f}" for value in (speed.read, speed.decode, speed.together)]
            kept = "kept" if trial.kept else ""
            table.add_row(label, *speeds, f"{speed.turn_seconds:.2f}", kept, style="bold" if kept else "")
        else:
            table.add_row(f"{label}: {trial.problem}", *[""] * 5)
    return table
