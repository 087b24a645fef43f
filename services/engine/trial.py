"""Trying a model in a process of its own before the engine loads it: a file can be such that llama.cpp ends its process.

The engine's process forks a helper before it has threads or models, with llama.cpp at hand; the helper forks again for each
trial. That one checks the file's header, loads it, computes one token, and says what came of it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import select
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import IO

from services.backend import LoadSettings, Prompt
from services.codec import Message, plain, plain_error, read, read_error
from services.engine.wire import Wire
from services.errors import BadModelFile, EngineFailure, HearthError
from services.json_file import JsonFile
from services.models.split import part_paths

log = logging.getLogger(__name__)

# What a trial may take: so long at least, and as much longer as the file is large (bytes a second).
SECONDS, BYTES_A_SECOND = 60.0, 20e6
# Seconds for which what went wrong is not tried again: a trial takes a core.
BAD_FOR = 20.0
# Characters of an error that are told.
LONGEST = 1000
# Kept results; the oldest is forgotten first.
KEPT = 200
Try = Callable[[LoadSettings, bool], None]


class Trials:
    """What was tried, remembered over restarts in a file. Any thread may call it; `_turn` lets one run at a time."""

    def __init__(self, path: Path, run: Try) -> None:
        """`run` tries settings, for embeddings where the bool says so; it raises what went wrong."""
        self._file = JsonFile(path)
        self._run = run
        self._turn = threading.Lock()
        self._good: set[tuple[LoadSettings, bool]] = set()
        self._bad: dict[str, tuple[float, HearthError]] = {}

    def check(self, settings: LoadSettings, embeds: bool = False) -> None:
        """Try these settings, unless that has gone well before; `embeds`: to make embeddings with.

        Raises BadModelFile with what happened.
        """
        if (settings, embeds) in self._good:
            return
        mark = _mark(settings, embeds)
        with self._turn:
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


class TrialHelper:
    """The helper, as the engine's process sees it. Any thread may call it; `_turn` lets one trial run at a time."""

    def __init__(self, *inherited: int) -> None:
        """Fork it: only while this process has no other threads. It closes the files whose numbers are `inherited`."""
        ours, theirs = socket.socketpair()
        if os.fork() == 0:
            ours.close()
            for number in inherited:
                os.close(number)
            try:
                _serve(Wire(theirs))
            finally:
                os._exit(0)
        theirs.close()
        self._wire = Wire(ours)
        self._turn = threading.Lock()

    def run(self, settings: Message, embeds: bool) -> None:
        """Try settings, which are as JSON has them. Raises BadModelFile with what happened, EngineFailure."""
        with self._turn:
            self._wire.send({"settings": settings, "embeds": embeds})
            reply = self._wire.receive()
        if reply is None:
            raise EngineFailure("models cannot be tried: the helper process is gone")
        if reply["error"]:
            raise read_error(reply["error"])


def _serve(wire: Wire) -> None:
    """The helper's loop, until the engine's process is gone."""
    while message := wire.receive():
        try:
            error = _try(read(LoadSettings, message["settings"]), message["embeds"])
        except (OSError, ValueError) as failure:
            error = plain_error(failure)
        wire.send({"error": error})


def _try(settings: LoadSettings, embeds: bool) -> Message | None:
    """Fork, and tell what is wrong with the settings, or None."""
    name = settings.file.name
    size = sum(part.stat().st_size for part in part_paths(settings.file))
    deadline = time.monotonic() + SECONDS + size / BYTES_A_SECOND
    told, tells = os.pipe()
    with tempfile.TemporaryFile() as said:
        pid = os.fork()
        if pid == 0:
            os.dup2(said.fileno(), 2)
            os.write(tells, json.dumps(_attempt(settings, embeds)).encode())
            os._exit(0)
        os.close(tells)
        text = _read_until(told, deadline)
        if text is None:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if text is None:
            what = f"llama.cpp was not done with {name} in time"
        elif os.WIFSIGNALED(status):
            reason = signal.Signals(os.WTERMSIG(status)).name
            what = f"llama.cpp cannot use {name}: it ends its process ({reason}){_last_words(said)}"
        elif not text:
            what = f"llama.cpp cannot use {name}: it ends its process{_last_words(said)}"
        else:
            problem: Message | None = json.loads(text)
            return problem
        return plain_error(BadModelFile(what, param="model"))


def _read_until(pipe: int, deadline: float) -> bytes | None:
    """All that comes through a pipe until its other end is closed; None where that is not done in time."""
    text = b""
    with os.fdopen(pipe, "rb", buffering=0) as file:
        while select.select([file], [], [], max(deadline - time.monotonic(), 0))[0]:
            block = file.read(2**16)
            if not block:
                return text
            text += block
    return None


def _attempt(settings: LoadSettings, embeds: bool) -> Message | None:
    """What is wrong with the settings, as far as a process can say that lives on; else None."""
    from services.engine.batch import Run
    from services.engine.embedder import Embedder
    from services.engine.runner import Runner
    from services.models.gguf import BadGguf
    from services.models.memory import LEAST_CONTEXT
    from services.models.split import read_model

    # Of a context that is chosen for the memory there is, the least will do.
    settings = replace(settings, n_ctx=settings.n_ctx or LEAST_CONTEXT, n_parallel=1, use_mlock=False, use_mmap=True)
    try:
        read_model(settings.file)
        if embeds:
            embedder = Embedder(settings)
            embedder.embed(embedder.tokenize(Prompt("Hi")))
        else:
            Runner(settings).decode([Run(0, 0, [0], sampled=True)])
    except BadGguf as error:
        return plain_error(BadModelFile(f"{settings.file.name}: {error}", param="model"))
    except Exception as error:
        told = plain_error(error)
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
    """What changes with whatever decides how the trial ends."""
    told = json.dumps([version("llama-cpp-python"), plain(settings), embeds], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:32]
