"""Hearth's command line: `python3 main.py` serves."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from services.errors import HearthError
from services.settings import Settings, add_flags, read_settings
from services.sources import FORMS

log = logging.getLogger("hearth")


def main() -> int:
    """Run the command that the arguments name; return the exit status."""
    parser = argparse.ArgumentParser(prog="main.py", description="Hearth, a local LLM API server for CPUs.")
    commands = "serve (the default), pull: fetch a model file, or tune: measure which settings make a profile fastest here"
    parser.add_argument("command", nargs="?", choices=["serve", "pull", "tune"], default="serve", help=commands)
    what = f"tune: which profile (the selected one); pull: a profile with a source, or {FORMS}"
    parser.add_argument("what", nargs="?", metavar="PROFILE|SOURCE", help=what)
    parser.add_argument("--save", action="store_true", help="tune: write the best settings into the profile")
    add_flags(parser)
    given = parser.parse_args()
    if given.save and given.command != "tune":
        parser.error("--save belongs to tune")
    if (given.what is None) == (given.command == "pull") and given.command != "tune":
        parser.error("pull needs a profile or a source" if given.command == "pull" else f"what is {given.what}?")
    try:
        settings = read_settings(vars(given), os.environ)
    except ValueError as error:
        parser.error(str(error))
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # waitress warns of every request that waits for a thread.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    # It tells of every request.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    try:
        if given.command == "pull":
            return pull(settings, given.what)
        return serve(settings) if given.command == "serve" else tune(settings, given.what, given.save)
    except HearthError as error:
        return _refuse(error.message, given.command)
    except OSError as error:
        return _refuse(str(error), given.command)
    except ModuleNotFoundError as error:
        return _refuse(f"There is no {error.name} in this Python. Type: source .venv/bin/activate, or use ./setup.sh run")
    except KeyboardInterrupt:
        return 130


def serve(settings: Settings, gates: Mapping[str, Any] | None = None, preferred: Any = None) -> int:
    """Serve until SIGTERM or Ctrl+C; `gates` and `preferred` are as for `create_app`.

    Raises HearthError or OSError where it cannot start.
    """
    from services.app import create_app
    from services.engine.pool import EnginePool
    from services.engine.store import StateStore
    from services.server import make_server, port_of

    store = StateStore(settings.data / "states", _bytes(settings.cache_ram), settings.cache_disk * 10**6)
    pool = EnginePool(store, settings.think_ahead, settings.queue, _bytes(settings.model_ram), 60 * settings.idle_minutes)
    app = create_app(settings, pool, gates, preferred)
    parts = app.extensions["hearth"]
    with ExitStack() as closing:
        # The engine first, so that streams end with an error event rather than in the middle of a word.
        jobs = parts["jobs"]
        closers = (pool.close, parts["sessions"].close, parts["keys"].close, jobs.release)
        closing.enter_context(_stopping_on_signals(jobs.close, *closers))
        store.retain(parts["sessions"].names_of_all())
        try:
            server = make_server(app, settings)
        except OSError as error:
            for close in closers:
                close()
            return _refuse(f"It cannot listen on {settings.host}:{settings.port}: {error.strerror}")
        jobs.start(takes_up=_is_alone(settings.data / "jobs.lock", closing))
        url = f"http://{settings.host}:{port_of(server)}"
        _introduce(url, parts["keys"].mint_master())
        threading.Thread(target=_warm_up, args=(parts["answers"],), name="warm-up", daemon=True).start()
        if settings.tunnel:
            _open_tunnel(url, closing)
        server.run()
    return 0


def pull(settings: Settings, what: str) -> int:
    """Fetch a profile's model, or the one that a source names, and say how to use it.

    Raises HearthError where that does not work; what has arrived by then is kept, and gone on from the next time.
    """
    from services.profiles import Profiles
    from services.pull_bar import show
    from services.pulls import Pulls

    # The bar shows it.
    logging.getLogger("services.pulls").setLevel(logging.ERROR)
    source, target = Profiles(settings.data / "config.json").config().source(what)
    arriving = Pulls(settings.models).start(source, target)
    show(arriving)
    print(f"{arriving.path} is there and whole.")
    if not target:
        print("A request may name it as its model; to give it a template, name it in a profile of data/config.json.")
    return 0


def tune(settings: Settings, name: str | None, save: bool) -> int:
    """Measure which settings make a profile fastest on this machine, show them, and save them if told to.

    Raises HearthError where the profile or its model cannot be used.
    """
    from services.engine.tune import n_trials
    from services.engine.tune import tune as trials_of
    from services.engine.tune_table import report
    from services.models import ModelFiles
    from services.profiles import Profiles

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


def _bytes(megabytes: int | None) -> int | None:
    return None if megabytes is None else megabytes * 10**6


def _is_alone(lock: Path, closing: ExitStack) -> bool:
    """Whether no other server works on this data folder; until `closing` closes, none will think so."""
    from filelock import FileLock, Timeout

    held = FileLock(lock)
    try:
        held.acquire(blocking=False)
    except Timeout:
        return False
    closing.callback(held.release)
    return True


def _open_tunnel(url: str, closing: ExitStack) -> None:
    """Have a public address for the server, until `closing` closes; where that cannot be, say so and go on."""
    from services.tunnel import Tunnel

    try:
        closing.callback(Tunnel(url, lambda public: print(f"Public address: {public}", flush=True)).close)
    except (HearthError, OSError) as error:
        print(f"Hearth opens no tunnel: {error}", file=sys.stderr, flush=True)


@contextmanager
def _stopping_on_signals(*closers: Callable[[], None]) -> Iterator[None]:
    """Close everything on SIGTERM and SIGINT, and leave by SystemExit. In a thread of somebody's, signals are theirs."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, signal.SIG_IGN)
        for close in closers:
            close()
        with contextlib.suppress(OSError):
            print("Hearth stops.", flush=True)
        raise SystemExit(0)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {name: signal.signal(name, stop) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        # A notebook goes on after its server has been interrupted.
        for name, handler in before.items():
            signal.signal(name, handler)


def _introduce(url: str, master: Any) -> None:
    """Say where it listens and, the first time, what the master key is."""
    if master:
        print(
            f"\nYour master key, shown this once:\n\n    {master.key}\n\nPaste it at {url} in a browser, or try:\n\n"
            f"""    curl -s {url}/answer -H 'Authorization: {master.key}' -d '{{"prompt": "What can you do?"}}'\n"""
        )
    print(f"Hearth listens on {url} (Ctrl+C stops it). Open it in a browser to chat.", flush=True)


def _warm_up(answers: Any) -> None:
    problem = answers.warm_up()
    if problem:
        log.error("%s", problem.message)


def _refuse(reason: str, command: str = "serve") -> int:
    print(f"Hearth cannot {'start' if command == 'serve' else command}: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
