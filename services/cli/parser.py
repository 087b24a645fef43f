"""The arguments of `main.py` for every command that takes the server's settings."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from services.models.sources import FORMS
from services.settings import Settings, add_flags, read_settings

_COMMANDS = ("serve", "run", "pull", "tune", "worker", "migrate", "flower")
_ABOUT_COMMANDS = (
    "serve (the default), keys: mint, change and revoke them, and see what they used (keys --help), "
    "run: fetch a model if need be, serve it and chat in the terminal, "
    "models: list, show and remove model files, and the catalog (models --help), "
    "documents: follow folders, whose files are then searched and cited (documents --help), "
    "doctor: what the server's settings, keys and files leave open to others (doctor --help), "
    "pull: fetch a model file, tune: measure which type of its file and which settings make a model fastest here, "
    "worker: compute for a cluster, migrate: copy what the data folder holds into a cluster (--back: and back), "
    "or flower: look at a cluster's tasks in a browser"
)
_ABOUT_NAMES = (
    f"tune: a profile or a file of the models folder (the selected profile); "
    f"run, pull: a profile, a name of the catalog, a path, or {FORMS}; "
    "worker: the profiles whose models it serves (all of the models folder)"
)


@dataclass(frozen=True)
class Command:
    """A command and its arguments."""

    name: str
    settings: Settings
    flags: Mapping[str, str]
    """The settings that are given as flags, as they were typed."""
    names: Sequence[str]
    """The profiles, models or sources that it is about."""
    save: bool
    convert: str | None
    """The type of the file that tune writes, "" for the best; None: it writes none."""
    back: bool
    replace: bool


def parse(arguments: Sequence[str], environ: Mapping[str, str]) -> Command:
    """Read the arguments. Raises SystemExit, after printing what is wrong with them."""
    parser = _parser()
    given = parser.parse_args(arguments)
    name, names = given.command, given.names
    if given.save and name != "tune":
        parser.error("--save belongs to tune")
    if given.convert is not None and name != "tune":
        parser.error("--convert belongs to tune")
    if (given.back or given.replace) and name != "migrate":
        parser.error("--back and --replace belong to migrate")
    if name in ("run", "pull") and not names:
        parser.error(f"{name} needs a profile, a name of the catalog or a source")
    most = {"run": 1, "pull": 1, "tune": 1, "worker": len(names)}.get(name, 0)
    if names[most:]:
        parser.error(f"what is {names[most]}?")
    flags = {field.name: getattr(given, field.name) for field in fields(Settings)}
    try:
        settings = read_settings(flags, environ)
    except ValueError as error:
        parser.error(str(error))
    typed = {flag: value for flag, value in flags.items() if value}
    return Command(name, settings, typed, names, given.save, given.convert, given.back, given.replace)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="main.py", description="Hearth, a local LLM API server for CPUs.")
    parser.add_argument("command", nargs="?", choices=_COMMANDS, default="serve", help=_ABOUT_COMMANDS)
    parser.add_argument("names", nargs="*", metavar="PROFILE|SOURCE", help=_ABOUT_NAMES)
    parser.add_argument("--save", action="store_true", help="tune: write the best settings into the profile")
    about = "tune: write the best type of the model's file, or this one, beside it, and have the profile use it"
    parser.add_argument("--convert", nargs="?", const="", metavar="TYPE", help=about)
    parser.add_argument("--back", action="store_true", help="migrate: from the cluster into the data folder")
    parser.add_argument("--replace", action="store_true", help="migrate: replace what differs where it is copied to")
    add_flags(parser)
    return parser
