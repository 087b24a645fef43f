"""Trying a model in a process of its own before the engine loads it: a file can be such that llama.cpp ends its process.

`python3 -m services.engine.process.probe` checks a file's header, loads it, computes one token, says what came of it, and
ends. It is started anew for each probe, so that nothing that happens to one leaves the next untried.
"""

from __future__ import annotations

from services.storage.processes import end_with_parent

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
from services.storage.json_file import JsonFile

log = logging.getLogger(__name__)

# What a probe may take: so long at least, and as much longer as the file is large (bytes a second).
SECONDS, BYTES_A_SECOND = 60.0, 20e6
# Seconds for which what went wrong is not tried again: a probe takes a core.
BAD_FOR = 20.0
# Characters of an error that are told.
LONGEST = 1000
# What others may end it by: not llama.cpp.
_KILLED = (-signal.SIGKILL, -signal.SIGTERM)
# Kept results; the oldest is forgotten first.
KEPT = 200
Try = Callable[[LoadSettings, bool], None]


class Probes:
    """What was tried, remembered over restarts in a file.

    Any thread may call it. `_trying` lets one probe run at a time, on a thread of its own, which nobody has to wait for;
    `_lock` protects the table of those to come.
    """

    def __init__(self, path: Path, run: Try) -> None:
        """`run` tries settings, for embeddings where the bool says so; it raises what went wrong."""
        self._file = JsonFile(path, private=True)
        self._run = run
        self._lock = threading.Lock()
        self._trying = threading.Lock()
        self._coming: dict[tuple[LoadSettings, bool], Future[None]] = {}
        self._good: set[tuple[LoadSettings, bool]] = set()
        self._bad: dict[str, tuple[float, HearthError]] = {}

    def check(self, settings: LoadSettings, embeds: bool = False, poll: Callable[[], None] = lambda: None) -> None:
        """Try these settings, unless that has gone well before; `embeds`: to make embeddings with.

        `poll` is called meanwhile, and gives up by what it raises; the probe goes on for others. Raises BadModelFile with
        what happened.
        """
        if (settings, embeds) in self._good:
            return
        with self._lock:
            if not (coming := self._coming.get((settings, embeds))):
                coming = self._coming[settings, embeds] = Future()
                threading.Thread(target=self._come, args=(settings, embeds, coming), name="probe", daemon=True).start()
        result_of(coming, poll)

    def _come(self, settings: LoadSettings, embeds: bool, coming: Future[None]) -> None:
        """The thread of a probe."""
        error: BaseException | None = None
        try:
            with self._trying:
                self._try(settings, embeds)
        except BaseException as failure:
            error = failure
        with self._lock:
            del self._coming[settings, embeds]
        coming.set_exception(error) if error else coming.set_result(None)

    def _try(self, settings: LoadSettings, embeds: bool) -> None:
        mark = _mark(settings, embeds)
        if (settings, embeds) in self._good or self._remembers(mark):
            self._good.add((settings, embeds))
            return
        at, error = self._bad.get(mark, (0.0, None))
        if error and time.monotonic() - at < BAD_FOR:
            raise error
        try:
            self._run(settings, embeds)
        except BadModelFile as error:
            self._bad = {mark: (time.monotonic(), error)}
            raise
        self._good.add((settings, embeds))
        try:
            with self._file.edit() as data:
                data[mark] = settings.file.name
                while len(data) > KEPT:
                    del data[next(iter(data))]
        except HearthError as error:
            log.warning("that %s is good is not remembered: %s", settings.file.name, error.message)

    def _remembers(self, mark: str) -> bool:
        try:
            return mark in self._file.read()
        except HearthError:
            # It is only a saving of time.
            self._file.path.unlink(missing_ok=True)
            return False


