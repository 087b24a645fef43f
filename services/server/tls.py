"""TLS: a connection's socket that encrypts, and the certificate, which may be renewed while the server runs."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

# Seconds between two looks whether the certificate has been renewed.
_LOOK_EVERY = 30.0


class Certificate:
    """The server's certificate and its key, owned by the server's own thread."""

    def __init__(self, cert: Path, key: Path) -> None:
        """Raises OSError where the certificate or its key cannot be used."""
        self._files = (cert, key)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        # A client that has no more to say may leave without TLS's own goodbye, and is answered yet. What a request means
        # does not depend on it: HTTP says how long a request is.
        self._context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF | ssl.OP_NO_RENEGOTIATION
        self._load()
        self._seen = self._stamps()
        self._look_at = time.monotonic() + _LOOK_EVERY

    def encrypt(self, connection: socket.socket) -> TlsSocket:
        """The other side of a connection just accepted, whose handshake is still to be made. Raises OSError."""
        connection.setblocking(False)
        wrapped = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return TlsSocket(wrapped)

    def refresh(self) -> None:
        """Load the files again where they have changed; one that cannot be used is reported, and the old one stays."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_EVERY
        if (stamps := self._stamps()) != self._seen:
            self._seen = stamps
            try:
                self._load()
                log.info("the TLS certificate has been renewed")
            except OSError as error:
                log.error("the new TLS certificate cannot be used, the old one serves on: %s", error)

    def _load(self) -> None:
        try:
            # A pair that does not fit would leave the context without any.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*self._files)
            self._context.load_cert_chain(*self._files)
        except ssl.SSLError as error:
            what = f"{self._files[0]} and {self._files[1]} are no certificate and its key: {error.reason}"
            raise OSError(0, what) from error
        except OSError as error:
            raise OSError(
                error.errno or 0, f"{self._files[0]} or {self._files[1]} cannot be read: {error.strerror}"
            ) from error

    def _stamps(self) -> list[float]:
        with contextlib.suppress(OSError):
            return [file.stat().st_mtime for file in self._files]
        return []


class TlsSocket:
    """A non-blocking socket that encrypts. As with a plain one, BlockingIOError says "later" and OSError "never".

    The server's thread reads while another one writes, which OpenSSL does not take: `_lock` keeps them apart.
    """

    def __init__(self, wrapped: ssl.SSLSocket) -> None:
        self._ssl = wrapped
        self._lock = threading.Lock()
        self._is_open = False
        """Whether the handshake is made."""

    @property
    def has_begun(self) -> bool:
        """Whether the client has said what it speaks: until then a handshake costs it nothing."""
        return self._ssl.cipher() is not None

    def handshake(self) -> None:
        """Go on with the handshake. Raises BlockingIOError where more has to arrive first, OSError where it failed."""
        with self._lock, _plain_errors():
            self._ssl.do_handshake()
            self._is_open = True

    def recv(self, size: int) -> bytes:
        """At most `size` bytes; b"" once the client has no more to say. Raises BlockingIOError, OSError."""
        with self._lock, _plain_errors():
            return self._ssl.recv(size)

    def send(self, data: bytes) -> int:
        """How many of these bytes were taken. Raises BlockingIOError, OSError."""
        with self._lock, _plain_errors():
            return self._ssl.send(data)

    def shutdown(self, how: int) -> None:
        """Say goodbye, and end this side of the connection; what is read from then on is not deciphered. Raises OSError."""
        with self._lock:
            if self._is_open:
                with contextlib.suppress(OSError, ValueError):
                    self._ssl.unwrap()
            self._ssl.shutdown(how)

    def close(self) -> None:
        """Say goodbye, so that the client knows that nothing was cut off, and close. Raises OSError."""
        with self._lock:
            if self._is_open:
                with contextlib.suppress(OSError, ValueError):
                    self._ssl.unwrap()
            self._ssl.close()

    def getsockopt(self, level: int, option: int) -> int:
        """See socket.socket."""
        return self._ssl.getsockopt(level, option)

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        """See socket.socket."""
        self._ssl.setsockopt(level, option, value)

    def setblocking(self, flag: bool) -> None:
        """See socket.socket."""
        self._ssl.setblocking(flag)

    def fileno(self) -> int:
        """See socket.socket."""
        return self._ssl.fileno()


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
        raise BlockingIOError(errno.EWOULDBLOCK, "later") from error
    except (ssl.SSLError, ValueError) as error:
        raise ConnectionResetError(errno.ECONNRESET, str(error)) from error
