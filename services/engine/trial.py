"""Trying a model in a process of its own before the engine loads it: a file can be such that llama.cpp ends its process.

`python3 -m services.engine.trial` reads the settings from its input, checks the file's header, loads it, computes one
token, and says what came of it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from services.backend import LoadSettings, Prompt
from services.engine.wire import plain, plain_error, read, read_error
from services.errors import BadModelFile, HearthError
from services.json_file import JsonFile
from services.settings import HOME

log = logging.getLogger(__name__)

# What a trial may take: so long at least, and as much longer as the file is large (bytes a second).
SECONDS, BYTES_A_SECOND = 60.0, 20e6
# Seconds for which what went wrong is not tried again: a trial takes a core.
BAD_FOR = 20.0
# Kept results; the oldest is forgotten first.
KEPT = 200


class Trials:
    """What was tried, remembered over restarts in a file. Any thread may call it; `_turn` lets one run at a time."""

    def __init__(self, path: Path) -> None:
        self._file = JsonFile(path)
        self._turn = threading.Lock()
        self._good: set[str] = set()
        self._bad: dict[str, tuple[float, HearthError]] = {}

    def check(self, settings: LoadSettings, embeds: bool = False) -> None:
        """Try these settings, unless that has gone well before; `embeds`: to make embeddings with.

        Raises BadModelFile with what happened.
        """
        mark = _mark(settings, embeds)
        if mark in self._good:
            return
        with self._turn:
            if mark in self._good or self._remembers(mark):
                self._good.add(mark)
                return
            at, error = self._bad.get(mark, (0.0, None))
            if error and time.monotonic() - at < BAD_FOR:
                raise error
            try:
                _try(settings, embeds)
            except HearthError as error:
                self._bad = {mark: (time.monotonic(), error)}
                raise
            self._good.add(mark)
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


def _try(settings: LoadSettings, embeds: bool) -> None:
    name = settings.file.name
    limit = SECONDS + settings.file.stat().st_size / BYTES_A_SECOND
    try:
        done = subprocess.run(
            [sys.executable, "-m", "services.engine.trial"],
            cwd=HOME,
            input=json.dumps([plain(settings), embeds]),
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise BadModelFile(f"llama.cpp was not done with {name} after {limit:.0f} s", param="model") from None
    if done.returncode < 0:
        reason = signal.Signals(-done.returncode).name
        last = next((line for line in reversed(done.stderr.splitlines()) if "GGML_ASSERT" in line or "what()" in line), "")
        raise BadModelFile(
            f"llama.cpp cannot use {name}: it ends its process ({reason}) {last.strip()}".strip(), param="model"
        )
    try:
        problem = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        raise BadModelFile(f"{name} could not be tried: {done.stderr.strip()[-200:]}", param="model") from None
    if problem:
        raise read_error(problem)


def _mark(settings: LoadSettings, embeds: bool) -> str:
    """What changes with whatever decides how the trial ends."""
    told = json.dumps([version("llama-cpp-python"), plain(settings), embeds], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def main() -> None:
    """Try the settings on standard input; the last line of the output is null, or what is wrong."""
    from services.engine.batch import Run
    from services.engine.embedder import Embedder
    from services.engine.runner import Runner
    from services.gguf import BadGguf, read_gguf

    plain_settings, embeds = json.load(sys.stdin)
    settings = replace(read(LoadSettings, plain_settings), n_parallel=1, use_mlock=False, use_mmap=True)
    problem = None
    try:
        read_gguf(settings.file)
        if embeds:
            embedder = Embedder(settings)
            embedder.embed(embedder.tokenize(Prompt("Hi")))
        else:
            Runner(settings).decode([Run(0, 0, [0], sampled=True)])
    except BadGguf as error:
        problem = plain_error(BadModelFile(f"{settings.file.name}: {error}", param="model"))
    except HearthError as error:
        problem = plain_error(error)
    sys.stdout.write(f"\n{json.dumps(problem)}\n")


if __name__ == "__main__":
    main()
