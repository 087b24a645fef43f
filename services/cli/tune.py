"""`main.py tune`: measure which type of the file and which settings make a model fastest on this machine."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from services.cli.tune_tables import settings_table, types_table
from services.engine import tuning
from services.engine.conversion import target_of, type_named, write_beside
from services.engine.type_trials import LIMIT, STEADY, TypeTrial, TypeTrials, best_of, faster_but_worse
from services.engine.workspace import workspace
from services.errors import InvalidRequest
from services.models.catalog import find
from services.models.config import Config, Profiles
from services.models.files import ModelFiles
from services.models.profile import Chosen
from services.models.split import read_model
from services.settings import Settings

_T = TypeVar("_T")


def tune(settings: Settings, name: str | None, save: bool, kind: str | None) -> int:
    """Measure what makes a profile's or a file's model fastest on this machine, and show it; return the exit status.

    `save` writes the best settings into the profile. `kind` is a type, "" for the best, in which a new file is written
    beside the model's, for the profile; None: none is written. Raises HearthError or OSError where that cannot be done.
    """
    with _ended_by_sigterm():
        run = _Tuning(settings, name, save)
        if kind is None:
            run.measure_types()
        else:
            run.convert(kind and type_named(kind))
        run.measure_settings()
    return 0


class _Tuning:
    """The tuning of one model: what was chosen for it so far."""

    def __init__(self, settings: Settings, name: str | None, save: bool) -> None:
        self._config_file, self._save = settings.data / "config.json", save
        self._profiles = Profiles(self._config_file)
        self._files = ModelFiles(settings.models)
        config = self._profiles.config()
        self._chosen = _choose(config, self._files, name) if name else config.chosen
        self._has_profile = self._chosen.name in config.profiles
        if save and not self._has_profile:
            what = f"no profile has {self._chosen.name}, so that --save has nothing to write into"
            raise InvalidRequest(f"{what}: python3 main.py run {self._chosen.name} makes one", param="model")
        self._base = self._chosen.profile.load_settings(self._files)
        self._info = read_model(self._base.file)
        self._console = Console(highlight=False)

    def measure_types(self) -> None:
        """Show the types that the file can become."""
        with workspace(self._base.file) as folder:
            best = self._measure_types("", folder)
        if best:
            print(f"To have a file of {best.kind}: python3 main.py tune {shlex.quote(self._chosen.name)} --convert")

    def convert(self, kind: str) -> None:
        """Write the file as `kind`, "" for the best type, beside the old one, and set the profile to it."""
        if kind == self._info.quantization:
            raise InvalidRequest(f"{self._base.file.name} is {kind} already", param="type")
        if kind:
            # Said before the minutes of measuring.
            target_of(self._base.file, kind)
        with workspace(self._base.file) as folder:
            best = self._measure_types(kind, folder)
            kind = kind or (best.kind if best else "")
            if not kind:
                print("No file was written: the type that the file has is the best that was found.")
                return
            made = write_beside(self._base.file, kind, folder)
        name = made.relative_to(self._files.folder).as_posix()
        print(f"Written: {name} ({made.stat().st_size / 1e6:.0f} MB). {self._base.file.name} stays as it is.")
        self._use(name)

    def measure_settings(self) -> None:
        """Show the settings of the model as the profile has it now, and save the best if that is wanted."""
        name, base = self._chosen.name, self._base
        trials = self._follow(name, tuning.tune(base), tuning.n_trials(base))
        self._console.print(settings_table(name, trials))
        changes = {key: value for trial in trials if trial.kept for key, value in trial.change.items()}
        if not changes:
            print("The profile's settings are the best that was found.")
        elif self._save:
            self._profiles.change(name, changes)
            print(f"Written into {self._config_file}; a server that runs takes them up with the next answer.")
        elif self._has_profile:
            print(f"To write them into the profile: python3 main.py tune {shlex.quote(name)} --save")

    def _measure_types(self, kind: str, folder: Path) -> TypeTrial | None:
        made = TypeTrials(self._base, self._info, folder, (kind,) if kind else ())
        trials = self._follow(self._chosen.name, made.run(), 1 + len(made.kinds))
        best = best_of(trials)
        self._console.print(types_table(self._base.file.name, trials, self._info.quantization, made.sampled, best))
        if made.drift > STEADY:
            what = "Measured once more at the end, the file as it is took a time that differs by"
            print(f"{what} {made.drift:.0%}: the machine was busy, so measure again when it is idle.")
        if kind:
            return None
        for worse in faster_but_worse(trials):
            print(f"{worse.kind} is faster, and only written if it is named: {_why_not(worse)}.")
        return best

    def _use(self, file: str) -> None:
        """Set the profile to a new file; without a profile, say how to get one."""
        name = self._chosen.name
        if self._has_profile:
            # The source is the old file's.
            self._profiles.change(name, {"model": file, "source": None})
            print(f"{name} uses it now; a server that runs takes it up with the next answer.")
            self._chosen = Chosen(name, self._profiles.config().named(name))
        else:
            print(f"No profile has {name}. To chat with the new file: python3 main.py run {shlex.quote(file)}")
            self._chosen = Chosen(file, self._chosen.profile.model_copy(update={"model": file}))
        self._base = self._chosen.profile.load_settings(self._files)

    def _follow(self, what: str, trials: Iterable[_T], n_trials: int) -> list[_T]:
        """Make the trials, with a progress bar; return them."""
        done = []
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task(f"Measuring {what}", total=n_trials)
            for trial in trials:
                done.append(trial)
                progress.advance(task)
        return done


def _choose(config: Config, files: ModelFiles, name: str) -> Chosen:
    """Return the profile of a name: a profile's, a file's or one of the catalog. Raises NotFound, BadModelFile."""
    entry = None if name in config.profiles else find(name)
    return config.choose(entry.file if entry else name, files)


def _why_not(trial: TypeTrial) -> str:
    """Return why a type that is faster is not chosen by itself."""
    if trial.quality:
        return f"its divergence of {trial.quality.divergence:.2f} is above {LIMIT}"
    return trial.problem


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Have SIGTERM end the command as Ctrl+C does, with what it must clean up."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
