"""Hearth's command line: `python3 main.py` serves."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from services.errors import HearthError
from services.logs import set_up
from services.settings import Settings, add_flags, read_settings
from services.sources import FORMS

log = logging.getLogger("hearth")


def main() -> int:
    """Run the command that the arguments name; return the exit status."""
    if sys.argv[1:2] == ["keys"]:
        from auth.command import keys

        return _explained("manage keys", lambda: keys(sys.argv[2:]))
    parser = argparse.ArgumentParser(prog="main.py", description="Hearth, a local LLM API server for CPUs.")
    commands = (
        "serve (the default), keys: mint, change and revoke them, and see what they used (keys --help), "
        "pull: fetch a model file, or tune: measure which settings make a profile fastest here"
    )
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
    set_up(settings.log_level, settings.log_format)
    runs: dict[str, Callable[[], int]] = {
        "serve": lambda: serve(settings),
        "pull": lambda: pull(settings, given.what),
        "tune": lambda: tune(settings, given.what, given.save),
    }
    return _explained("start" if given.command == "serve" else given.command, runs[given.command])


def _explained(what: str, run: Callable[[], int]) -> int:
    """The exit status of `run`, or of what it raises, which is told."""
    try:
        return run()
    except HearthError as error:
        return _refuse(error.message, what)
    except OSError as error:
        return _refuse(str(error), what)
    except ModuleNotFoundError as error:
        return _refuse(f"There is no {error.name} in this Python. Type: source .venv/bin/activate, or use ./setup.sh run")
    except KeyboardInterrupt:
        return 130


def serve(settings: Settings, gates: Mapping[str, Any] | None = None, preferred: Any = None) -> int:
    """Serve until SIGTERM or Ctrl+C; `gates` and `preferred` are as for `create_app`.

    Raises HearthError or OSError where it cannot start.
    """
    from services.engine.life import EngineOptions
    from services.engine.process import EngineProcess

    options = EngineOptions(
        settings.data / "states",
        _bytes(settings.cache_ram),
        settings.cache_disk * 10**6,
        settings.think_ahead,
        settings.queue,
        _bytes(settings.model_ram),
        60 * settings.idle_minutes,
        settings.log_level,
        settings.log_format,
    )
    # It starts while what follows is imported.
    engine = EngineProcess(options, settings.data / "tried.json")
    try:
        return _serve(settings, engine, gates, preferred)
    finally:
        engine.close()


def _serve(settings: Settings, engine: Any, gates: Mapping[str, Any] | None, preferred: Any) -> int:
    from services.app import create_app
    from services.server import make_server

    app = create_app(settings, engine, gates, preferred)
    parts = app.extensions["hearth"]
    with ExitStack() as closing:
        # The engine first, so that streams end with an error event rather than in the middle of a word.
        answers, jobs = parts["answers"], parts["jobs"]
        closers = (engine.close, parts["sessions"].close, parts["keys"].close, jobs.release, parts["usage"].close)
        begin, all_closers = parts["stopping"].begin, (jobs.close, *closers)
        stop = _Stop(begin, lambda: answers.n_open, settings.stop_seconds, all_closers)
        closing.enter_context(stop.on_signals())
        engine.retain(parts["sessions"].names_of_all())
        try:
            server = make_server(app, settings)
        except OSError as error:
            for close in closers:
                close()
            return _refuse(f"It cannot listen on {settings.host}:{settings.port}: {error.strerror}")
        jobs.start(takes_up=_is_alone(settings.data / "jobs.lock", closing))
        url = f"{'https' if settings.cert else 'http'}://{settings.host}:{server.port}"
        _introduce(url, parts["keys"].mint_master())
        engine.on_restart = lambda: _warm_up(answers)
        threading.Thread(target=_warm_up, args=(answers,), name="warm-up", daemon=True).start()
        if settings.tunnel:
            _open_tunnel(url, closing, parts["hosts"].add)
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
    arriving = Pulls(settings.models, settings.pull_hosts).start(source, target)
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


def _open_tunnel(url: str, closing: ExitStack, allow: Callable[[str], None]) -> None:
    """Have a public address for the server, until `closing` closes; where that cannot be, say so and go on."""
    from services.tunnel import Tunnel

    def tell(public: str) -> None:
        allow(public.removeprefix("https://"))
        print(f"Public address: {public}", flush=True)

    try:
        closing.callback(Tunnel(url, tell).close)
    except (HearthError, OSError) as error:
        print(f"Hearth opens no tunnel: {error}", file=sys.stderr, flush=True)


class _Stop:
    """How the server stops: it takes nothing new, lets answers under way end, closes everything, and leaves.

    Its methods are for the main thread; a thread of its own waits and closes, so that the server goes on meanwhile.
    """

    def __init__(
        self, refuse: Callable[[], None], n_open: Callable[[], int], seconds: float, closers: Sequence[Callable[[], None]]
    ) -> None:
        self._refuse = refuse
        self._n_open = n_open
        self._seconds = seconds
        self._closers = closers
        self._begun = False
        self._closed = False

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT, and leave by SystemExit. In a thread of somebody's, signals are theirs."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {name: signal.signal(name, self._stop) for name in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            # A notebook goes on after its server has been interrupted.
            for name, handler in before.items():
                signal.signal(name, handler)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if self._closed:
            with contextlib.suppress(OSError):
                print("Hearth stops.", flush=True)
            raise SystemExit(0)
        if self._begun:
            # Whatever was answered is on the disk already.
            os._exit(128 + number)
        self._begun = True
        self._refuse()
        if count := self._n_open():
            with contextlib.suppress(OSError):
                what = "1 answer" if count == 1 else f"{count} answers"
                limit = f"for {self._seconds} s at most; Ctrl+C again stops it at once"
                print(f"Hearth ends {what} first, {limit}.", flush=True)
        threading.Thread(target=self._close, name="stop", daemon=True).start()

    def _close(self) -> None:
        deadline = time.monotonic() + self._seconds
        while self._n_open() and time.monotonic() < deadline:
            time.sleep(0.02)
        for close in self._closers:
            close()
        self._closed = True
        # Only a signal gets the main thread out of its loop.
        os.kill(os.getpid(), signal.SIGTERM)


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


def _refuse(reason: str, what: str = "start") -> int:
    print(f"Hearth cannot {what}: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
