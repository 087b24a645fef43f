"""`main.py tune`: which settings make a profile fastest on this machine."""

from __future__ import annotations

from services.cli.tuning_table import report
from services.engine.tuning import n_trials
from services.engine.tuning import tune as trials_of
from services.models.config import Profiles
from services.models.files import ModelFiles
from services.settings import Settings


def tune(settings: Settings, name: str | None, save: bool) -> int:
    """Measure which settings make a profile fastest on this machine, show them, and save them if told to.

    Raises HearthError where the profile or its model cannot be used.
    """
    profiles = Profiles(settings.data / "config.json")
    config = profiles.config()
    profile = config.named(name or config.selected)
    base = profile.load_settings(ModelFiles(settings.models))
    changes = report(name or config.selected, trials_of(base), n_trials(base))
    if not changes:
        print("The profile's settings are the best that was found.")
    elif save:
        profiles.change(name or config.selected, changes)
        print(f"Written into {settings.data / 'config.json'}; a server that runs takes them up with the next answer.")
    else:
        print("To write them into the profile: python3 main.py tune --save")
    return 0
