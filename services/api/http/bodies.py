"""The size limits of requests' bodies."""

from __future__ import annotations

# Bytes.
MAX_BODY = 2**20
MAX_FILE = 50 * 2**20
# The paths at which files are uploaded, and the bytes that a form may take around one.
UPLOADS = ("/files", "/v1/files")
_MAX_FORM = 2**16


def most_bytes(path: str) -> int:
    """Return the most bytes that the body of a request to this path may have."""
    return MAX_FILE + _MAX_FORM if is_upload(path) else MAX_BODY


def is_upload(path: str) -> bool:
    """Return whether files are uploaded at this path."""
    return path.rstrip("/") in UPLOADS


def too_large(path: str) -> str:
    """Return the message for a body that has more."""
    if is_upload(path):
        return f"the file is larger than {MAX_FILE // 2**20} MiB ({MAX_FILE:,} bytes)"
    return f"the body is larger than 1 MiB ({MAX_BODY:,} bytes)"
