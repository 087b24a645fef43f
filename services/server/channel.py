"""One connection: one request at a time, how long it may keep the server waiting, and when its client has left.

waitress reads all requests that have come, closes a connection only once all output has been sent, and takes the end of
what a client sends for its leaving.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import termios
import time
from io import BytesIO
from typing import Any

from waitress.buffers import ReadOnlyFileBasedBuffer

from auth.addresses import source_of
from services.server.parser import Refusal, RequestParser
from services.server.patience import Patience
from services.server.refusals import RefusingChannel
from services.server.tls import TlsSocket

# Seconds in which a TLS handshake and a request's header must have arrived whole, and those of an idle connection.
HANDSHAKE_SECONDS, ARRIVE_SECONDS, IDLE_SECONDS = 10.0, 30.0, 120.0
# Bytes of output that a stream may be ahead of its reader.
MAX_BUFFERED = 2**18
# A client that ends its side of the connection within so many seconds of its request has asked all that it wants to, and
# waits for the answer (a half-close); one that ends it later has left.
HALF_CLOSE_SECONDS = 0.5
# Seconds after which a client that has ended its side is asked by an interim response whether it is still there.
_ASK_AFTER = 10.0
_STILL_THERE = b"HTTP/1.1 102 Processing\r\n\r\n"
# What is sent in one go, and the size from which on an answer is not copied.
_BLOCK = 2**16
# Bytes that are read ahead of the answer under way; only so is it seen that the client leaves meanwhile.
_AHEAD = 2**14
# Whether all bodies together fit into memory is looked at after so many bytes of one: smaller ones always fit.
_STEP = 2**16


class Channel(RefusingChannel):
    """A connection, owned by the server's thread; a worker thread runs `service` and `write_soon`.

    There is one request at most in `requests`: while it is there a worker answers it, and only then. `outbuf_lock` protects
    what is to be sent.
    """

    request: RequestParser | None

    def __init__(self, server: Any, sock: Any, addr: Any, adj: Any, map: Any = None) -> None:
        now = time.monotonic()
        self.source = source_of(addr[0])
        self.is_handshaking = isinstance(sock, TlsSocket)
        self._unparsed = b""
        """What has come behind the request that is read or answered."""
        self._n_checked = 0
        """What `n_held` was when the memory of all was last looked at."""
        self._arriving_since: float | None = now
        """When the request began to come that is not whole yet; of a connection that sends nothing one is expected."""
        self._waiting_since = now
        """When it was last answered, or came whole."""
        self._is_half_closed = False
        self._readable_since: float | None = None
        self._has_written = False
        """Whether anything of the answer under way has been."""
        self._ask_at = 0.0
        self._n_sent = self._n_read = self._n_in_system = 0
        """Bytes handed to the system, those of them that the client had received when it was measured, and the others."""
        self._n_arrived = 0
        """Bytes of the body when it was measured."""
        self._reader, self._sender = Patience(now), Patience(now)
        super().__init__(server, sock, addr, adj, map=map)
        self.sendbuf_len = _BLOCK

    @property
    def is_open_request(self) -> bool:
        """See `Connection`."""
        return bool(self.requests)

    @property
    def is_body_arriving(self) -> bool:
        """See `Connection`."""
        return self.request is not None and bool(self.request.headers_finished)

    @property
    def n_held(self) -> int:
        """See `Connection`."""
        request = self.request or next(iter(self.requests), None)
        body = None if request is None else request.body_rcv
        return len(self._unparsed) + (0 if body is None else len(body))

    @property
    def n_unread(self) -> int:
        """See `Connection`."""
        return int(self.total_outbufs_len) + self._n_in_system

    def measure(self, now: float) -> None:
        """See `Connection`."""
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

    def spent(self, now: float) -> float | None:
        """See `Connection`."""
        if self.is_handshaking:
            begun = 1.0 if self.socket.has_begun else 0.0
            # Who has begun is ahead of those that only connect.
            return (now - self._waiting_since - begun) / (HANDSHAKE_SECONDS - begun)
        if self.n_unread:
            unread = self._reader.spent(now)
            # While it is answered only who really does not read may be dropped for others.
            return None if self.requests and unread < 0.5 else unread
        if self.requests:
            return None
        if self.is_body_arriving:
            return self._sender.spent(now)
        if self._arriving_since is not None:
            return (now - self._arriving_since) / ARRIVE_SECONDS
        return (now - self._waiting_since) / IDLE_SECONDS

    def look(self, now: float) -> None:
        """Measure how it goes on, and end it where its time is over. Every second."""
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
        elif self._is_half_closed and self.requests and now >= self._ask_at:
            self._ask_at = now + _ASK_AFTER
            self._ask_whether_still_there()

    def abort(self) -> None:
        """End it at once: what is unread is thrown away, and a thread that waits to write goes on."""
        is_answered = self._arriving_since is None and not self.requests
        # Where its client has received everything, a reset would throw that away before it is read.
        if not is_answered or self.n_unread:
            with contextlib.suppress(OSError):
                # The system, too, forgets what is unsent, and says so.
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.handle_close()

    def refuse(self, refusal: Refusal) -> None:
        """Answer the request that arrives with this, and end the connection."""
        assert self.request is not None
        self.request.refuse(refusal)
        self._ask()

    def add_channel(self, map: Any = None) -> None:
        """Count it."""
        super().add_channel(map)
        self.server.connections.add(self)

    def del_channel(self, map: Any = None) -> None:
        """Count it no longer."""
        super().del_channel(map)
        self.server.connections.remove(self)

    def readable(self) -> bool:
        """Whether what comes is read: the next request, or a little ahead of it."""
        is_over = not self.connected or self._is_half_closed or self.will_close or self.close_when_flushed
        is_readable = not is_over and len(self._unparsed) < _AHEAD
        if not is_readable:
            self._readable_since = None
        elif self._readable_since is None:
            self._readable_since = time.monotonic()
        return is_readable

    def writable(self) -> bool:
        """Whether there is something to send, to close, or to go on with once all is sent."""
        has_more = not self.requests and (self._unparsed or self._is_half_closed)
        return self.connected and bool(has_more or super().writable())

    def handle_read(self) -> None:
        """Read what has come, or that nothing more will."""
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
            self._hear_end()
        elif self.is_refused:
            self.discard(data)
        else:
            self._unparsed += data
            self._read_request()

    def handle_write(self) -> None:
        """Send on, and then read the next request."""
        super().handle_write()
        if self.connected and not self.requests and not self.total_outbufs_len:
            self._read_request()
            # `requests` first: a worker takes it out last.
            if self._is_half_closed and not self.requests and not self.total_outbufs_len and not self._unparsed:
                # It has asked all that it wanted to, and has been answered.
                self.handle_close()

    def send(self, data: bytes, do_close: bool = True) -> int:
        """Send what the system takes; return how many bytes that were. Only the server's thread closes it."""
        try:
            sent: int = self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self.will_close = True
            return 0
        self._n_sent += sent
        return sent

    def write_soon(self, data: Any) -> int:
        """Send, or keep until it can be sent; wait where too much is kept. Raises waitress's ClientDisconnected."""
        with self.outbuf_lock:
            self._has_written = True
        if isinstance(data, bytes) and len(data) > _BLOCK:
            # Thousands may ask for one file: each reads the same bytes.
            data = ReadOnlyFileBasedBuffer(BytesIO(data))
            data.prepare()
        return int(super().write_soon(data))

    def service(self) -> None:
        """Answer the request."""
        super().service()
        self._waiting_since = time.monotonic()

    def _read_request(self) -> None:
        """Read the next request as far as it has come, where the one before is answered and that has been sent."""
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
            if self.n_held >= self._n_checked + _STEP:
                self._n_checked = self.n_held
                self.server.connections.fit_into_memory()
            # It may have been refused just now.
            if self.request and request.completed:
                if not request.error and not self.server.connections.may_ask(self.source):
                    what = "this address has as many requests open as it may (--address-requests)"
                    request.refuse(Refusal(429, "Too Many Requests", what, "too_many_open_requests"))
                self._ask()
                return

    def _new_request(self) -> RequestParser:
        self._n_checked, self._n_arrived = len(self._unparsed), 0
        if self._arriving_since is None:
            self._arriving_since = time.monotonic()
        return RequestParser(self.adj)

    def _ask(self) -> None:
        """Let a worker answer the request that has come."""
        request, self.request = self.request, None
        assert request is not None
        self.is_refused = request.error is not None
        if self.is_refused:
            # What stands behind it is no request.
            self._unparsed = b""
        self._arriving_since, self._waiting_since = None, time.monotonic()
        self._has_written = False
        self.requests = [request]
        self.server.add_task(self)

    def _hear_end(self) -> None:
        """The client sends no more."""
        since, last_silent = self._readable_since, self.server.loop.nothing_else_at
        # The end may have come long ago, while this thread was held up; it had not when there was nothing else to read.
        may_be_soon = since is None or last_silent < since or last_silent - self._waiting_since <= HALF_CLOSE_SECONDS
        if (self.requests and may_be_soon) or self._unparsed or self.total_outbufs_len:
            self._is_half_closed = True
            self._ask_at = time.monotonic() + _ASK_AFTER
        else:
            self.handle_close()

    def _ask_whether_still_there(self) -> None:
        """Only writing shows whether a client that has ended its side has left: its system then refuses what comes."""
        with self.outbuf_lock:
            is_silent = not self._has_written and not self.total_outbufs_len
            request = next(iter(self.requests), None)
            # HTTP/1.0 knows no interim responses.
            if is_silent and request and request.version == "1.1":
                self.send(_STILL_THERE)

    def _count_in_system(self) -> int:
        """Bytes that the system keeps for the client, which has not received them."""
        with contextlib.suppress(OSError):
            return int(struct.unpack("i", fcntl.ioctl(self.socket.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0])
        return 0
