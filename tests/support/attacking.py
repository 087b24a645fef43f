"""Clients that mean ill, and an honest one beside them that measures how long it waits."""

from __future__ import annotations

import contextlib
import os
import random
import re
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import requests

from services.server.waitress_server import make_server
from services.settings import Settings
from tests.support.serving import Server


def worst_wait(*numbers: str) -> float:
    """Seconds that an honest client may wait: 2 in a long run, for which one of these variables is set; else 10.

    Long runs have the machine to themselves; in the suite other work may take its cores.
    """
    return 2.0 if any(name in os.environ for name in numbers) else 10.0


LARGE = "/docs/swagger-ui/swagger-ui-bundle.js"


def allow_files(count: int) -> None:
    """Let this process open so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


def port_of(server: Server) -> int:
    return int(server.url.rsplit(":", 1)[1])


def is_open(connection: socket.socket) -> bool:
    """Whether neither side has ended it, whatever is still to be read."""
    # The first byte is the state; TCP_ESTABLISHED of tcp(7).
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\1"


class Crowd:
    """Connections that stay open. Those that the server has ended are found by `count_open`."""

    def __init__(self, server: Server, addresses: int = 1) -> None:
        self._port = port_of(server)
        self._addresses = addresses
        self.connections: list[socket.socket] = []

    def connect(self, data: bytes = b"") -> socket.socket | None:
        """One more, from 127.0.1.1 and so on where there are several addresses; None where it was refused."""
        made = socket.socket()
        made.settimeout(5)
        # A reader that does not read has little room, too.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
        number = len(self.connections) % self._addresses
        if self._addresses > 1:
            made.bind((f"127.0.{1 + number // 250}.{1 + number % 250}", 0))
        try:
            made.connect(("127.0.0.1", self._port))
            if data:
                made.sendall(data)
        except OSError:
            made.close()
            return None
        self.connections.append(made)
        return made

    def count_open(self) -> int:
        """How many of them the server has not ended. What has come is not read."""
        return sum(is_open(connection) for connection in self.connections)

    def close(self) -> None:
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.close()


class Honest(threading.Thread):
    """Asks again and again over connections of its own, until told to stop. `waits` are seconds."""

    def __init__(self, server: Server, path: str = "/healthz", is_retrying: bool = False) -> None:
        super().__init__(daemon=True)
        self._is_retrying = is_retrying
        """Whether it tries a second time where it is cut off; it waits for both."""
        self.n_retried = 0
        self._url, self._key = server.url + path, server.key
        self._over = threading.Event()
        self.waits: list[float] = []
        self.problems: list[str] = []

    def run(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            problem = self._ask()
            if problem and self._is_retrying:
                # A crowd of thousands a second drops who takes a tenth of a second to begin. It shares Python's lock here.
                self.n_retried += 1
                problem = self._ask()
            if problem:
                self.problems.append(problem)
            self.waits.append(time.monotonic() - began)
            self._over.wait(random.uniform(0.02, 0.1))

    def _ask(self) -> str:
        try:
            reply = requests.get(self._url, headers={"Authorization": self._key}, timeout=30)
        except requests.RequestException as error:
            return str(error)
        return "" if reply.status_code == 200 else reply.text

    def stop(self) -> None:
        self._over.set()
        self.join()


def memory_of(server: Server) -> int:
    """Megabytes of memory that the server's process has, by proc(5)."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{server.process.pid}/status").read_text())
    assert found
    return int(found[1]) // 1024


def files_of(server: Server) -> int:
    """How many files the server's process has open."""
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


@contextlib.contextmanager
def running(app: Callable[..., Any], **settings: Any) -> Iterator[int]:
    """Serve a WSGI application in this process; gives the port."""
    server = make_server(app, Settings(port=0, threads=settings.pop("threads", 4), **settings))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield server.port
    finally:
        server.close()
        thread.join(timeout=5)


def until(happened: Callable[[], bool], seconds: float) -> float:
    """Wait until something has happened; return how many seconds that took. Fails where it does not happen in time."""
    began = time.monotonic()
    while not happened():
        assert time.monotonic() - began < seconds, f"it has not happened in {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - began
