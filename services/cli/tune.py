"""`main.py tune`: measure which settings make a profile fastest on this machine."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from services.engine import tuning
from services.engine.tuning import TURN_DECODED, TURN_READ, Trial
from services.models.config import Profiles
from services.models.files import ModelFiles
from services.settings import Settings


def tune(settings: Settings, name: str | None, save: bool) -> int:
    """Measure which settings make a profile fastest on this machine, show them, and save them if told to.

    Raises HearthError where the profile or its model cannot be used.
    """
    profiles = Profiles(settings.data / "config.json")
    config = profiles.config()
    name = name or config.selected
    base = config.named(name).load_settings(ModelFiles(settings.models))
    trials = _measure(name, tuning.tune(base), tuning.n_trials(base))
    changes = {key: value for trial in trials if trial.kept for key, value in trial.change.items()}
    if not changes:
        print("The profile's settings are the best that was found.")
    elif save:
        profiles.change(name, changes)
        print(f"Written into {settings.data / 'config.json'}; a server that runs takes them up with the next answer.")
    else:
        print("To write them into the profile: python3 main.py tune --save")
    return 0


def _measure(profile: str, trials: Iterable[Trial], n_trials: int) -> list[Trial]:
    """Make the trials, with a progress bar, and show a table of them; return them."""
    console, done = Console(highlight=False), []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"Measuring {profile}", total=n_trials)
        for trial in trials:
            done.append(trial)
            progress.advance(task)
    console.print(_table(profile, done))
    return done


def _table(profile: str, trials: Iterable[Trial]) -> Table:
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
