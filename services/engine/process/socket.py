"""Messages between the server and its engine's process, each behind its length in four bytes.

They are JSON objects, of the backend's own values as services/backend/codec.py writes them, or the binary ones of
updates.py.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import threading

from services.backend.codec import Message

_LENGTH = struct.Struct("<I")


def frame(message: Message) -> bytes:
    """Return the bytes of a message, its length before it."""
    return framed(json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))


def framed(data: bytes) -> bytes:
    """Return the bytes of a message that is encoded already, its length before it."""
    return _LENGTH.pack(len(data)) + data


def parse(data: bytes) -> Message:
    """Return the message that `frame` has encoded. Raises ValueError for what is no JSON object."""
    return dict(json.loads(data.decode("utf-8", "surrogatepass")))


class MessageSocket:
    """One end. Any thread may send; `_lock` keeps their messages apart. One thread receives."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader = connection.makefile("rb")
        self._lock = threading.Lock()

    def send(self, *messages: Message) -> None:
        """Send messages, in this order. Raises OSError where the other end is gone."""
        self.send_frames(b"".join(map(frame, messages)))

    def send_frames(self, frames: bytes) -> None:
        """Send the bytes of messages; wait while the other end does not read. Raises OSError where it is gone."""
        with self._lock:
            self._connection.sendall(frames)

    @property
    def has_input(self) -> bool:
        """True if bytes have come that are not received yet."""
        poll = select.poll()
        try:
            poll.register(self._connection, select.POLLIN)
        except ValueError:
            # It is closed.
            return False
        return bool(poll.poll(0))

    def receive(self) -> Message | None:
        """Return the next message, which is JSON; None where the other end is gone. Raises as `parse` does."""
        data = self.receive_data()
        return None if data is None else parse(data)

    def receive_data(self) -> bytes | None:
        """Return the next message as it is encoded; None where the other end is gone."""
        try:
            head = self._reader.read(_LENGTH.size)
            if len(head) < _LENGTH.size:
                return None
            (length,) = _LENGTH.unpack(head)
            data = self._reader.read(length)
        except (OSError, ValueError):
            # Closed on this side.
            return None
        return None if len(data) < length else data

    def close(self) -> None:
        """Close it: a thread that receives gets None, and one that sends an OSError."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        # The socket is closed once its reader is.
        self._reader.close()
        self._connection.close()
