"""The progress bar of a download: bytes, speed and remaining time."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from services.models.downloads import Pull


def show(pull: Pull, console: Console | None = None) -> None:
    """Follow `pull` to its end, and raise its error. Where the size is not known, the bar only shows activity."""
    console = console or Console(highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"Asking for {pull.source}", total=None)
        for at in pull.progress(lambda: None):
            progress.update(task, description=at["file"], total=at["size"] or None, completed=at["received"])