class ProbeProcess:
    """Tries settings in a process of their own, one probe at a time. `_lock` protects the process, which any may end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def __call__(self, settings: LoadSettings, embeds: bool) -> None:
        """Try settings. Raises BadModelFile with what happened, EngineFailure, Unavailable once it is closed."""
        with tempfile.TemporaryFile() as said:
            try:
                size = sum(part.stat().st_size for part in part_paths(settings.file))
                seconds = SECONDS + size / BYTES_A_SECOND
                status, told = self._run(settings, embeds, seconds, said)
                if status in _KILLED:
                    # By somebody who meant another one, or by a system without memory: that may be over.
                    status, told = self._run(settings, embeds, seconds, said)
            except (OSError, ValueError) as error:
                raise EngineFailure(f"{settings.file.name} cannot be tried: {error}") from error
            what = f"llama.cpp cannot use {settings.file.name}: it ends its process"
            if status is None:
                raise BadModelFile(f"llama.cpp was not done with {settings.file.name} in time", param="model")
            if status < 0:
                raise BadModelFile(f"{what} ({signal.Signals(-status).name}){_last_words(said)}", param="model")
            if not told:
                raise BadModelFile(f"{what}{_last_words(said)}", param="model")
        if problem := json.loads(told):
            raise error_from_json(problem)

    def close(self) -> None:
        """End the probe under way, and begin none any more."""
        with self._lock:
            self._closed = True
            if self._process:
                self._process.kill()

    def _run(self, settings: LoadSettings, embeds: bool, seconds: float, said: IO[bytes]) -> tuple[int | None, bytes]:
        """Run a probe for so many seconds at most; return its exit status, None where that is too short, and its result."""
        request = json.dumps({"settings": to_json(settings), "embeds": embeds}).encode()
        process = self._begin(said)
        try:
            told, _ = process.communicate(request, seconds)
            return process.returncode, told
        except subprocess.TimeoutExpired:
            return None, b""
        finally:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=1)
            with self._lock:
                self._process = None

    def _begin(self, said: IO[bytes]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "services.engine.process.probe"]
        # numpy's threads are of no use in it.
        environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        with self._lock:
            if self._closed:
                raise Unavailable("the server is stopping", code="stopping", retry_after=5)
            # A session of its own: Ctrl+C is for the server, with which it ends.
            self._process = subprocess.Popen(  # noqa: S603
                command, cwd=HOME, env=environ, start_new_session=True, stdin=pipe, stdout=pipe, stderr=said
            )
            return self._process


def _attempt(settings: LoadSettings, embeds: bool) -> Message | None:
    """What is wrong with the settings, as far as a process can say that lives on; else None."""
    from services.engine.llama.batch import Run
    from services.engine.llama.embedder import LlamaEmbedder
    from services.engine.llama.runner import Runner
    from services.models.gguf import BadGguf
    from services.models.memory import LEAST_CONTEXT
    from services.models.split import read_model

    # Of a context that is chosen for the memory there is, the least will do.
    settings = replace(settings, n_ctx=settings.n_ctx or LEAST_CONTEXT, n_parallel=1, use_mlock=False, use_mmap=True)
    try:
        read_model(settings.file)
        if embeds:
            embedder = LlamaEmbedder(settings)
            embedder.embed(embedder.tokenize(Prompt("Hi")))
        else:
            Runner(settings).decode([Run(0, 0, [0], sampled=True)])
    except BadGguf as error:
        return error_to_json(BadModelFile(f"{settings.file.name}: {error}", param="model"))
    except Exception as error:
        told = error_to_json(error)
        # llama.cpp repeats what stands in the file.
        return {**told, "message": told["message"][:LONGEST]}
    return None


def _last_words(said: IO[bytes]) -> str:
    """What llama.cpp said last before it ended the process."""
    said.seek(0)
    lines = said.read().decode("utf-8", "replace").splitlines()
    last = [line.strip() for line in lines if "GGML_ASSERT" in line or "what()" in line][-1:]
    return f": {last[0][:LONGEST]}" if last else ""


def _mark(settings: LoadSettings, embeds: bool) -> str:
    """What changes with whatever decides how the probe ends."""
    told = json.dumps([version("llama-cpp-python"), to_json(settings), embeds], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def main() -> None:
    """Try what standard input asks for, and write what is wrong with it, or null, to standard output."""
    request = json.load(sys.stdin)
    # What llama.cpp prints is no result.
    result = os.dup(1)
    os.dup2(2, 1)
    problem = json.dumps(_attempt(from_json(LoadSettings, request["settings"]), request["embeds"])).encode()
    with os.fdopen(result, "wb") as file:
        file.write(problem)
    # llama.cpp may end badly.
    os._exit(0)


if __name__ == "__main__":
    main()
