"""Probing a model in a process of its own before the engine loads it: some files make llama.cpp end its process.

`python3 -m services.engine.process.probe` checks a file's header, loads it, computes one token, reports the result, and
ends. Each probe has its own process, so that a crash of one does not affect the next.
"""

from __future__ import annotations

from services.storage.processes import end_with_parent, take_stdout

if __name__ == "__main__":
    # First of all: one that is stopped while it imports what follows ends with the server too.
    end_with_parent()

import contextlib
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import IO

from services.backend.codec import Message, error_from_json, error_to_json, from_json, to_json
from services.backend.types import LoadSettings, Prompt
from services.engine.process.polling import result_of
from services.errors import BadModelFile, EngineFailure, HearthError, Unavailable
from services.models.split import part_paths
from services.settings import HOME
from services.storage.database import database

log = logging.getLogger(__name__)

# The seconds that a probe may take, and the bytes of its file that add a second each.
SECONDS, BYTES_A_SECOND = 60.0, 20e6
# Seconds for which a failure is not probed again: a probe takes a core.
BAD_FOR = 20.0
# Characters of an error that are reported.
LONGEST = 1000
# Exit statuses of a probe that was killed from outside, and not by llama.cpp.
_KILLED = (-signal.SIGKILL, -signal.SIGTERM)
# Kept results; the oldest is forgotten first.
KEPT = 200
RunProbe = Callable[[LoadSettings, bool], None]


class GoodProbes:
    """The probes that went well, by their digests, over restarts: a table of data/hearth.sqlite."""

    def __init__(self, path: Path) -> None:
        """`path` is the database, which is open only during a call."""
        self._path = path

    def has(self, digest: str) -> bool:
        """Return whether such a probe went well; False where the database cannot be read: probing again costs time only."""
        try:
            with database(self._path) as file:
                return file.db.execute("SELECT 1 FROM probes WHERE digest = ?", (digest,)).fetchone() is not None
        except HearthError:
            return False

    def add(self, digest: str, name: str) -> None:
        """Remember a probe of the model file `name`. Raises HearthError."""
        with database(self._path) as file, file.transaction():
            file.db.execute("INSERT OR IGNORE INTO probes (digest, file) VALUES (?, ?)", (digest, name))
            file.db.execute("DELETE FROM probes WHERE rowid <= (SELECT max(rowid) FROM probes) - ?", (KEPT,))


class Probes:
    """Probes of settings, each run once as long as it goes well.

    Any thread may call it. `_running` lets one probe run at a time, on a thread of its own, so that a caller may give up
    waiting; `_lock` protects the table of pending probes.
    """

    def __init__(self, path: Path, run: RunProbe) -> None:
        """`path` is the database; `run` probes settings, for embeddings where the bool says so, and raises a failure."""
        self._stored = GoodProbes(path)
        self._run = run
        self._lock = threading.Lock()
        self._running = threading.Lock()
        self._pending: dict[tuple[LoadSettings, bool], Future[None]] = {}
        self._good: set[tuple[LoadSettings, bool]] = set()
        self._bad: dict[str, tuple[float, HearthError]] = {}

    def check(self, settings: LoadSettings, embeds: bool = False, poll: Callable[[], None] = lambda: None) -> None:
        """Probe these settings, unless that has gone well before; `embeds`: for making embeddings.

        `poll` is called while waiting, and gives up by raising; the probe goes on for other callers. Raises BadModelFile
        saying what happened.
        """
        if (settings, embeds) in self._good:
            return
        with self._lock:
            if not (pending := self._pending.get((settings, embeds))):
                pending = self._pending[settings, embeds] = Future()
                threading.Thread(target=self._probe, args=(settings, embeds, pending), name="probe", daemon=True).start()
        result_of(pending, poll)

    def _probe(self, settings: LoadSettings, embeds: bool, pending: Future[None]) -> None:
        """The thread of a probe."""
        error: BaseException | None = None
        try:
            with self._running:
                self._probe_once(settings, embeds)
        except BaseException as failure:
            error = failure
        with self._lock:
            del self._pending[settings, embeds]
        pending.set_exception(error) if error else pending.set_result(None)

    def _probe_once(self, settings: LoadSettings, embeds: bool) -> None:
        digest = _digest(settings, embeds)
        if (settings, embeds) in self._good or self._stored.has(digest):
            self._good.add((settings, embeds))
            return
        at, error = self._bad.get(digest, (0.0, None))
        if error and time.monotonic() - at < BAD_FOR:
            raise error
        try:
            self._run(settings, embeds)
        except BadModelFile as error:
            self._bad = {digest: (time.monotonic(), error)}
            raise
        self._good.add((settings, embeds))
        try:
            self._stored.add(digest, settings.file.name)
        except HearthError as error:
            log.warning("that %s is good is not remembered: %s", settings.file.name, error.message)


