"""The check that a disk has room for a download."""

from __future__ import annotations

import shutil
from pathlib import Path

from services.errors import StorageFailed

# Bytes that stay free on the disk, for sessions and other data.
MARGIN = 2**26


def check_room(folder: Path, name: str, needed: int = 0) -> None:
    """Raise StorageFailed if the disk of `folder` has no room for `needed` more bytes of the file `name`."""
    free = shutil.disk_usage(folder).free
    if needed + MARGIN > free:
        what = f"{name} needs {_gb(needed)} more, and the disk of {folder} has {_gb(free)} free"
        public = f"{name} needs {_gb(needed)} more, and the server's disk has {_gb(free)} free"
        raise StorageFailed(what, param="source", code="disk_full", public=public)


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB"
