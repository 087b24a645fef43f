"""Draining: a server that is about to stop refuses new requests with 503, except those that ask how it is."""

from __future__ import annotations

import threading
from collections.abc import Collection

from flask import Flask, request

from services.errors import Unavailable

# Seconds until a server that is started anew answers again.
_RETRY_AFTER = 5


class Draining:
    """The state of draining, once begun without end. Any thread may call it."""

    def __init__(self) -> None:
        self._begun = threading.Event()

    def begin(self) -> None:
        """Refuse new requests from now on."""
        self._begun.set()

    @property
    def has_begun(self) -> bool:
        """Return whether new requests are refused."""
        return self._begun.is_set()

    def refuse_requests(self, app: Flask, answered: Collection[str]) -> None:
        """Refuse requests to `app` once it has begun, except to the endpoints that are still answered."""

        @app.before_request
        def refuse() -> None:
            if self.has_begun and request.endpoint not in answered:
                raise Unavailable("the server is stopping", code="stopping", retry_after=_RETRY_AFTER)
