"""The lock that tells whether another server or worker works on a data folder."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path


def lock_data(folder: Path, closing: ExitStack) -> bool:
    """Lock a data folder until `closing` closes; return False where another process has it locked."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / "jobs.lock", mode=0o600)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    closing.callback(lock.release)
    return True
