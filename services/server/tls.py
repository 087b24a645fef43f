"""TLS: the encrypting socket of a connection, and the certificate, which may be renewed while the server runs."""

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

# Seconds between two checks for a renewed certificate.
_CHECK_EVERY = 30.0


class Certificate:
    """The server's certificate and its key, owned by the server's own thread."""

    def __init__(self, cert: Path, key: Path) -> None:
        """Load both files. Raises OSError if they cannot be used."""
        self._files = (cert, key)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        # A client may close its side without a close_notify alert and still be answered: HTTP itself says where a request
        # ends.
        self._context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF | ssl.OP_NO_RENEGOTIATION
        self._load()
        self._seen = self._stamps()
        self._check_at = time.monotonic() + _CHECK_EVERY

    def encrypt(self, connection: socket.socket) -> TlsSocket:
        """Wrap an accepted connection; its handshake is still to be made. Raises OSError."""
        connection.setblocking(False)
        wrapped = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return TlsSocket(wrapped)

    def refresh(self) -> None:
        """Reload the files if they have changed; a certificate that cannot be used is logged, and the old one stays."""
        now = time.monotonic()
        if now < self._check_at:
            return
        self._check_at = now + _CHECK_EVERY
        if (stamps := self._stamps()) != self._seen:
            self._seen = stamps
            try:
                self._load()
                log.info("the TLS certificate has been renewed")
            except OSError as error:
                log.error("the new TLS certificate cannot be used, the old one serves on: %s", error)

    def _load(self) -> None:
        try:
            # Tried first in another context: a pair that does not match would leave this one without any.
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
    """A non-blocking TLS socket with the methods of a plain one, whose errors it raises too: BlockingIOError and OSError.

    `_lock` serializes OpenSSL's calls: the server's thread reads while a worker writes.
    """

    def __init__(self, wrapped: ssl.SSLSocket) -> None:
        self._ssl = wrapped
        self._lock = threading.Lock()
        self._is_open = False
        """True once the handshake is complete."""

    @property
    def has_begun(self) -> bool:
        """True once the client has sent its ClientHello: until then a handshake costs it nothing."""
        return self._ssl.cipher() is not None

    def handshake(self) -> None:
        """Continue the handshake. Raises BlockingIOError until it is complete, OSError if it failed."""
        with self._lock, _plain_errors():
            self._ssl.do_handshake()
            self._is_open = True

    def recv(self, size: int) -> bytes:
        """Receive at most `size` bytes; b"" at the end of the client's data. Raises BlockingIOError, OSError."""
        with self._lock, _plain_errors():
            return self._ssl.recv(size)

    def send(self, data: bytes) -> int:
        """Send data; return the number of bytes taken. Raises BlockingIOError, OSError."""
        with self._lock, _plain_errors():
            return self._ssl.send(data)

    def shutdown(self, how: int) -> None:
        """Send close_notify, and shut the connection down; later reads are not decrypted. Raises OSError."""
        with self._lock:
            if self._is_open:
                with contextlib.suppress(OSError, ValueError):
                    self._ssl.unwrap()
            self._ssl.shutdown(how)

    def close(self) -> None:
        """Send close_notify, so that the client knows that it has everything, and close. Raises OSError."""
        with self._lock:
            if self._is_open:
                with contextlib.suppress(OSError, ValueError):
                    self._ssl.unwrap()
            self._ssl.close()

    def getsockopt(self, level: int, option: int) -> int:
        """Return an option of the socket. Raises OSError."""
        return self._ssl.getsockopt(level, option)

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        """Set an option of the socket. Raises OSError."""
        self._ssl.setsockopt(level, option, value)

    def setblocking(self, flag: bool) -> None:
        """Set whether calls block."""
        self._ssl.setblocking(flag)

    def fileno(self) -> int:
        """Return the file descriptor; -1 once closed."""
        return self._ssl.fileno()


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
        raise BlockingIOError(errno.EWOULDBLOCK, "later") from error
    except (ssl.SSLError, ValueError) as error:
        raise ConnectionResetError(errno.ECONNRESET, str(error)) from error
