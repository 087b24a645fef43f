"""`main.py run NAME|FILE|SOURCE`: fetch a model if need be, serve it, and chat with it in the terminal."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from examples.chat import chat
from examples.client import Client
from services.bootstrap import passing_key
from services.cli.first_model import select_model
from services.errors import EngineFailure
from services.logs import visible
from services.server.listening import check_free
from services.settings import HOME, Settings, flag_of

_LISTENS = re.compile(r"Hearth listens on (\S+)")


def run(settings: Settings, what: str, flags: Mapping[str, str]) -> int:
    """Select `what` (see `select_model`), serve with these flags (setting → value), and chat until the person leaves.

    Raises HearthError.
    """
    settings.data.mkdir(parents=True, exist_ok=True)
    name = select_model(settings, what)
    with _server(settings, flags) as url, passing_key(settings, os.environ, "main.py run", ["answer"]) as key:
        print(visible(f"{name} listens here, and at {url} (Ctrl+D ends both)."), flush=True)
        chat(Client(url, key))
    return 0


@contextmanager
def _server(settings: Settings, flags: Mapping[str, str]) -> Iterator[str]:
    """Run a server as a process of its own; yield its URL. Raises EngineFailure where it does not start."""
    given = dict(flags)
    if "port" not in given and _is_taken(settings.host, settings.port):
        print(f"Port {settings.port} is taken, so another one is used.")
        given["port"] = "0"
    # The log's lines would stand between those of the chat.
    given.setdefault("log_level", "WARNING")
    given["model"] = "none"
    command = [sys.executable, "-u", str(HOME / "main.py")]
    for name, value in given.items():
        command += [flag_of(name)] if name == "tunnel" else [flag_of(name), value]
    # A session of its own: Ctrl+C in the terminal is for the chat.
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert server.stdout
        for line in server.stdout:
            if found := _LISTENS.search(line):
                yield found[1]
                return
            print(line, end="")
        raise EngineFailure("the server did not start; what it says above tells why")
    finally:
        server.terminate()
        server.wait()
        assert server.stdout
        server.stdout.close()


def _is_taken(host: str, port: int) -> bool:
    try:
        check_free(host, port)
    except OSError as error:
        # Any other error of the address is the server's to report.
        return error.errno == errno.EADDRINUSE
    return False
