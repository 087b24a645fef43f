"""The client of the request that Flask serves: its identity, and whether it has hung up."""

from __future__ import annotations

from flask import request

from auth.authentication import caller
from services.answers.client import Client
from services.errors import ClientDisconnected


def current_client() -> Client:
    """Return the client of the request that is being served; its `poll` raises ClientDisconnected once it has hung up."""
    has_left = request.environ.get("waitress.client_disconnected", lambda: False)

    def poll() -> None:
        if has_left():
            raise ClientDisconnected("the client hung up")

    return Client(caller(), poll)
