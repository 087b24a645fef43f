"""Servers that are forked from a process which has imported the server's modules: they start in a third of the time.

`main.py` runs in them as in a process of its own; so do scripts that start servers, the parts of clusters, and, from
another parent, their engines' processes and the probes of model files. A parent (`python -m tests.support.forked FD ENGINES
MODULE …`, with the modules to import) receives a message for each: a JSON object with its arguments and environment, and
descriptors: standard output, standard error, and a socket for its process id and, at its end, its exit status. An engine
gets its socket to the server as well, a probe or a command its standard input. Who closes the third ends it.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import importlib
import json
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import IO, Any, NoReturn

_SERVER = ("services.app", "services.cli.serve", "services.cli.first_model", "services.server.waitress_server")
_HUB = ("services.models.hub", "services.models.remote_header")
_COMMANDS = tuple(f"services.cli.{name}" for name in ("doctor", "documents", "keys", "models", "pull", "run", "unload"))
_CLUSTER = (*_SERVER, "services.cli.cluster", "services.cluster.node.node", "services.cluster.worker.worker")
_ENGINE = ("-m", "services.engine.process.main")
MAIN = ("main.py",)
# By the program of a command line: what its parent imports, in this order.
_IMPORTS = {
    _ENGINE: ("services.engine.process.main", "services.engine.process.probe"),
    MAIN: (*_SERVER, *_COMMANDS, *_HUB),
    ("-m", "tests.support.quick_cluster"): ("tests.support.quick_cluster", *_CLUSTER),
}
ROOT = Path(__file__).resolve().parent.parent.parent
_MAX_MESSAGE = 1 << 20
# The name of a probe of a model file, among the engines' processes.
_PROBE = "probe"
# The seconds that an engine pauses after each step, as if its model were larger.
PAUSE = "HEARTH_TESTS_PAUSE"
_READ_EARLY = ("PYTHON", "OMP_", "GOMP_", "LD_")
# A forked process obeys the first. An engine sets the second for itself, also in the process of a test that imports it.
_HARMLESS = {"PYTHONUNBUFFERED", "GOMP_SPINCOUNT"}


class Forked:
    """A forked process, with the methods of `subprocess.Popen` that servers and tests use."""

    def __init__(self, parent: socket.socket, arguments: list[str], environ: dict[str, str], *descriptors: int) -> None:
        """`descriptors` are for standard output and error, and for an engine its socket, or standard input."""
        ours, theirs = socket.socketpair()
        stdout, stderr, *more = descriptors
        message = json.dumps({"arguments": arguments, "environ": environ}).encode()
        passed = array.array("i", [stdout, stderr, theirs.fileno(), *more])
        parent.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)])
        theirs.close()
        self._status = ours
        self._lock = threading.Lock()
        self.pid = int(ours.recv(100))
        self.returncode: int | None = None
        self.stdout: IO[str] | None = None

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
        with self._lock:
            if self.returncode is None:
                self.returncode = int(self._status.recv(100))
                self._status.close()


class ForkedProbe(Forked):
    """A forked probe of a model file, with the methods of `subprocess.Popen` that `ProbeProcess` uses."""

    def __init__(self, parent: socket.socket, environ: dict[str, str], stderr: int) -> None:
        stdin, self._stdin = os.pipe()
        self._stdout, stdout = os.pipe()
        super().__init__(parent, [_PROBE], environ, stdout, stderr, stdin)
        os.close(stdin)
        os.close(stdout)
        self._result: bytes | None = None

    def communicate(self, request: bytes = b"", timeout: float | None = None) -> tuple[bytes, None]:
        if request:
            with os.fdopen(self._stdin, "wb") as stdin:
                stdin.write(request)
        # Its result is shorter than what a pipe holds.
        self.wait(timeout)
        if self._result is None:
            with os.fdopen(self._stdout, "rb") as stdout:
                self._result = stdout.read()
        return self._result, None


def start(
    program: tuple[str, ...], arguments: list[str], environ: dict[str, str], stderr: IO[str] | None = None
) -> Forked | subprocess.Popen[str]:
    """Start a program: forked where that is possible, else as a new Python. Without `stderr`, its errors go to its output.

    A program of an absolute path is a script, which runs in its own folder; others run in the project's folder.
    """
    if can_fork(program, environ):
        reader, writer = os.pipe()
        forked = fork(program, arguments, environ, writer, stderr.fileno() if stderr else writer)
        os.close(writer)
        forked.stdout = os.fdopen(reader, encoding="utf-8")
        return forked
    command = [sys.executable, *program, *arguments]
    folder, errors = (ROOT / program[-1]).parent, stderr or subprocess.STDOUT
    return subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=errors, text=True)


def fork(program: tuple[str, ...], arguments: list[str], environ: dict[str, str], *descriptors: int) -> Forked:
    """Fork a program, whose descriptors are standard output and error and, if it has any, standard input."""
    return Forked(_parent(program if program in _IMPORTS else MAIN), [program[-1], *arguments], environ, *descriptors)


def can_fork(program: tuple[str, ...], environ: dict[str, str]) -> bool:
    """Return whether a program may be forked with this environment: some variables are read when modules are imported."""
    if program not in _IMPORTS and not Path(program[-1]).is_absolute():
        return False
    changed = {name for name in {*environ, *_began} if environ.get(name) != _began.get(name)}
    return not any(name.startswith(_READ_EARLY) for name in changed - _HARMLESS)


_began = dict(os.environ)


@cache
def _parent(program: tuple[str, ...]) -> socket.socket:
    engines = None if program == _ENGINE else _parent(_ENGINE)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    passed = [each.fileno() for each in (theirs, engines) if each]
    command = [sys.executable, "-m", "tests.support.forked", str(passed[0]), str(passed[-1]), *_IMPORTS[program]]
    # numpy's threads are of no use in an engine.
    environ = {**os.environ, **({} if engines else {"OPENBLAS_NUM_THREADS": "1"})}
    process = subprocess.Popen(command, pass_fds=passed, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL)
    theirs.close()
    # It ends with its socket.
    atexit.register(process.wait)
    atexit.register(ours.close)
    return ours


class _Parent:
    """Forks a process for each message, and tells how each ends, until the other end of `messages` is closed."""

    def __init__(self, messages: socket.socket, engines: socket.socket | None) -> None:
        """`engines`: the socket to the parent of engines' processes, for servers."""
        self._messages = messages
        self._engines = engines
        self._children: dict[int, socket.socket] = {}

    def serve(self) -> None:
        while True:
            statuses = {status: pid for pid, status in self._children.items()}
            ready, _, _ = select.select([self._messages, *statuses], [], [], 0.02 if statuses else None)
            for status in ready:
                if status in statuses:
                    # Nothing is ever sent: it was closed.
                    os.kill(statuses[status], signal.SIGKILL)
            self._reap()
            if self._messages in ready and not self._fork():
                return

    def _fork(self) -> bool:
        message, ancillary, _, _ = self._messages.recvmsg(_MAX_MESSAGE, socket.CMSG_LEN(4 * array.array("i").itemsize))
        if not message:
            return False
        stdout, stderr, status, *more = array.array("i", ancillary[0][2])
        pid = os.fork()
        if not pid:
            for each in (self._messages, *self._children.values()):
                each.close()
            os.close(status)
            os.dup2(stdout, 1)
            os.dup2(stderr, 2)
            _become(json.loads(message), self._engines, *more)
        for descriptor in (stdout, stderr, *more):
            os.close(descriptor)
        self._children[pid] = socket.socket(fileno=status)
        self._children[pid].send(str(pid).encode())
        return True

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            with self._children.pop(pid) as caller, contextlib.suppress(OSError):
                caller.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(message: dict[str, Any], engines: socket.socket | None, *channel: int) -> None:
    """Run the program in this process, which has been forked for it."""
    os.environ.clear()
    os.environ.update(message["environ"])
    if constants := sys.modules.get("huggingface_hub.constants"):
        # The library reads the environment when this is imported.
        importlib.reload(constants)
    if "PYTHONUNBUFFERED" in os.environ:
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    time.tzset()
    sys.argv = message["arguments"]
    random.seed()
    if engines:
        for stdin in channel:
            os.dup2(stdin, 0)
        _become_server(engines)
    else:
        _become_engine(*channel)


