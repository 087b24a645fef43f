"""The temporary folders of measurements."""

from __future__ import annotations

from tempfile import TemporaryDirectory


def scratch_folder() -> TemporaryDirectory[str]:
    """Return a temporary folder; a server that is still writing into it at its end does not hide what ended the run."""
    return TemporaryDirectory(prefix="hearth-benchmark-", ignore_cleanup_errors=True)
