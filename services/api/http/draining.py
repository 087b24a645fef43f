"""What a server that is about to stop answers: 503 to everything new, but for those who ask how it is."""

from __future__ import annotations

import threading

from flask import Flask, request

from services.errors import Unavailable

# Seconds after which whoever is refused may ask again: it takes so long to start anew.
_RETRY_AFTER = 5
_TOLD = frozenset({"health", "healthz", "readyz", "metrics"})


class Draining:
    """Whether the server takes nothing new. Any thread may call it."""

    def __init__(self) -> None:
        self._begun = threading.Event()

    def begin(self) -> None:
        """Take nothing new from now on."""
        self._begun.set()

    @property
    def has_begun(self) -> bool:
        """Whether it takes nothing new."""
        return self._begun.is_set()

    def refuse_requests(self, app: Flask) -> None:
        """Refuse what comes to `app` from then on."""

        @app.before_request
        def refuse() -> None:
            if self.has_begun and request.endpoint not in _TOLD:
                raise Unavailable("the server is stopping", code="stopping", retry_after=_RETRY_AFTER)
