"""Hearth's command line: `python3 main.py` serves."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from services.errors import HearthError
from services.settings import Settings, add_flags, read_settings

log = logging.getLogger("hearth")


def main() -> int:
    """Run the command that the arguments name; return the exit status."""
    parser = argparse.ArgumentParser(prog="main.py", description="Hearth, a local LLM API server for CPUs.")
    add_flags(parser)
    try:
        settings = read_settings(vars(parser.parse_args()), os.environ)
    except ValueError as error:
        parser.error(str(error))
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # waitress warns of every request that waits for a thread.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    try:
        return serve(settings)
    except HearthError as error:
        print(f"Hearth cannot start. {error.message}", file=sys.stderr)
    except OSError as error:
        print(f"Hearth cannot listen on {settings.host}:{settings.port}: {error.strerror}", file=sys.stderr)
    return 1


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or Ctrl+C. Raises HearthError or OSError where it cannot start."""
    from services.app import create_app
    from services.engine.pool import EnginePool
    from services.server import make_server

    pool = EnginePool()
    app = create_app(settings, pool)
    server = make_server(app, settings)
    parts = app.extensions["hearth"]
    _introduce(server, settings, parts["keys"].mint_master())
    threading.Thread(target=_warm_up, args=(parts["answers"],), name="warm-up", daemon=True).start()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        # The engine first, so that streams end with an error event rather than in the middle of a word.
        print("Hearth stops.", flush=True)
        pool.close()
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    server.run()
    return 0


def _introduce(server: Any, settings: Settings, master: Any) -> None:
    """Say where it listens and, the first time, what the master key is."""
    url = f"http://{settings.host}:{server.effective_port}"
    if master:
        print(
            f"\nYour master key, shown this once:\n\n    {master.key}\n\nTry it:\n\n"
            f"    curl -s {url}/answer -H 'Authorization: {master.key}' "
            """-d '{"prompt": "What can you do?", "session_id": 1}'\n"""
        )
    print(f"Hearth listens on {url} (Ctrl+C stops it).", flush=True)


def _warm_up(answers: Any) -> None:
    problem = answers.warm_up()
    if problem:
        log.error("%s", problem.message)


if __name__ == "__main__":
    sys.exit(main())