class ProbeProcess:
    """Probes settings in a process of their own, one at a time. `_lock` protects the process, which any thread may end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def __call__(self, settings: LoadSettings, embeds: bool) -> None:
        """Probe settings. Raises BadModelFile saying what happened, EngineFailure, Unavailable once it is closed."""
        with tempfile.TemporaryFile() as output:
            try:
                size = sum(part.stat().st_size for part in part_paths(settings.file))
                seconds = SECONDS + size / BYTES_A_SECOND
                status, result = self._run(settings, embeds, seconds, output)
                if status in _KILLED:
                    # By a person who meant another process, or by a system out of memory: that may be over.
                    status, result = self._run(settings, embeds, seconds, output)
            except (OSError, ValueError) as error:
                raise EngineFailure(f"{settings.file.name} cannot be tried: {error}") from error
            what = f"llama.cpp cannot use {settings.file.name}: it ends its process"
            if status is None:
                raise BadModelFile(f"llama.cpp was not done with {settings.file.name} in time", param="model")
            if status < 0:
                raise BadModelFile(f"{what} ({signal.Signals(-status).name}){_last_words(output)}", param="model")
            if not result:
                raise BadModelFile(f"{what}{_last_words(output)}", param="model")
        if problem := json.loads(result):
            raise error_from_json(problem)

    def close(self) -> None:
        """End the probe under way, and start no other."""
        with self._lock:
            self._closed = True
            if self._process:
                self._process.kill()

    def _run(self, settings: LoadSettings, embeds: bool, seconds: float, output: IO[bytes]) -> tuple[int | None, bytes]:
        """Run a probe for `seconds` at most; return its exit status, None where that is too short, and its result."""
        request = json.dumps({"settings": to_json(settings), "embeds": embeds}).encode()
        process = self._start(output)
        try:
            result, _ = process.communicate(request, seconds)
            return process.returncode, result
        except subprocess.TimeoutExpired:
            return None, b""
        finally:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=1)
            with self._lock:
                self._process = None

    def _start(self, output: IO[bytes]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "services.engine.process.probe"]
        # numpy's threads are of no use in it.
        environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        with self._lock:
            if self._closed:
                raise Unavailable("the server is stopping", code="stopping", retry_after=5)
            # A session of its own: Ctrl+C is for the server, with which it ends.
            self._process = subprocess.Popen(  # noqa: S603
                command, cwd=HOME, env=environ, start_new_session=True, stdin=pipe, stdout=pipe, stderr=output
            )
            return self._process


def _attempt(settings: LoadSettings, embeds: bool) -> Message | None:
    """Load settings and compute one token; return the error as JSON, or None."""
    from services.engine.llama.batch import Run
    from services.engine.llama.embedder import LlamaEmbedder
    from services.engine.llama.runner import Runner
    from services.models.gguf import BadGguf
    from services.models.memory import LEAST_CONTEXT
    from services.models.split import read_model

    # In the place of a context that is chosen for the free memory, the smallest will do.
    settings = replace(settings, n_ctx=settings.n_ctx or LEAST_CONTEXT, n_parallel=1, use_mlock=False, use_mmap=True)
    try:
        read_model(settings.file)
        if embeds:
            embedder = LlamaEmbedder(settings)
            embedder.embed(embedder.tokenize_all([Prompt("Hi")]))
        else:
            Runner(settings).decode([Run(0, 0, [0], sampled=True)])
    except BadGguf as error:
        return error_to_json(BadModelFile(f"{settings.file.name}: {error}", param="model"))
    except Exception as error:
        problem = error_to_json(error)
        # llama.cpp repeats contents of the file.
        return {**problem, "message": problem["message"][:LONGEST]}
    return None


def _last_words(output: IO[bytes]) -> str:
    """Return the last message of llama.cpp before it ended the process."""
    output.seek(0)
    lines = output.read().decode("utf-8", "replace").splitlines()
    last = [line.strip() for line in lines if "GGML_ASSERT" in line or "what()" in line][-1:]
    return f": {last[0][:LONGEST]}" if last else ""


def _digest(settings: LoadSettings, embeds: bool) -> str:
    """Return a digest, in hexadecimal, of all that decides how the probe ends."""
    text = json.dumps([version("llama-cpp-python"), to_json(settings), embeds], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def main() -> None:
    """Probe the settings on standard input, and write their error, or null, to standard output."""
    request = json.load(sys.stdin)
    # llama.cpp prints to standard output too.
    with take_stdout() as file:
        problem = _attempt(from_json(LoadSettings, request["settings"]), request["embeds"])
        file.write(json.dumps(problem).encode())
    # llama.cpp may crash at its end.
    os._exit(0)


if __name__ == "__main__":
    main()
