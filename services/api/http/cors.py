"""Whose pages may ask this server from a browser: none, but for the origins that its owner names."""

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
    """Let the pages of these origins ask `app`, with a key that they have; "*" is every page.

    Never with credentials of the browser's own: a page has to know a key.
    """
    if origins:
        CORS(app, origins=list(origins), expose_headers=_TOLD, max_age=600, supports_credentials=False, vary_header=True)
