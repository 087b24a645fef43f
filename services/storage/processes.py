"""The processes of this machine."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import IO

# Linux' prctl.h.
_PR_SET_PDEATHSIG = 1


def runs(pid: int) -> bool:
    """Return whether another process of this number runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # It is another user's.
        return True
    return pid != os.getpid()


def take_stdout() -> IO[bytes]:
    """Return this process's standard output; what a native library prints there goes to standard error from now on."""
    taken = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(taken, "wb")


def end_with_parent() -> None:
    """Have the system kill this process once the thread that started it has ended, even while this one is stopped.

    Only Linux can (prctl(2), PR_SET_PDEATHSIG).
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
