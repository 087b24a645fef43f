"""Commands of `main.py`, forked as servers are, or each in a new Python; see `tests.support.forked`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.forked import MAIN, ROOT, can_fork, fork


def run_command(
    *arguments: str | Path,
    stdin: str = "",
    environ: Mapping[str, str] | None = None,
    timeout: float = 60,
    program: tuple[str, ...] = MAIN,
    prefix: Sequence[str] = (),
    forks: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a command in the project's folder, for at most `timeout` seconds; return its exit status and what it printed.

    `environ`: what differs from this process's environment. `prefix`: what the command stands behind, as in `Server`. With
    one, or with `forks` False, it runs in a new Python.
    """
    line = list(map(str, arguments))
    whole = {**os.environ, **(environ or {})}
    if prefix or not forks or not can_fork(program, whole):
        command = [*prefix, sys.executable, *program, *line]
        return subprocess.run(command, cwd=ROOT, env=whole, input=stdin, capture_output=True, text=True, timeout=timeout)
    with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        given.write(stdin)
        given.seek(0)
        process = fork(program, line, whole, out.fileno(), err.fileno(), given.fileno())
        try:
            status = process.wait(timeout)
        finally:
            process.kill()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(line, status, out.read(), err.read())
