"""Servers that are forked from a process which has imported the server's modules: they start in half the time.

`main.py` runs in them as in a process of its own; so do the parts of clusters. The parent (`python -m tests.support.forked
FD MODULE …`, with the modules to import) receives a message for each: a JSON object with its arguments and its environment,
and three descriptors: standard output, standard error, and a socket for its process id and, at its end, its exit status.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import IO, Any

_SERVER = ("services.app", "services.cli.serve", "services.cli.first_model", "services.server.waitress_server")
_CLUSTER = (*_SERVER, "services.cli.cluster", "services.cluster.node.node", "services.cluster.worker.worker")
# By the program of a command line: what its parent imports, in this order.
_IMPORTS = {
    ("main.py",): _SERVER,
    ("-m", "tests.support.quick_cluster"): ("tests.support.quick_cluster", *_CLUSTER),
}
ROOT = Path(__file__).resolve().parent.parent.parent
_MAX_MESSAGE = 1 << 20
_READ_EARLY = ("HF_", "PYTHON", "XDG_", "OMP_", "GOMP_", "HOME", "LD_")


class Forked:
    """A forked server, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, program: tuple[str, ...], arguments: list[str], environ: dict[str, str], stderr: IO[str]) -> None:
        reader, writer = os.pipe()
        ours, theirs = socket.socketpair()
        descriptors = array.array("i", [writer, stderr.fileno(), theirs.fileno()])
        message = json.dumps({"arguments": [program[-1], *arguments], "environ": environ}).encode()
        _parent(program).sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
        os.close(writer)
        theirs.close()
        self._status = ours
        self.pid = int(ours.recv(100))
        self.returncode: int | None = None
        self.stdout: IO[str] = os.fdopen(reader, encoding="utf-8")

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self._read_status()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("main.py", timeout or 0)
            self._read_status()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _read_status(self) -> None:
        self.returncode = int(self._status.recv(100))
        self._status.close()


def start(
    program: tuple[str, ...], arguments: list[str], environ: dict[str, str], stderr: IO[str]
) -> Forked | subprocess.Popen[str]:
    """Start a program in the project's folder: forked where that is possible, else as a new Python."""
    if _can_fork(program, environ):
        return Forked(program, arguments, environ, stderr)
    command = [sys.executable, *program, *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=stderr, text=True)


def _can_fork(program: tuple[str, ...], environ: dict[str, str]) -> bool:
    """Return whether a program may be forked with this environment: some variables are read when modules are imported."""
    if program not in _IMPORTS:
        return False
    changed = {name for name in {*environ, *_began} if environ.get(name) != _began.get(name)}
    return not any(name.startswith(_READ_EARLY) for name in changed - {"PYTHONUNBUFFERED"})


_began = dict(os.environ)


@cache
def _parent(program: tuple[str, ...]) -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tests.support.forked", str(theirs.fileno()), *_IMPORTS[program]]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=ROOT, stdin=subprocess.DEVNULL)
    theirs.close()
    # It ends with its socket.
    atexit.register(process.wait)
    atexit.register(ours.close)
    return ours


def _serve(messages: socket.socket) -> None:
    """Fork a server for each message, and tell how each ends, until the other end of `messages` is closed."""
    for name in sys.argv[2:]:
        __import__(name)
    children: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([messages], [], [], 0.02 if children else None)
        _reap(children)
        if not ready:
            continue
        message, ancillary, _, _ = messages.recvmsg(_MAX_MESSAGE, socket.CMSG_LEN(3 * array.array("i").itemsize))
        if not message:
            return
        stdout, stderr, status = array.array("i", ancillary[0][2])
        pid = os.fork()
        if not pid:
            for each in (messages, *children.values()):
                each.close()
            os.close(status)
            _become(json.loads(message), stdout, stderr)
        os.close(stdout)
        os.close(stderr)
        children[pid] = socket.socket(fileno=status)
        children[pid].send(str(pid).encode())


def _reap(children: dict[int, socket.socket]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with children.pop(pid) as caller, contextlib.suppress(OSError):
            caller.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(message: dict[str, Any], stdout: int, stderr: int) -> None:
    """Run main.py in this process, which has been forked for it."""
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.close(stdout)
    os.close(stderr)
    os.environ.clear()
    os.environ.update(message["environ"])
    time.tzset()
    sys.argv = message["arguments"]
    random.seed()
    from main import main

    sys.exit(main())


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
