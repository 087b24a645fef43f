"""waitress around the application: its settings, and its own errors in our shape."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from waitress.channel import HTTPChannel
from waitress.server import create_server
from waitress.task import ErrorTask

from services.api.errors import error_body
from services.settings import Settings

# Beyond the application's own limit (413 in our shape), so that waitress seldom has to cut a client off in mid-sentence.
MAX_READ = 2**26


class _JsonErrorTask(ErrorTask):  # type: ignore[misc, unused-ignore]
    """What waitress answers to a request that never reaches the application."""

    def execute(self) -> None:
        error = self.request.error
        body = json.dumps(error_body(error.code, f"{error.reason}: {error.body}", code="bad_http")).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Channel(HTTPChannel):  # type: ignore[misc, unused-ignore]
    error_task_class = _JsonErrorTask


def make_server(app: Callable[..., Any], settings: Settings) -> Any:
    """A bound waitress server around a WSGI application: `run()` serves until SystemExit.

    Raises OSError where it cannot listen there.
    """
    try:
        server = create_server(
            app,
            host=settings.host,
            port=settings.port,
            threads=settings.threads,
            ident="",
            # A client that leaves is noticed while its answer is computed.
            channel_request_lookahead=1,
            connection_limit=4 * settings.threads,
            asyncore_use_poll=True,
            max_request_body_size=MAX_READ,
        )
    except ValueError as error:
        raise OSError(0, str(error)) from error
    # A name with two addresses (localhost) has a listener for each.
    for listener in getattr(server, "map", {0: server}).values():
        listener.channel_class = _Channel
    return server


def port_of(server: Any) -> int:
    """The port that a server of `make_server` listens on."""
    return int(server.effective_listen[0][1] if hasattr(server, "effective_listen") else server.effective_port)
