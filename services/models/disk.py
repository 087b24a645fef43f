"""Whether a disk has room for what is to come."""

from __future__ import annotations

import shutil
from pathlib import Path

from services.errors import StorageFailed

# Bytes that stay free on the disk, for the sessions and whatever else lives there.
MARGIN = 2**26


def check_room(folder: Path, name: str, needed: int = 0) -> None:
    """Raise StorageFailed where the disk of `folder` has no room for so many more bytes of the file called `name`."""
    free = shutil.disk_usage(folder).free
    if needed + MARGIN > free:
        what = f"{name} needs {_gb(needed)} more, and the disk of {folder} has {_gb(free)} free"
        raise StorageFailed(what, param="source", code="disk_full")


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB"
