"""CORS: no web page may send requests from a browser, except pages of the origins that the server's owner allows."""

from __future__ import annotations

from collections.abc import Sequence

from flask import Flask
from flask_cors import CORS

_LIMITS = ("requests", "tokens", "tokens-day", "parallel")
# Names only: a browser takes a pattern for a name that no header has.
_TOLD = [
    "X-Request-Id",
    "Retry-After",
    "Idempotent-Replayed",
    *(f"x-ratelimit-{what}-{kind}" for kind in _LIMITS for what in ("limit", "remaining", "reset")),
]


def allow_origins(app: Flask, origins: Sequence[str]) -> None:
    """Let pages of these origins send requests to `app`; "*" allows every page.

    The browser's own credentials are never allowed: a page has to know a key.
    """
    if origins:
        CORS(app, origins=list(origins), expose_headers=_TOLD, max_age=600, supports_credentials=False, vary_header=True)
