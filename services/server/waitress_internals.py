"""The parts of waitress that this server is built from: waitress 3.0.2, which documents `serve` and its arguments only.

The other modules of this folder take waitress from here. Each class names the undocumented attributes that its subclasses
read or set, and calls the private methods that they need; a test compares all of that with the installed waitress.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from io import BytesIO
from typing import Any, Protocol

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.buffers import ReadOnlyFileBasedBuffer
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError, TransferEncodingNotImplemented
from waitress.receiver import ChunkedReceiver, FixedStreamReceiver
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher, WSGITask
from waitress.utilities import BadRequest, Error, RequestHeaderFieldsTooLarge, ServerNotImplemented

__all__ = [
    "Adjustments",
    "BadRequest",
    "ChunkedReceiver",
    "Error",
    "FixedStreamReceiver",
    "ParsingError",
    "RequestHeaderFieldsTooLarge",
    "ServerNotImplemented",
    "TaskQueue",
    "TransferEncodingNotImplemented",
    "WaitressChannel",
    "WaitressDispatcher",
    "WaitressErrorTask",
    "WaitressListener",
    "WaitressParser",
    "WaitressTask",
    "close_sockets",
]


class WaitressChannel(HTTPChannel):  # type: ignore[misc, unused-ignore]
    """A connection. The server's thread calls its `readable`, `writable` and `handle_…`, a worker thread its `service`."""

    server: Any
    adj: Any
    socket: Any
    connected: bool
    requests: list[Any]
    """The requests that wait for an answer, or are being answered; a worker removes its own last."""
    outbuf_lock: threading.Condition
    """Protects the output, which is sent by the server's thread and by the worker's."""
    total_outbufs_len: int
    """Bytes of output that the system has not taken yet."""
    sendbuf_len: int
    """Bytes that are handed to the system in one go."""
    close_when_flushed: bool
    will_close: bool

    def flush(self) -> None:
        """Send as much of the output as the system takes; an error of the socket sets `will_close`."""
        self._flush_exception(self._flush_some)

    def write_shared(self, data: bytes) -> int:
        """Write data that is sent from where it is, without a copy; see `write_soon`."""
        buffer = ReadOnlyFileBasedBuffer(BytesIO(data))
        buffer.prepare()
        return int(super().write_soon(buffer))


class WaitressParser(HTTPRequestParser):  # type: ignore[misc, unused-ignore]
    """One request: its header, and the receiver of its body."""

    version: str
    headers: dict[str, str]
    """The fields, by names in capitals with underscores."""
    header_plus: bytes
    """The header as far as it has come, until it is whole."""
    headers_finished: bool
    expect_continue: bool
    content_length: int
    body_rcv: FixedStreamReceiver | ChunkedReceiver | None
    body_bytes_received: int
    empty: bool
    completed: bool
    error: Error | None


class WaitressTask(WSGITask):  # type: ignore[misc, unused-ignore]
    """Answers a request by the application."""

    channel: Any
    wrote_header: bool

    def write(self, data: bytes) -> None:
        """Write a piece of the answer; the first one goes in one packet with the header."""
        if self.wrote_header:
            super().write(data)
            return
        with self.channel.joined():
            super().write(data)


class WaitressErrorTask(ErrorTask):  # type: ignore[misc, unused-ignore]
    """Answers a request that has an `error`, by `execute`."""

    request: Any
    status: str
    response_headers: list[tuple[str, str]]
    content_length: int | None


class TaskQueue(Protocol):
    """The calls that the dispatcher makes to its queue, under its lock."""

    def __len__(self) -> int: ...

    def append(self, channel: Any) -> None:
        """Add a channel whose request waits for a thread."""
        ...

    def popleft(self) -> Any:
        """Remove and return the channel to answer next."""
        ...


class WaitressDispatcher(ThreadedTaskDispatcher):  # type: ignore[misc, unused-ignore]
    """The threads that answer requests; none until `set_thread_count`."""

    def __init__(self, queue: TaskQueue) -> None:
        super().__init__()
        self.queue = queue


class WaitressListener(TcpWSGIServer):  # type: ignore[misc, unused-ignore]
    """A socket that takes connections, and the pipe by which any thread wakes the server's."""

    adj: Any
    socket: Any
    effective_port: int
    active_channels: dict[int, Any]

    def __init__(
        self,
        app: Callable[..., Any],
        bound: socket.socket,
        sockets: dict[int, Any],
        dispatcher: WaitressDispatcher,
        adjustments: Adjustments,
    ) -> None:
        """Listen on a bound socket; add it and the pipe to `sockets`, which waitress calls the map."""
        super().__init__(
            app,
            map=sockets,
            _sock=bound,
            dispatcher=dispatcher,
            adj=adjustments,
            sockinfo=(bound.family, bound.type, bound.proto, bound.getsockname()),
            bind_socket=False,
        )
        # A thread that waited for room in the pipe would wait for the one that empties it.
        os.set_blocking(self.trigger.trigger, False)

    def pull_trigger(self) -> None:
        """Wake the server's thread. Any thread may call it."""
        with contextlib.suppress(BlockingIOError):
            # A full pipe wakes it too.
            super().pull_trigger()


def close_sockets(sockets: dict[int, Any]) -> None:
    """Close all that are in the map, and empty it."""
    wasyncore.close_all(sockets)
