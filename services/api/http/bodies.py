"""How large the body of a request may be."""

from __future__ import annotations

# Bytes.
MAX_BODY = 2**20
TOO_LARGE = f"the body is larger than 1 MiB ({MAX_BODY:,} bytes)"
