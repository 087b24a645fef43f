"""Hearth's command line: `python3 main.py` serves."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

from services.cluster.settings import read_cluster
from services.errors import HearthError, InvalidRequest
from services.logs import set_up, visible_lines
from services.models.sources import FORMS
from services.server.shutdown import Shutdown
from services.settings import Settings, add_flags, read_settings

log = logging.getLogger("hearth")

_CLUSTER_PACKAGES = frozenset({"celery", "kombu", "amqp", "redis", "flower", "langchain_community", "dotenv"})


def main() -> int:
    """Run the command that the arguments name; return the exit status."""
    if sys.argv[1:2] == ["keys"]:
        from services.cli.keys import keys

        return _explained("manage keys", lambda: keys(sys.argv[2:]))
    if sys.argv[1:2] == ["models"]:
        from services.cli.models import models

        return _explained("manage models", lambda: models(sys.argv[2:]))
    if sys.argv[1:2] == ["doctor"]:
        from services.cli.doctor import doctor

        return _explained("look at itself", lambda: doctor(sys.argv[2:]))
    parser = argparse.ArgumentParser(prog="main.py", description="Hearth, a local LLM API server for CPUs.")
    commands = (
        "serve (the default), keys: mint, change and revoke them, and see what they used (keys --help), "
        "run: fetch a model if need be, serve it and chat in the terminal, "
        "models: list, show and remove model files, and the catalog (models --help), "
        "doctor: what the server's settings, keys and files leave open to others (doctor --help), "
        "pull: fetch a model file, tune: measure which settings make a profile fastest here, "
        "worker: compute for a cluster, migrate: copy what the data folder holds into a cluster (--back: and back), "
        "or flower: look at a cluster's tasks in a browser"
    )
    parser.add_argument(
        "command",
        nargs="?",
        choices=["serve", "run", "pull", "tune", "worker", "migrate", "flower"],
        default="serve",
        help=commands,
    )
    named = (
        f"tune: which profile (the selected one); run, pull: a profile, a name of the catalog, a path, or {FORMS}; "
        "worker: the profiles whose models it serves (all of the models folder)"
    )
    parser.add_argument("what", nargs="*", metavar="PROFILE|SOURCE", help=named)
    parser.add_argument("--save", action="store_true", help="tune: write the best settings into the profile")
    parser.add_argument("--back", action="store_true", help="migrate: from the cluster into the data folder")
    parser.add_argument("--replace", action="store_true", help="migrate: replace what differs where it is copied to")
    add_flags(parser)
    given = parser.parse_args()
    if given.save and given.command != "tune":
        parser.error("--save belongs to tune")
    if (given.back or given.replace) and given.command != "migrate":
        parser.error("--back and --replace belong to migrate")
    if given.command in ("run", "pull") and not given.what:
        parser.error(f"{given.command} needs a profile, a name of the catalog or a source")
    most = {"run": 1, "pull": 1, "tune": 1, "worker": len(given.what)}.get(given.command, 0)
    if given.what[most:]:
        parser.error(f"what is {given.what[most]}?")
    what = given.what[0] if given.what else None
    try:
        settings = read_settings(vars(given), os.environ)
    except ValueError as error:
        parser.error(str(error))
    set_up(settings.log_level, settings.log_format)
    runs: dict[str, Callable[[], int]] = {
        "serve": lambda: serve(settings),
        "run": lambda: _run(settings, given),
        "pull": lambda: _pull(settings, given.what[0]),
        "tune": lambda: _tune(settings, what, given.save),
        **dict.fromkeys(("worker", "migrate", "flower"), lambda: _in_cluster(settings, given)),
    }
    cannot = {"serve": "start", "worker": "start", "flower": "start Flower"}.get(given.command, given.command)
    return _explained(cannot, runs[given.command])


def _in_cluster(settings: Settings, given: argparse.Namespace) -> int:
    """Run a command that belongs to a cluster. Raises HearthError."""
    if not (cluster := read_cluster(os.environ)):
        what = "there is no cluster: set CELERY_BROKER_URL and CELERY_RESULT_BACKEND, or write them into .env"
        raise InvalidRequest(what)
    from services.cli import cluster as commands

    if given.command == "flower":
        return commands.flower(cluster, given.host or settings.host, given.port or "5555")
    with ExitStack() as closing:
        settings.data.mkdir(parents=True, exist_ok=True)
        if not _is_alone(settings.data / "jobs.lock", closing):
            hint = "--data gives this worker another folder" if given.command == "worker" else "stop it first"
            raise InvalidRequest(f"a server or a worker works on {settings.data}: {hint}")
        if given.command == "worker":
            return commands.worker(cluster, settings, given.what, lambda: _engine(settings))
        return commands.migrate(cluster, settings, given.back, given.replace)


def _explained(what: str, run: Callable[[], int]) -> int:
    """The exit status of `run`, or of what it raises, which is told."""
    try:
        return run()
    except HearthError as error:
        return _refuse(error.message, what)
    except OSError as error:
        return _refuse(str(error), what)
    except ModuleNotFoundError as error:
        if error.name in _CLUSTER_PACKAGES:
            return _refuse(
                f"There is no {error.name} in this Python, which a cluster needs. Type: ./setup.sh cluster", what
            )
        return _refuse(f"There is no {error.name} in this Python. Type: source .venv/bin/activate, or use ./setup.sh run")
    except KeyboardInterrupt:
        return 130


def serve(settings: Settings, gates: Mapping[str, Any] | None = None, preferred: Any = None) -> int:
    """Serve until SIGTERM or Ctrl+C; `gates` is as for `create_app`, `preferred` as for `file_stores`.

    It computes itself, or is a cluster's API node where the environment names one. Raises HearthError or OSError where it
    cannot start.
    """
    if cluster := read_cluster(os.environ):
        from services.cluster.node.node import Node

        node = Node(cluster, settings, preferred)
        with node.running():
            return _serve(settings, node.backend, node.stores, gates, node)
    from services.cli.first_model import fetch_first

    if problem := fetch_first(settings):
        print(problem, file=sys.stderr, flush=True)
    engine = _engine(settings)
    try:
        from services.stores import file_stores

        return _serve(settings, engine, file_stores(settings, preferred), gates)
    finally:
        engine.close()


def _engine(settings: Settings) -> Any:
    """The engine's process. It starts while other things are imported."""
    from services.engine.process.client import EngineProcess
    from services.engine.process.connection import EngineOptions

    options = EngineOptions(
        settings.states or settings.data / "states",
        _bytes(settings.cache_ram),
        settings.cache_disk * 10**6,
        settings.states is not None,
        settings.think_ahead,
        settings.queue,
        _bytes(settings.model_ram),
        60 * settings.idle_minutes,
        settings.log_level,
        settings.log_format,
        settings.engine_timeout,
    )
    return EngineProcess(options, settings.data / "tried.json")


