"""The size limit of a request's body."""

from __future__ import annotations

# Bytes.
MAX_BODY = 2**20
TOO_LARGE = f"the body is larger than 1 MiB ({MAX_BODY:,} bytes)"
