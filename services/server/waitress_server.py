"""The HTTP server around the application: waitress with this server's settings and limits, and its listening sockets."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from typing_extensions import override

from auth.addresses import source_of
from services.api.http.bodies import UPLOADS, most_bytes
from services.keyless import keyless_app
from services.server.channel import MAX_BUFFERED, MAX_IN_MEMORY, Channel
from services.server.connections import SEARCH_AGAIN, ConnectionLimits, Connections, allow_connections
from services.server.dispatcher import FairDispatcher
from services.server.listening import listening_sockets
from services.server.loop import Loop
from services.server.tls import Certificate
from services.server.waitress_internals import Adjustments, WaitressListener, close_sockets
from services.settings import Settings

log = logging.getLogger(__name__)

MAX_HEADER = 2**16
# Bytes read in one go. At least one TLS record (16 KiB): poll(2) does not report the rest of one that was read in part.
_READ = 2**16
# Bytes that the system buffers unsent for a slow reader; by default megabytes, and nobody can see whether they are read.
_UNSENT = 2**16
_BACKLOG = 1024
# Connections accepted in one round of the server's thread: enough to work a crowd off soon.
_ACCEPTS = 64
_CHECK_EVERY = 1.0
# Seconds without accepting after the system had no file for a connection.
_PAUSE = 1.0
# Accepted connections that may wait for room, and the seconds that they may. While so many wait, the next ones stay in the
# system's queue; if the first has waited longer than _QUEUE_SECONDS, more than short answers take, they are refused.
_PARKED, _PARK_SECONDS, _QUEUE_SECONDS = 128, 2.0, 0.5
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\nConnection: close\r\n\r\n"
    b'{"message": "the server has as many connections as it may, and answers on all of them"}\n'
)


class Listener(WaitressListener):
    """A listening socket. The server's thread owns it; any thread may call `add_task` and `pull_trigger`."""

    channel_class = Channel

    def __init__(
        self,
        app: Callable[..., Any],
        bound: socket.socket,
        dispatcher: FairDispatcher,
        adjustments: Adjustments,
        loop: Loop,
        connections: Connections,
        certificate: Certificate | None,
    ) -> None:
        self.loop = loop
        self.connections = connections
        self._certificate = certificate
        self._check_at = self._paused_until = 0.0
        self._has_waiting = False
        """True if connections wait in the system's queue."""
        self._serving = threading.local()
        """Its `channel` is the one that the thread answers."""
        self._parked: deque[tuple[socket.socket, Any, float]] = deque()
        """Accepted connections that wait for room: socket, address, deadline."""
        super().__init__(app, bound, loop.sockets, dispatcher, adjustments)

    def take(self) -> None:
        """Accept waiting connections, and once a second check the present ones. Called at the beginning of each round."""
        now = time.monotonic()
        try:
            if now >= self._check_at:
                self._check_at = now + _CHECK_EVERY
                self.maintenance(now)
            for _ in range(len(self._parked)):
                self._take(*self._parked.popleft())
                # Only now: a worker that ends an answer meanwhile wakes this thread.
                self.connections.n_parked -= 1
            if (self._has_waiting or self.loop.is_behind) and now >= self._paused_until:
                self._accept()
        except Exception:
            # An exception would end the thread that serves all connections.
            log.exception("connections could not be taken")

    @override
    def readable(self) -> bool:
        """Return whether to poll for new connections."""
        if self._parked:
            self.loop.poll_within(SEARCH_AGAIN)
        return time.monotonic() >= self._paused_until

    @override
    def handle_read(self) -> None:
        """Note that connections wait; `take` accepts them."""
        self._has_waiting = True

    @contextlib.contextmanager
    def waking_for(self, channel: Channel) -> Iterator[None]:
        """While this thread answers a request of `channel`, wake the server's thread only if there is work for it."""
        self._serving.channel = channel
        try:
            yield
        finally:
            self._serving.channel = None

    @override
    def pull_trigger(self) -> None:
        """Wake the server's thread; it need not be woken at the end of an answer that has been sent as a whole."""
        channel = getattr(self._serving, "channel", None)
        # Parked connections wait for the end of an answer.
        if channel is None or channel.needs_server or self.connections.n_parked:
            super().pull_trigger()

    @override
    def maintenance(self, now: float) -> None:
        """End the connections whose time is over, and renew the certificate if its file changed."""
        for channel in list(self.active_channels.values()):
            try:
                channel.check(now)
            except Exception:
                log.exception("a connection fails, and is closed")
                channel.handle_close()
        self.connections.forget()
        if self._certificate:
            self._certificate.refresh()

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            now = time.monotonic()
            if len(self._parked) >= _PARKED and now < self._parked[0][2] - _PARK_SECONDS + _QUEUE_SECONDS:
                return
            try:
                connection, address = self.socket.accept()
            except BlockingIOError:
                self._has_waiting = False
                return
            except ConnectionAbortedError:
                return
            except OSError as error:
                # Retrying at once would keep the thread busy with nothing else.
                self._paused_until = now + _PAUSE
                self.connections.shed()
                log.error("a connection could not be taken: %s", error.strerror)
                return
            self._take(connection, address, now + _PARK_SECONDS)

    def _take(self, connection: socket.socket, address: Any, deadline: float) -> None:
        try:
            # First, since it is cheap.
            if not self.connections.make_room(source_of(address[0])):
                # All are being answered, so there will be room soon.
                if len(self._parked) < _PARKED and time.monotonic() < deadline:
                    self._parked.append((connection, address, deadline))
                    self.connections.n_parked += 1
                else:
                    self._refuse(connection)
                return
            self.set_socket_options(connection)
            encrypted = self._certificate.encrypt(connection) if self._certificate else connection
            channel = Channel(self, encrypted, address, self.adj, map=self.loop.sockets)
        except OSError:
            # The client has disconnected already.
            connection.close()
            return
        # Its request may have arrived already, and a connection with a complete request is not dropped for the next one.
        self.loop.dispatch(channel, select.POLLIN)

    def _refuse(self, connection: socket.socket) -> None:
        with connection:
            if not self._certificate:
                connection.setblocking(False)
                with contextlib.suppress(OSError):
                    connection.send(_BUSY)
                    # Closing with unread data would reset the connection before the client reads the answer.
                    connection.recv(_READ)


