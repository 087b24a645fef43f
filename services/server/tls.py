"""TLS before the plain server: what arrives encrypted is handed on to it, on this machine, and back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 10.0
_BLOCK = 2**16
# Seconds between two looks whether the certificate has been renewed.
_LOOK_EVERY = 30.0


class TlsFront:
    """Listens in a thread of its own, which owns everything here but `_peers`, which any thread may read.

    The plain server behind it believes nobody else: a connection that does not come from here is refused.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        """Raises OSError where the certificate or its key cannot be used."""
        self._files = (cert, key)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._load()
        self._peers: dict[str, str] = {}
        """Who is behind each connection to the plain server, by the port of this side of it."""
        self._inner = 0
        self._most = 0

    def only_behind_it(self, app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
        """The WSGI application `app` with the address of whoever asks, and for those only who ask through TLS."""

        def behind(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
            peer = self._peers.get(environ["REMOTE_PORT"])
            if peer is None:
                start("421 Misdirected Request", [("Content-Type", "text/plain")])
                return [b"This server is asked over https, on another port.\n"]
            environ["REMOTE_ADDR"] = environ["REMOTE_HOST"] = peer
            return app(environ, start)

        return behind

    def start(self, host: str, port: int, inner: int, most: int) -> int:
        """Listen at this address for the plain server on port `inner`, for so many connections at once; return the port.

        Raises OSError.
        """
        self._inner, self._most = inner, most
        listens: Future[int] = Future()
        threading.Thread(target=lambda: asyncio.run(self._serve(host, port, listens)), name="tls", daemon=True).start()
        return listens.result()

    async def _serve(self, host: str, port: int, listens: Future[int]) -> None:
        try:
            server = await asyncio.start_server(
                self._pass_on, host, port, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_SECONDS, backlog=256
            )
        except OSError as error:
            listens.set_exception(error)
            return
        listens.set_result(int(server.sockets[0].getsockname()[1]))
        seen = self._stamps()
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            if (stamps := self._stamps()) != seen:
                seen = stamps
                try:
                    self._load()
                    log.info("the TLS certificate has been renewed")
                except OSError as error:
                    log.error("the new TLS certificate cannot be used, the old one serves on: %s", error)

    async def _pass_on(self, outer_in: asyncio.StreamReader, outer_out: asyncio.StreamWriter) -> None:
        """One connection, for as long as both sides have it open."""
        if len(self._peers) >= self._most:
            outer_out.transport.abort()
            return
        try:
            inner_in, inner_out = await asyncio.open_connection("127.0.0.1", self._inner, local_addr=("127.0.0.1", 0))
        except OSError:
            outer_out.transport.abort()
            return
        port = str(inner_out.get_extra_info("sockname")[1])
        self._peers[port] = outer_out.get_extra_info("peername")[0]
        inner_out.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ways = [asyncio.ensure_future(_pump(outer_in, inner_out)), asyncio.ensure_future(_pump(inner_in, outer_out))]
        try:
            # The plain server ends a connection, or the client leaves: either way that is all.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for writer in (inner_out, outer_out):
                writer.close()
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                await inner_out.wait_closed()
            del self._peers[port]

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


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while block := await source.read(_BLOCK):
            sink.write(block)
            await sink.drain()
