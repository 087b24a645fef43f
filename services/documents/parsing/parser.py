"""The parser of uploaded files: starts a process for each, and waits for its document."""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from services.documents.parsing import failures
from services.documents.parsing.document import ParsedDocument
from services.documents.parsing.limits import ParseLimits
from services.documents.parsing.pace import Pace
from services.documents.parsing.protocol import LINE, ReplyError, ReplyReader
from services.errors import HearthError, Unavailable
from services.settings import HOME

log = logging.getLogger(__name__)

_READ = 1 << 16
# Characters of a file's name, of which only the end counts.
_NAME = 300
# From the end of its output to that of the process.
_END_SECONDS = 1.0
# Of what the process writes to standard error, for the log.
_STDERR = 8192
_COMMAND = [sys.executable, "-B", "-W", "ignore", "-m", "services.documents.parsing.child"]
# No key or address of the server's is in it. No library has threads of its own, which would take address space.
_ENVIRON = {
    "PATH": "/usr/bin:/bin",
    "LC_ALL": "C.UTF-8",
    "PYTHONUTF8": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


def _never() -> bool:
    return False


def parse(
    path: Path,
    name: str,
    limits: ParseLimits = ParseLimits(),  # noqa: B008
    on_progress: Callable[[int, int], None] | None = None,
    is_cancelled: Callable[[], bool] = _never,
    characters_per_token: Callable[[Sequence[str]], float | None] = lambda _: None,
    is_busy: Callable[[], bool] = _never,
) -> ParsedDocument:
    """Return the document of the file at `path`, in a process of its own, which ends before this returns.

    `name` is the file's name at its sender: its extension says what kind it is, and the content has to agree.
    `on_progress(done, of)` is called meanwhile, with pages, rows or the like. `is_cancelled` is asked ten times a second.
    `characters_per_token` returns how many characters a token of some texts has, by which the document is cut into chunks;
    None: an estimate by its script. While `is_busy`, the process has a small share of the time.

    Raises UnsupportedType, TooLarge (more than `limits` allow) and Unprocessable (damaged, encrypted, without text, too
    slow, too much memory), all with the param "file" and a code; Unavailable if it was cancelled (code "cancelled"), or if
    no process can be started.
    """
    request = {"path": str(path.resolve()), "name": name[-_NAME:], "limits": asdict(limits)}
    with _start() as process:
        try:
            reading = _Reading(process, limits, on_progress, is_cancelled, characters_per_token, is_busy)
            return reading.run(json.dumps(request).encode() + b"\n")
        finally:
            process.kill()


def _start() -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    try:
        # A session of its own: Ctrl+C is for the server.
        return subprocess.Popen(  # noqa: S603
            _COMMAND, cwd=HOME, env=_ENVIRON, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        )
    except OSError as error:
        log.warning("the parser of files cannot be started: %s", error)
        raise Unavailable("no process can be started to read the file", code="no_process", retry_after=5) from error


class _Reading:
    """Reads what one process writes, on the thread of the caller."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        limits: ParseLimits,
        on_progress: Callable[[int, int], None] | None,
        is_cancelled: Callable[[], bool],
        characters_per_token: Callable[[Sequence[str]], float | None],
        is_busy: Callable[[], bool],
    ) -> None:
        self._process = process
        self._limits = limits
        self._on_progress = on_progress
        self._is_cancelled = is_cancelled
        self._characters_per_token = characters_per_token
        self._pace = Pace(process, is_busy)
        self._reply = ReplyReader(limits)
        self._line = bytearray()
        self._errors = b""
        self._reported = (0, 0)

    def run(self, request: bytes) -> ParsedDocument:
        """Send the request and return the document. Raises what `parse` raises."""
        deadline = time.monotonic() + self._limits.seconds + self._limits.waiting
        stdout, stderr = self._process.stdout, self._process.stderr
        assert stdout
        assert stderr
        try:
            self._send(request)
            with selectors.DefaultSelector() as selector:
                selector.register(stdout, selectors.EVENT_READ, self._take)
                selector.register(stderr, selectors.EVENT_READ, self._take_error)
                while selector.get_map():
                    self._check(deadline + self._pace.paused)
                    for key, _ in selector.select(self._pace.go_on()):
                        data = os.read(key.fd, _READ)
                        if not data:
                            selector.unregister(key.fileobj)
                        key.data(data)
            return self._outcome()
        except ReplyError as error:
            log.warning("a parser of files failed: %s", error)
            raise failures.crashed() from error
        finally:
            if self._errors:
                log.info("the parser of a file wrote: %s", self._errors.decode("utf-8", "replace"))

    def _send(self, request: bytes) -> None:
        stdin = self._process.stdin
        assert stdin
        try:
            stdin.write(request)
            stdin.flush()
        except BrokenPipeError:
            # It has ended already: its status says why.
            return

    def _check(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise failures.too_slow(self._limits.seconds + self._limits.waiting)
        if self._is_cancelled():
            raise Unavailable("nobody waits for it any more", code="cancelled")

    def _take(self, data: bytes) -> None:
        self._line += data
        *lines, rest = self._line.split(b"\n")
        self._line = bytearray(rest)
        if len(rest) > LINE:
            raise ReplyError("a line of the parser is too long")
        for line in lines:
            self._reply.read(bytes(line))
        if self._reply.samples is not None:
            samples, self._reply.samples = self._reply.samples, None
            self._send(json.dumps({"characters": self._characters_per_token(samples)}).encode() + b"\n")
        if self._on_progress and self._reply.progress != self._reported:
            self._reported = self._reply.progress
            self._on_progress(*self._reported)

    def _take_error(self, data: bytes) -> None:
        self._errors = (self._errors + data)[-_STDERR:]

    def _outcome(self) -> ParsedDocument:
        """Return the document, once the process has closed its output. Raises the error that its end means."""
        if self._reply.document:
            return self._reply.document
        try:
            status = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise ReplyError("the parser has closed its output without an end") from error
        raise self._failure(status)

    def _failure(self, status: int) -> HearthError:
        log.warning("the parser of a file ended with status %d", status)
        if status == -signal.SIGXCPU:
            return failures.too_slow(self._limits.seconds)
        # By the system, which had no memory left, or by the interpreter itself, which had none.
        if status == -signal.SIGKILL or b"MemoryError" in self._errors:
            return failures.too_much_memory(self._limits.memory)
        return failures.crashed()