class Server:
    """A listening server. One thread, mostly the main one, calls its methods."""

    def __init__(
        self, loop: Loop, listeners: Sequence[Listener], dispatcher: FairDispatcher, keyless_port: int | None = None
    ) -> None:
        self.port = int(listeners[0].effective_port)
        self.keyless_port = keyless_port
        """The port of the second address; None if there is none."""
        self._loop = loop
        self._listeners = listeners
        self._dispatcher = dispatcher

    def run(self) -> None:
        """Serve until SystemExit or KeyboardInterrupt."""
        try:
            self._loop.run([listener.take for listener in self._listeners])
        except (SystemExit, KeyboardInterrupt):
            self._dispatcher.shutdown()

    def close(self) -> None:
        """End the threads, and close all sockets."""
        self._dispatcher.shutdown()
        close_sockets(self._loop.sockets)


def make_server(app: Callable[..., Any], settings: Settings) -> Server:
    """Return a listening server for a WSGI application, with its worker threads started; `run` serves.

    Raises OSError if it cannot listen there, or cannot use the certificate.
    """
    certificate = Certificate(settings.cert, settings.cert_key) if settings.cert and settings.cert_key else None
    adjustments = Adjustments(
        threads=settings.threads,
        ident="",
        backlog=_BACKLOG,
        recv_bytes=_READ,
        inbuf_overflow=MAX_IN_MEMORY,
        outbuf_high_watermark=MAX_BUFFERED,
        max_request_header_size=MAX_HEADER,
        # The parser refuses smaller ones already: here the framing of chunks counts, which may be as large as they are.
        max_request_body_size=3 * most_bytes(UPLOADS[0]),
        url_scheme="https" if certificate else "http",
    )
    adjustments.socket_options = [*adjustments.socket_options, (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)]
    limits = ConnectionLimits(
        allow_connections(settings.connections),
        settings.address_connections,
        settings.address_requests,
        settings.address_handshakes,
    )
    dispatcher, connections, loop = FairDispatcher(), Connections(limits), Loop()
    with contextlib.ExitStack() as stack:
        bound = _bound(settings.host, settings.port, stack)
        second = settings.keyless
        keyless_sockets = _bound(second.host, second.port, stack) if second else []
        stack.pop_all()
    listeners = [Listener(app, each, dispatcher, adjustments, loop, connections, certificate) for each in bound]
    if second:
        served = keyless_app(app, second)
        listeners += [Listener(served, each, dispatcher, adjustments, loop, connections, None) for each in keyless_sockets]
    dispatcher.set_thread_count(settings.threads)
    return Server(loop, listeners, dispatcher, keyless_sockets[0].getsockname()[1] if keyless_sockets else None)


def _bound(host: str, port: int, stack: contextlib.ExitStack) -> list[socket.socket]:
    """Return the listening sockets of an address, which `stack` closes."""
    return [stack.enter_context(each) for each in listening_sockets(host, port)]
