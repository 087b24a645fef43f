"""The limits that the parser's process puts on itself, before it looks at a file.

The system holds the limits of memory, time and written files. The audit hook is a second line against libraries that follow
what a document names: it stops Python's own calls, which is all that these libraries use.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from services.documents.parsing.limits import ParseLimits
from services.settings import HOME

_NICE = 10
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_FORBIDDEN = (
    *(
        "socket.",
        "subprocess.",
        "os.exec",
        "os.fork",
        "os.posix_spawn",
        "os.spawn",
        "os.system",
        "pty.",
        "ftplib.",
        "http.",
    ),
    *("urllib.", "smtplib.", "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir"),
    *("os.symlink", "os.truncate", "os.utime", "os.kill", "shutil.", "tempfile.", "webbrowser."),
)


def limit_resources(limits: ParseLimits) -> None:
    """Bound this process: memory, time on the CPU, no written files, no core dumps, a low priority."""
    seconds = max(1, round(limits.seconds))
    _bound(resource.RLIMIT_CPU, seconds, seconds + 1)
    _bound(resource.RLIMIT_FSIZE, 0, 0)
    _bound(resource.RLIMIT_CORE, 0, 0)
    # Not every system holds this one.
    _bound(resource.RLIMIT_AS, limits.memory, limits.memory)
    os.nice(_NICE)
    # A core that llama.cpp's threads share with another program costs them much: this one takes what they leave.
    with suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    # The default ends the process, as RLIMIT_CPU wants.
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)


def _bound(which: int, soft: int, hard: int) -> None:
    """Set a limit, or the strictest one that the system already has."""
    _, highest = resource.getrlimit(which)
    if highest != resource.RLIM_INFINITY:
        soft, hard = min(soft, highest), min(hard, highest)
    try:
        resource.setrlimit(which, (soft, hard))
    except (OSError, ValueError):
        # macOS refuses RLIMIT_AS; the parent's clock and the other limits hold.
        return


def refuse_other_files(path: Path) -> None:
    """Refuse from now on what no parser needs: the network, processes, writing, and files other than `path` and code."""
    code = [entry for entry in sys.path if entry and Path(entry) != HOME]
    roots = tuple(f"{each.rstrip('/')}/" for each in (*code, sys.prefix, sys.base_prefix, str(HOME / "services")))
    allowed = {str(path), os.devnull, "/dev/urandom"}

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            name, mode, flags = args
            if isinstance(name, int):
                return
            writes = bool(flags & _WRITING) if isinstance(flags, int) else bool(mode and set(mode) & set("wax+"))
            whole = os.path.abspath(os.fsdecode(name))  # noqa: PTH100
            if writes or (whole not in allowed and not whole.startswith(roots)):
                raise PermissionError("a parser opens no other file")
        elif event.startswith(_FORBIDDEN):
            raise PermissionError(f"a parser does nothing like {event}")

    sys.addaudithook(hook)
