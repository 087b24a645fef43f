"""The processes of this machine."""

from __future__ import annotations

import os


def runs(pid: int) -> bool:
    """Whether another process of this number runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # It is somebody else's.
        return True
    return pid != os.getpid()
