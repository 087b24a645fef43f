"""waitress around the application: its settings and limits, its own errors in our shape, and TLS before it."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from typing import Any

from waitress.channel import HTTPChannel
from waitress.server import create_server
from waitress.task import ErrorTask

from services.api.errors import error_body
from services.server.tls import TlsFront
from services.settings import Settings

# Beyond the application's own limit (413 in our shape), so that waitress seldom has to cut a client off in mid-sentence.
MAX_READ = 2**26
MAX_HEADER = 2**16
# Seconds in which a request must have arrived whole, and fewer while there is a crowd; and those of an idle connection.
ARRIVE_IN, ARRIVE_IN_CROWD, IDLE = 30.0, 3.0, 120.0
MAX_CONNECTIONS = 1000
_OTHER_FILES = 500
# Of these, so many are a crowd.
_CROWD = 0.7


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
    """A connection. `arriving_since` is when the request began to come that is not whole yet; None: there is none."""

    error_task_class = _JsonErrorTask

    def __init__(self, *arguments: Any, **named: Any) -> None:
        # Of a connection that sends nothing a request is expected, too.
        self.arriving_since: float | None = time.monotonic()
        super().__init__(*arguments, **named)

    def received(self, data: bytes) -> bool:
        came = bool(super().received(data))
        if self.request is None:
            self.arriving_since = None
        elif self.arriving_since is None:
            self.arriving_since = time.monotonic()
        return came


def make_server(app: Callable[..., Any], settings: Settings) -> Any:
    """A bound waitress server around a WSGI application: `run()` serves until SystemExit.

    Raises OSError where it cannot listen there, or cannot use the certificate.
    """
    front = None
    host, port = settings.host, settings.port
    if settings.cert and settings.cert_key:
        front = TlsFront(settings.cert, settings.cert_key)
        app, host, port = front.only_behind_it(app), "127.0.0.1", 0
    try:
        server = create_server(
            app,
            host=host,
            port=port,
            threads=settings.threads,
            ident="",
            # A client that leaves is noticed while its answer is computed.
            channel_request_lookahead=1,
            connection_limit=_allow_connections(MAX_CONNECTIONS, 4 if front else 1),
            cleanup_interval=1,
            asyncore_use_poll=True,
            max_request_header_size=MAX_HEADER,
            max_request_body_size=MAX_READ,
            url_scheme="https" if front else "http",
        )
    except ValueError as error:
        raise OSError(0, str(error)) from error
    # A name with two addresses (localhost) has a listener for each.
    for listener in getattr(server, "map", {0: server}).values():
        if hasattr(listener, "active_channels"):
            listener.channel_class = _Channel
            listener.maintenance = _maintenance(listener)
    server.port = port_of(server)
    if front:
        server.port = front.start(settings.host, settings.port, server.port, server.adj.connection_limit)
    return server


def port_of(server: Any) -> int:
    """The port that waitress itself listens on."""
    return int(server.effective_listen[0][1] if hasattr(server, "effective_listen") else server.effective_port)


def _maintenance(listener: Any) -> Callable[[float], None]:
    """What closes the connections that idle for too long, and those whose request is too slow to arrive.

    In the server's own thread, in the place of waitress's, which waits for ever on a client that sends a byte now and then.
    """

    def maintain(now: float) -> None:
        is_crowded = len(listener.active_channels) > _CROWD * listener.adj.connection_limit
        since = time.monotonic() - (ARRIVE_IN_CROWD if is_crowded else ARRIVE_IN)
        idle_since = now - (ARRIVE_IN_CROWD if is_crowded else IDLE)
        for channel in list(listener.active_channels.values()):
            arriving = channel.arriving_since
            is_slow = arriving is not None and arriving < since
            is_idle = arriving is None and channel.last_activity < idle_since
            if not channel.requests and (is_slow or is_idle):
                channel.will_close = True

    return maintain


def _allow_connections(wanted: int, files_each: int) -> int:
    """As many connections as may be open at once: each takes so many files, and others are needed beside them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted * files_each + _OTHER_FILES
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(min(wanted, (soft - _OTHER_FILES) // files_each), 50)
