"""The processes of this machine."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

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


def end_with_parent() -> None:
    """Have the system kill this process once the thread that started it has ended, even while this one is stopped.

    Only Linux can (prctl(2), PR_SET_PDEATHSIG).
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
