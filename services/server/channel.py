"""One connection: it takes one request at a time, limits a slow client's time, and notices when the client disconnects.

waitress alone would read all pipelined requests ahead, close a connection only once all output has been sent, and take a
half-closed connection for a disconnect.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import termios
import time
from collections.abc import Iterator
from typing import Any

from typing_extensions import override

from auth.addresses import source_of
from services.api.http.bodies import MAX_BODY
from services.server.connections import Connection
from services.server.parser import Refusal, RequestParser
from services.server.patience import Patience
from services.server.refusals import RefusingChannel
from services.server.tls import TlsSocket
from services.server.waitress_internals import WaitressTask

# Seconds in which a TLS handshake and a request's header must be complete, and for which a connection may be idle.
HANDSHAKE_SECONDS, ARRIVE_SECONDS, IDLE_SECONDS = 10.0, 30.0, 120.0
# Bytes of output that a stream may be ahead of its reader.
MAX_BUFFERED = 2**18
# A client that shuts its sending side down within so many seconds of its request waits for the answer (a half-close); one
# that does so later has left.
HALF_CLOSE_SECONDS = 0.5
# Seconds between two interim responses that probe whether a half-closed client is still there.
_PROBE_EVERY = 10.0
_PROBE = b"HTTP/1.1 102 Processing\r\n\r\n"
# Bytes sent in one go; a larger piece of an answer is not copied.
_BLOCK = 2**16
# Bytes read ahead while a request is answered: without reading, a disconnect would not be noticed.
_READ_AHEAD = 2**14
# Seconds in which a worker sends a piece of an answer, mostly.
_SENDING = 0.001
# Bodies of more bytes are kept on disk: a temporary file for each would use up the files that others need. So many of their
# bytes count as one in memory.
MAX_IN_MEMORY, _ON_DISK = 3 * MAX_BODY, 8
# Bytes of one body between two checks that all bodies together fit into memory: smaller ones always fit.
_CHECK_EVERY = 2**16


def _held(n_bytes: int) -> int:
    """Return how many bytes of memory a body counts as: a large one is kept on disk, of which there is more."""
    return n_bytes if n_bytes <= MAX_IN_MEMORY else max(MAX_IN_MEMORY, n_bytes // _ON_DISK)


class Channel(RefusingChannel, Connection):
    """A connection, owned by the server's thread; a worker thread runs `service` and `write_soon`.

    `requests` holds at most one request, and does so exactly while a worker answers it. `outbuf_lock` protects the output.
    """

    task_class = WaitressTask
    request: RequestParser | None

    def __init__(self, server: Any, sock: Any, addr: Any, adj: Any, map: Any = None) -> None:
        now = time.monotonic()
        self.source = source_of(addr[0])
        self.is_handshaking = isinstance(sock, TlsSocket)
        self._unparsed = b""
        """Data received behind the request that is being read or answered."""
        self._n_checked = 0
        """`n_held` at the last check that all bodies fit into memory."""
        self._arriving_since: float | None = now
        """Start of the incomplete request; a new connection counts as the start of one. None: no request is expected."""
        self._waiting_since = now
        """Time of the last complete request or answer."""
        self._is_half_closed = False
        self._readable_since: float | None = None
        self._has_written = False
        """True once part of the current answer has been written."""
        self._held: list[Any] | None = None
        """The pieces that are written as one, while they come."""
        self._probe_at = 0.0
        self._n_sent = self._n_read = self._n_in_system = 0
        """Bytes handed to the system in all; at the last `measure`, those that the client had received, and the rest."""
        self._n_arrived = 0
        """Bytes of the body at the last `measure`."""
        self._reader, self._sender = Patience(now), Patience(now)
        super().__init__(server, sock, addr, adj, map=map)
        self.sendbuf_len = _BLOCK

    @property
    @override
    def is_open_request(self) -> bool:
        return bool(self.requests)

    @property
    @override
    def is_body_arriving(self) -> bool:
        return self.request is not None and bool(self.request.headers_finished)

    @property
    @override
    def n_held(self) -> int:
        request = self.request or next(iter(self.requests), None)
        body = None if request is None else request.body_rcv
        return len(self._unparsed) + (0 if body is None else _held(len(body)))

    @property
    @override
    def n_unread(self) -> int:
        return int(self.total_outbufs_len) + self._n_in_system

    @override
    def measure(self, now: float) -> None:
        is_sent = not self.total_outbufs_len
        if is_sent and self._n_read == self._n_sent:
            self._n_in_system = 0
            self._reader.renew(now)
        else:
            n_sent = self._n_sent
            self._n_in_system = self._count_in_system()
            n_read = max(self._n_read, n_sent - self._n_in_system)
            self._reader.measure(now, n_read - self._n_read)
            self._n_read = n_read
            if is_sent and not self._n_in_system:
                self._reader.renew(now)
        if self.request and self.is_body_arriving:
            n_arrived = self.request.body_bytes_received
            self._sender.measure(now, n_arrived - self._n_arrived)
            self._n_arrived = n_arrived

    @override
    def spent(self, now: float) -> float | None:
        if self.is_handshaking:
            begun = 1.0 if self.socket.has_begun else 0.0
            # A client that has begun the handshake is preferred to those that only connected.
            return (now - self._waiting_since - begun) / (HANDSHAKE_SECONDS - begun)
        if self.n_unread:
            unread = self._reader.spent(now)
            # While it is answered, a connection may be dropped for others only if its client hardly reads.
            return None if self.requests and unread < 0.5 else unread
        if self.requests:
            return None
        if self.is_body_arriving:
            return self._sender.spent(now)
        if self._arriving_since is not None:
            return (now - self._arriving_since) / ARRIVE_SECONDS
        return (now - self._waiting_since) / IDLE_SECONDS

    def check(self, now: float) -> None:
        """Measure its progress, and end it where its time is over. Called every second."""
        self.measure(now)
        spent = self.spent(now)
        if self.has_lingered(now):
            self.handle_close()
        elif spent is not None and spent >= 1:
            if self.is_body_arriving and not self.total_outbufs_len:
                what = "the body comes too slowly: less than 1 KiB a second, for half a minute"
                self.refuse(Refusal(408, "Request Timeout", what, "request_timeout"))
            else:
                self.abort()
        elif self._is_half_closed and self.requests and now >= self._probe_at:
            self._probe_at = now + _PROBE_EVERY
            self._probe_client()

    @override
    def abort(self) -> None:
        """End it at once: unread data is thrown away, and a thread that waits to write goes on."""
        is_answered = self._arriving_since is None and not self.requests
        # If the client has received everything, a reset would throw that away before it is read.
        if not is_answered or self.n_unread:
            with contextlib.suppress(OSError):
                # Closing resets the connection, and the system drops the unsent data.
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.handle_close()

    @override
    def refuse(self, refusal: Refusal) -> None:
        assert self.request is not None
        self.request.refuse(refusal)
        self._start_answer()

    @override
    def add_channel(self, map: Any = None) -> None:
        """Add it to the map of sockets and to the connections."""
        super().add_channel(map)
        self.server.connections.add(self)

    @override
    def del_channel(self, map: Any = None) -> None:
        """Remove it from the map of sockets and from the connections."""
        super().del_channel(map)
        self.server.connections.remove(self)

    @override
    def readable(self) -> bool:
        """Return whether to read: the next request, or a little ahead."""
        is_over = not self.connected or self._is_half_closed or self.will_close or self.close_when_flushed
        is_readable = not is_over and len(self._unparsed) < _READ_AHEAD
        if not is_readable:
            self._readable_since = None
        elif self._readable_since is None:
            self._readable_since = time.monotonic()
        return is_readable

    @override
    def writable(self) -> bool:
        """Return whether there is output to send, a connection to close, or a next request to read."""
        if self.requests and self.total_outbufs_len:
            if not self.outbuf_lock.acquire(blocking=False):
                # The worker is sending. Polling at once for what it has not sent yet would keep it from going on.
                self.server.loop.poll_within(_SENDING)
                return False
            self.outbuf_lock.release()
        has_more = not self.requests and (self._unparsed or self._is_half_closed)
        return self.connected and bool(has_more or super().writable())

    @override
    def handle_read(self) -> None:
        """Continue the handshake, or read the data that has arrived or the end of it."""
        try:
            if self.is_handshaking:
                self.socket.handshake()
                self.is_handshaking, self._arriving_since = False, time.monotonic()
            data = self.socket.recv(self.adj.recv_bytes)
        except BlockingIOError:
            return
        except OSError:
            self.handle_close()
            return
        if not data:
            self._handle_end()
        elif self.is_refused:
            self.discard(data)
        else:
            self._unparsed += data
            self._read_request()

    @override
    def handle_write(self) -> None:
        """Send more of the output; once all is sent, read the next request."""
        super().handle_write()
        if self.connected and not self.requests and not self.total_outbufs_len:
            self._read_request()
            # `requests` first: a worker removes its request last.
            if self._is_half_closed and not self.requests and not self.total_outbufs_len and not self._unparsed:
                # All of a half-closed client's requests are answered.
                self.handle_close()

    @override
    def send(self, data: bytes, do_close: bool = True) -> int:
        """Send as much as the system takes; return the number of bytes. Never closes it: the server's thread does."""
        try:
            sent: int = self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self.will_close = True
            return 0
        self._n_sent += sent
        return sent

    @override
    def write_soon(self, data: Any) -> int:
        """Send or buffer data; wait where too much is buffered. Raises waitress's ClientDisconnected."""
        if self._held is not None:
            self._held.append(data)
            return len(data)
        with self.outbuf_lock:
            self._has_written = True
        if isinstance(data, bytes) and len(data) > _BLOCK:
            # Thousands of clients may load one file at once: they share its bytes.
            return self.write_shared(data)
        return int(super().write_soon(data))

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Write what is written meanwhile as one piece, where that is short. Runs on a worker thread."""
        held = self._held = list[Any]()
        try:
            yield
        finally:
            self._held = None
            for piece in [b"".join(held)] if sum(len(piece) for piece in held) <= _BLOCK else held:
                self.write_soon(piece)

    @override
    def service(self) -> None:
        """Answer the request. Runs on a worker thread."""
        with self.server.waking_for(self):
            super().service()
        self._waiting_since = time.monotonic()

    @property
    def needs_server(self) -> bool:
        """True if the server's thread has to send more of the output, to close it, or to read what has arrived."""
        return bool(
            self.total_outbufs_len or self.will_close or self.close_when_flushed or self._unparsed or self._is_half_closed
        )

    def _read_request(self) -> None:
        """Parse the next request as far as it has arrived, once the answer before it has been sent."""
        while not (self.requests or self.total_outbufs_len or self.close_when_flushed or self.will_close):
            if self.request is None:
                # Empty lines before a request mean nothing (RFC 9112, 2.2).
                self._unparsed = self._unparsed.lstrip(b"\r\n")
            if not self._unparsed:
                break
            self.request = request = self.request or self._new_request()
            had_header = request.headers_finished
            self._unparsed = self._unparsed[request.received(self._unparsed) :]
            if request.headers_finished and not had_header:
                self._sender.renew(time.monotonic())
            if request.expect_continue and request.headers_finished:
                self.send_continue()
            if self.n_held >= self._n_checked + _CHECK_EVERY:
                self._n_checked = self.n_held
                self.server.connections.fit_into_memory()
            # That check may have refused it.
            if self.request and request.completed:
                if not request.error and not self.server.connections.may_open_request(self.source):
                    what = "this address has as many requests open as it may"
                    request.refuse(Refusal(429, "Too Many Requests", what, "too_many_open_requests"))
                self._start_answer()
                return

    def _new_request(self) -> RequestParser:
        self._n_checked, self._n_arrived = len(self._unparsed), 0
        if self._arriving_since is None:
            self._arriving_since = time.monotonic()
        return RequestParser(self.adj)

    def _start_answer(self) -> None:
        """Hand the complete request to a worker."""
        request, self.request = self.request, None
        assert request is not None
        self.is_refused = request.error is not None
        if self.is_refused:
            # The data behind a refused request is not parsed as another one.
            self._unparsed = b""
        self._arriving_since, self._waiting_since = None, time.monotonic()
        self._has_written = False
        self.requests = [request]
        self.server.add_task(self)

    def _handle_end(self) -> None:
        """Handle the end of the client's data: a half-close or a disconnect."""
        since, last_drained = self._readable_since, self.server.loop.drained_at
        # The end may have arrived long ago, while this thread was busy; it had not when all sockets were last drained.
        may_be_soon = since is None or last_drained < since or last_drained - self._waiting_since <= HALF_CLOSE_SECONDS
        if (self.requests and may_be_soon) or self._unparsed or self.total_outbufs_len:
            self._is_half_closed = True
            self._probe_at = time.monotonic() + _PROBE_EVERY
        else:
            self.handle_close()

    def _probe_client(self) -> None:
        """Send an interim response: only writing shows whether a half-closed client has left, as its system then resets."""
        with self.outbuf_lock:
            is_unanswered = not self._has_written and not self.total_outbufs_len
            request = next(iter(self.requests), None)
            # HTTP/1.0 knows no interim responses.
            if is_unanswered and request and request.version == "1.1":
                self.send(_PROBE)

    def _count_in_system(self) -> int:
        """The bytes in the system's send queue: those that the client has not received (tcp(7), TIOCOUTQ)."""
        with contextlib.suppress(OSError):
            return int(struct.unpack("i", fcntl.ioctl(self.socket.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0])
        return 0
