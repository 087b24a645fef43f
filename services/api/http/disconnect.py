"""Noticing that a caller has hung up."""

from __future__ import annotations

from flask import request

from services.answers.admission import Poll
from services.errors import ClientDisconnected


def disconnect_poll() -> Poll:
    """What raises ClientDisconnected once the caller of the request that is being served has hung up."""
    has_left = request.environ.get("waitress.client_disconnected", lambda: False)

    def poll() -> None:
        if has_left():
            raise ClientDisconnected("the client hung up")

    return poll
