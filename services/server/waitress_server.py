"""waitress around the application: its settings and limits, and how it takes connections."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import TcpWSGIServer

from auth.addresses import source_of
from services.api.http.bodies import MAX_BODY
from services.server.channel import MAX_BUFFERED, Channel
from services.server.connections import ConnectionLimits, Connections, allow_connections
from services.server.dispatcher import FairDispatcher
from services.server.listening import listening_sockets
from services.server.loop import Loop
from services.server.tls import Certificate
from services.settings import Settings

log = logging.getLogger(__name__)

MAX_HEADER = 2**16
# Bodies up to this size (bytes) are kept in memory: a file for each would use up the files that others need.
_MAX_IN_MEMORY = 3 * MAX_BODY
# Bytes read in one go. At least a record of TLS (16 KiB): of one that was read in part, poll(2) does not tell that there is
# more.
_READ = 2**16
# Bytes that the system keeps unsent for a slow reader; by default megabytes, of which nobody knows whether they are read.
_UNSENT = 2**16
_BACKLOG = 1024
# Connections taken in one round of the server's thread: a crowd before the door is soon through.
_ACCEPTS = 64
_LOOK_EVERY = 1.0
# Seconds in which nobody is taken once the system has no files, though some were kept.
_PAUSE = 1.0
# Connections that wait until there is room, and for how long. Where so many wait, the next ones do so in the system's
# queue; unless the first has waited longer than short answers take: then they are refused.
_PARKED, _PARK_SECONDS, _DOOR_SECONDS = 128, 2.0, 0.5
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\nConnection: close\r\n\r\n"
    b'{"message": "the server has as many connections as it may, and answers on all of them"}\n'
)


class Listener(TcpWSGIServer):  # type: ignore[misc, unused-ignore]
    """A socket that takes connections. The server's thread owns it; `add_task` is for any."""

    channel_class = Channel

    def __init__(
        self, loop: Loop, connections: Connections, certificate: Certificate | None, *arguments: Any, **named: Any
    ) -> None:
        self.loop = loop
        self.connections = connections
        self._certificate = certificate
        self._look_at = self._paused_until = 0.0
        self._parked: deque[tuple[socket.socket, Any, float]] = deque()
        """Connections for which there is no room yet, and until when they wait for it."""
        super().__init__(*arguments, map=loop.sockets, **named)
        # A thread that waited for room in the pipe would wait for the one that empties it.
        os.set_blocking(self.trigger.trigger, False)

    def take(self) -> None:
        """Take those who wait, and look after those who are there. At the beginning of each round."""
        now = time.monotonic()
        try:
            if now >= self._look_at:
                self._look_at = now + _LOOK_EVERY
                self.maintenance(now)
            for _ in range(len(self._parked)):
                self._take(*self._parked.popleft())
            if now >= self._paused_until:
                self._accept()
        except Exception:
            # It would end the thread that serves everybody.
            log.exception("connections could not be taken")

    def readable(self) -> bool:
        """Whether to be told that somebody waits."""
        return time.monotonic() >= self._paused_until

    def pull_trigger(self) -> None:
        """Wake the server's thread. Any thread."""
        with contextlib.suppress(BlockingIOError):
            # A pipe that is full wakes it, too.
            super().pull_trigger()

    def maintenance(self, now: float) -> None:
        """End the connections whose time is over."""
        for channel in list(self.active_channels.values()):
            try:
                channel.look(now)
            except Exception:
                log.exception("a connection fails, and is closed")
                channel.handle_close()
        self.connections.forget()
        if self._certificate:
            self._certificate.refresh()

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            now = time.monotonic()
            if len(self._parked) >= _PARKED and now < self._parked[0][2] - _PARK_SECONDS + _DOOR_SECONDS:
                return
            try:
                connection, address = self.socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                # To try at once again would be all that this thread does.
                self._paused_until = now + _PAUSE
                self.connections.shed()
                log.error("a connection could not be taken: %s", error.strerror)
                return
            self._take(connection, address, now + _PARK_SECONDS)

    def _take(self, connection: socket.socket, address: Any, deadline: float) -> None:
        try:
            # Before anything that costs more.
            if not self.connections.make_room(source_of(address[0])):
                # Where all are being answered, there is room in a moment.
                if len(self._parked) < _PARKED and time.monotonic() < deadline:
                    self._parked.append((connection, address, deadline))
                else:
                    self._refuse(connection)
                return
            self.set_socket_options(connection)
            encrypted = self._certificate.encrypt(connection) if self._certificate else connection
            channel = Channel(self, encrypted, address, self.adj, map=self._map)
        except OSError:
            # It has left already.
            connection.close()
            return
        # Often its request has come meanwhile. One that has been read is not dropped for the next one.
        self.loop.let(channel, select.POLLIN)

    def _refuse(self, connection: socket.socket) -> None:
        with connection:
            if not self._certificate:
                connection.setblocking(False)
                with contextlib.suppress(OSError):
                    connection.send(_BUSY)
                    # What is unread would reset it, before the client reads that.
                    connection.recv(_READ)


class Server:
    """waitress, listening. Its methods are for the main thread."""

    def __init__(self, loop: Loop, dispatcher: FairDispatcher) -> None:
        self.port = int(loop.listeners[0].effective_port)
        self._loop = loop
        self._dispatcher = dispatcher

    def run(self) -> None:
        """Serve until SystemExit or KeyboardInterrupt."""
        try:
            self._loop.run()
        except (SystemExit, KeyboardInterrupt):
            self._dispatcher.shutdown()

    def close(self) -> None:
        """Close everything; for one that does not run."""
        self._dispatcher.shutdown()
        wasyncore.close_all(self._loop.sockets)


def make_server(app: Callable[..., Any], settings: Settings) -> Server:
    """A bound waitress server around a WSGI application.

    Raises OSError where it cannot listen there, or cannot use the certificate.
    """
    certificate = Certificate(settings.cert, settings.cert_key) if settings.cert and settings.cert_key else None
    adjustments = Adjustments(
        threads=settings.threads,
        ident="",
        backlog=_BACKLOG,
        recv_bytes=_READ,
        inbuf_overflow=_MAX_IN_MEMORY,
        outbuf_high_watermark=MAX_BUFFERED,
        max_request_header_size=MAX_HEADER,
        # The parser refuses sooner.
        max_request_body_size=_MAX_IN_MEMORY,
        url_scheme="https" if certificate else "http",
    )
    adjustments.socket_options = [*adjustments.socket_options, (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)]
    limits = ConnectionLimits(
        allow_connections(settings.connections),
        settings.address_connections,
        settings.address_requests,
        settings.address_handshakes,
    )
    bound = listening_sockets(settings.host, settings.port)
    dispatcher = FairDispatcher()
    dispatcher.set_thread_count(settings.threads)
    connections = Connections(limits)
    loop = Loop()
    loop.listeners = [
        Listener(
            loop,
            connections,
            certificate,
            app,
            _sock=sock,
            dispatcher=dispatcher,
            adj=adjustments,
            sockinfo=(sock.family, sock.type, sock.proto, sock.getsockname()),
            bind_socket=False,
        )
        for sock in bound
    ]
    return Server(loop, dispatcher)