def _serve(
    settings: Settings,
    engine: Any,
    stores: Any,
    gates: Mapping[str, Any] | None,
    node: Any = None,
) -> int:
    from services.app import create_app
    from services.cli.first_model import introduction
    from services.server.listening import urls
    from services.server.waitress_server import make_server

    app = create_app(settings, engine, gates, stores=stores, overview=node and node.overview)
    parts = app.extensions["hearth"]
    with ExitStack() as closing:
        # The engine first, so that streams end with an error event rather than in the middle of a word.
        answers, jobs = parts["answers"], parts["jobs"]
        closers = (engine.close, parts["sessions"].close, parts["keys"].close, jobs.release, parts["usage"].close)
        begin, all_closers = parts["stopping"].begin, (jobs.close, *closers)
        stop = Shutdown(begin, lambda: answers.n_open, settings.stop_seconds, all_closers)
        closing.enter_context(stop.on_signals())
        engine.retain(parts["sessions"].names_of_all())
        try:
            server = make_server(app, settings)
        except OSError as error:
            for close in closers:
                close()
            return _refuse(str(error.strerror))
        addresses = urls("https" if settings.cert else "http", settings.host, server.port)
        url = addresses[0]
        if node:
            # Others of the cluster are on other machines.
            node.announce((addresses[1:] or addresses)[0], lambda: answers.n_open)
        jobs.start(takes_up=bool(node) or _is_alone(settings.data / "jobs.lock", closing))
        _introduce(addresses, parts["keys"].mint_master(), introduction(stores.profiles.config(), stores.files))
        engine.on_restart = lambda: _warm_up(answers)
        threading.Thread(target=_warm_up, args=(answers,), name="warm-up", daemon=True).start()
        if settings.tunnel:
            _open_tunnel(url, closing, parts["hosts"].add)
        server.run()
    return 0


def _run(settings: Settings, given: argparse.Namespace) -> int:
    from services.cli.run import run

    names = {field.name for field in fields(Settings)}
    return run(settings, given.what[0], {name: value for name, value in vars(given).items() if name in names and value})


def _pull(settings: Settings, what: str) -> int:
    from services.cli.pull import pull

    return pull(settings, what)


def _tune(settings: Settings, name: str | None, save: bool) -> int:
    from services.cli.tune import tune

    return tune(settings, name, save)


def _bytes(megabytes: int | None) -> int | None:
    return None if megabytes is None else megabytes * 10**6


def _is_alone(lock: Path, closing: ExitStack) -> bool:
    """Whether no other server works on this data folder; until `closing` closes, none will think so."""
    from filelock import FileLock, Timeout

    held = FileLock(lock, mode=0o600)
    try:
        held.acquire(blocking=False)
    except Timeout:
        return False
    closing.callback(held.release)
    return True


def _open_tunnel(url: str, closing: ExitStack, allow: Callable[[str], None]) -> None:
    """Have a public address for the server, until `closing` closes; where that cannot be, say so and go on."""
    from services.server.tunnel import Tunnel

    def tell(public: str) -> None:
        allow(public.removeprefix("https://"))
        print(f"Public address: {public}", flush=True)

    try:
        closing.callback(Tunnel(url, tell).close)
    except (HearthError, OSError) as error:
        print(f"Hearth opens no tunnel: {error}", file=sys.stderr, flush=True)


def _introduce(addresses: Sequence[str], master: Any, model: str) -> None:
    """Say what answers and where it listens and, the first time, what the master key is."""
    url, *others = addresses
    if master:
        print(
            f"\nYour master key, shown this once:\n\n    {master.key}\n\nPaste it at {url} in a browser, or try:\n\n"
            f"""    curl -s {url}/answer -H 'Authorization: {master.key}' -d '{{"prompt": "What can you do?"}}'\n"""
        )
    if model:
        print(model)
    print(f"Hearth listens on {url} (Ctrl+C stops it). Open it in a browser to chat.", flush=True)
    if others:
        print(f"Other machines of the network open {' or '.join(others)}.", flush=True)


def _warm_up(answers: Any) -> None:
    problem = answers.warm_up()
    if problem:
        log.error("%s", problem.message)


def _refuse(reason: str, what: str = "start") -> int:
    print(f"Hearth cannot {what}: {visible_lines(reason)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