def _become_server(engines: socket.socket) -> NoReturn:
    from main import main
    from services.engine.process import connection, probe

    class Subprocess:
        """The module `subprocess`, as far as the connection to the engine's process and probes need it."""

        PIPE, DEVNULL, TimeoutExpired = subprocess.PIPE, subprocess.DEVNULL, subprocess.TimeoutExpired

        @staticmethod
        def Popen(command: list[str], **options: Any) -> Forked:
            if "pass_fds" not in options:
                return ForkedProbe(engines, options["env"], options["stderr"].fileno())
            # By its name, tests find the engine of a server.
            arguments = [f"engine{os.getpid()}"]
            return Forked(engines, arguments, options["env"], 1, 2, *options["pass_fds"])

    vars(connection)["subprocess"] = vars(probe)["subprocess"] = Subprocess
    script = Path(sys.argv[0])
    if script.is_absolute():
        os.chdir(script.parent)
        runpy.run_path(str(script), run_name="__main__")
        _end(0)
    _end(main())


def _become_engine(channel: int) -> NoReturn:
    from services.engine.loop.step import Steps
    from services.engine.process import main, probe

    os.setsid()
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Processes of tests share the cores: threads of one engine would wait for each other.
        os.sched_getaffinity = lambda _: {0}
    if sys.argv[0] == _PROBE:
        os.dup2(channel, 0)
        probe.main()
    Path("/proc/self/comm").write_text(sys.argv[0])
    sys.argv.append(str(channel))
    pause, step = float(os.environ.get(PAUSE, 0)), Steps.step

    def paced(self: Steps, has_messages: Callable[[], bool]) -> None:
        step(self, has_messages)
        time.sleep(pause)

    if pause:
        Steps.step = paced  # type: ignore[method-assign]
    main.main()
    _end(0)


_status: int | None = None
"""The exit status of a forked process that has done its work."""


def _end(status: int) -> NoReturn:
    global _status
    _status = status
    sys.exit(status)


def _leave() -> None:
    """End a process whose threads and registered functions have ended: freeing all its memory would take longer."""
    if _status is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_status)


if __name__ == "__main__":
    # The first to be registered runs last.
    atexit.register(_leave)
    for name in sys.argv[3:]:
        __import__(name)
    # What is imported stays: a forked process that looked for garbage among it would copy most of the memory.
    gc.collect()
    gc.freeze()
    mine, theirs = int(sys.argv[1]), int(sys.argv[2])
    _Parent(socket.socket(fileno=mine), socket.socket(fileno=theirs) if theirs != mine else None).serve()
