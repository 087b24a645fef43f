"""The commands of `main.py`. Each is imported when it runs: serving needs none of the others."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from services.cli.failures import explained
from services.logs import set_up

if TYPE_CHECKING:
    from services.cli.parser import Command

# Commands with arguments of their own, and what they cannot do where they fail.
_MANAGING = {
    "keys": "manage keys",
    "models": "manage models",
    "documents": "manage documents",
    "doctor": "look at itself",
}
_CANNOT = {"serve": "start", "worker": "start", "flower": "start Flower"}


def run_command(arguments: Sequence[str]) -> int:
    """Run the command that the arguments name, `serve` by default; return the exit status."""
    if arguments and arguments[0] in _MANAGING:
        return explained(_MANAGING[arguments[0]], lambda: _manage(arguments[0], arguments[1:]))
    # Its modules need installed packages, which may be missing.
    return explained("start", lambda: _parse_and_run(arguments))


def _parse_and_run(arguments: Sequence[str]) -> int:
    from services.cli.parser import parse

    command = parse(arguments, os.environ)
    set_up(command.settings.log_level, command.settings.log_format)
    return explained(_CANNOT.get(command.name, command.name), lambda: _run(command))


def _manage(name: str, arguments: Sequence[str]) -> int:
    if name == "keys":
        from services.cli.keys import keys

        return keys(arguments)
    if name == "models":
        from services.cli.models import models

        return models(arguments)
    if name == "documents":
        from services.cli.documents import documents

        return documents(arguments)
    from services.cli.doctor import doctor

    return doctor(arguments)


def _run(command: Command) -> int:
    settings = command.settings
    if command.name == "serve":
        # What it imports stays: looking for garbage among that takes an eighth of its start. See `serve`.
        gc.disable()
        try:
            from services.cli.serve import serve

            return serve(settings)
        finally:
            gc.enable()
    if command.name == "run":
        from services.cli.run import run

        return run(settings, command.names[0], command.flags)
    if command.name == "pull":
        from services.cli.pull import pull

        return pull(settings, command.names[0])
    if command.name == "tune":
        from services.cli.tune import tune

        return tune(settings, command.names[0] if command.names else None, command.save, command.convert)
    from services.cli.cluster import in_cluster

    return in_cluster(command)
