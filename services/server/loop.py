"""The loop of the server's own thread: it waits for all sockets, and lets those that can go on do so, in turn.

waitress's own loop lets the first ones go before the others, as long as they like, and wakes up for urgent data (POLLPRI)
that nobody reads.
"""

from __future__ import annotations

import logging
import select
import time
from typing import Any

log = logging.getLogger(__name__)

# Seconds of reading and sending in one round. Then newcomers are taken, and those go first who have not had their turn.
_ROUND = 0.02
# Seconds without any news after which a round ends, so that each connection's time is looked at.
_WAIT = 1.0


class Loop:
    """All sockets, by their numbers: listeners, their triggers and connections. The server's thread runs it."""

    def __init__(self) -> None:
        self.sockets: dict[int, Any] = {}
        """waitress calls it the map; who has gone on goes to the end of it."""
        self.listeners: list[Any] = []
        self.nothing_else_at = 0.0
        """By the monotonic clock: what is read now had not come yet, or just then; of the connections that were read."""

    def run(self) -> None:
        """Go on until all sockets are closed."""
        while self.sockets:
            for listener in self.listeners:
                # Now, since what the system tells of a connection must not meet the next one, which gets its number.
                listener.take()
            self._round()

    def let(self, one: Any, events: int) -> None:
        """Tell a socket what it can do now. What fails ends that one only, and is said once."""
        number = one.socket.fileno()
        try:
            if events & select.POLLIN:
                one.handle_read()
            if events & select.POLLOUT and number in self.sockets:
                one.handle_write()
            if events & (select.POLLHUP | select.POLLERR | select.POLLNVAL) and number in self.sockets:
                one.handle_close()
        except Exception:
            log.exception("a connection fails, and is closed")
            one.handle_close()

    def _round(self) -> None:
        poll = select.poll()
        for number, one in list(self.sockets.items()):
            # That it was reset is told in any case.
            poll.register(number, (select.POLLIN if one.readable() else 0) | (select.POLLOUT if one.writable() else 0))
        events = poll.poll(0)
        if not events:
            events = poll.poll(_WAIT * 1000)
            self.nothing_else_at = time.monotonic()
        now = time.monotonic()
        for number, event in events:
            if number in self.sockets:
                self.let(self.sockets[number], event)
            if number in self.sockets:
                # To the end of the line.
                self.sockets[number] = self.sockets.pop(number)
            if time.monotonic() > now + _ROUND:
                return
        self.nothing_else_at = now
