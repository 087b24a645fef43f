"""The tables of `main.py tune`: the types that a file can become, and the settings of a profile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table

from services.engine.tuning import TURN_DECODED, TURN_READ, Speed, Trial
from services.engine.type_trials import TypeTrial

_SPEEDS = ("reading", "one alone", "all at once", "turn, s")
_TURN = f"tokens a second, and a turn of {TURN_READ} tokens read and {TURN_DECODED} decoded"


def types_table(file: str, trials: Sequence[TypeTrial], own: str, sampled: str, best: TypeTrial | None) -> Table:
    """Return the table of a file's types. `own` is its type, `sampled` the part of it that was measured ("": all)."""
    part = f" (speeds of {sampled}: compare them only with each other)" if sampled else ""
    quality = "divergence from the file (nats a token), and how often the likeliest token is the same"
    table = Table(title=f"{file}{part}: {_TURN}; {quality}", title_justify="left")
    table.add_column("type", no_wrap=True)
    for heading in (*_SPEEDS, "MB", "divergence", "same"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for trial in trials:
        label = trial.kind or f"{own}, as it is"
        size = f"{trial.size / 1e6:.0f}" if trial.size else ""
        close = [f"{each.divergence:.4f}", f"{each.agreement:.0%}"] if (each := trial.quality) else ["", ""]
        note, style = ("best", "bold") if trial is best else (trial.problem, "")
        table.add_row(label, *_speeds(trial.speed), size, *close, note, style=style)
    return table


def settings_table(name: str, trials: Iterable[Trial]) -> Table:
    """Return the table of a profile's settings."""
    table = Table(title=f"{name}: {_TURN}", title_justify="left")
    table.add_column("settings")
    for heading in _SPEEDS:
        table.add_column(heading, justify="right")
    table.add_column("")
    for trial in trials:
        label = ", ".join(f"{name} {value}" for name, value in trial.change.items()) or "as the profile is"
        if trial.speed:
            kept = "kept" if trial.kept else ""
            table.add_row(label, *_speeds(trial.speed), kept, style="bold" if kept else "")
        else:
            table.add_row(f"{label}: {trial.problem}", *[""] * 5)
    return table


def _speeds(speed: Speed | None) -> list[str]:
    if speed is None:
        return [""] * len(_SPEEDS)
    return [*(f"{value:.0f}" for value in (speed.read, speed.decode, speed.together)), f"{speed.turn_seconds:.2f}"]
