"""The event loop of the server's thread: it polls all sockets, and serves those that are ready in turn.

waitress's own loop always serves the first sockets first, for as long as they have data, and wakes up for urgent data
(POLLPRI) that nobody reads.
"""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Callable, Sequence
from typing import Any

log = logging.getLogger(__name__)

# Seconds of reading and sending in one round. Then connections are accepted, and the sockets not yet served go first.
_ROUND = 0.02
# Seconds without an event after which a round ends, so that the connections' times are checked.
_WAIT = 1.0


class Loop:
    """All sockets by file descriptor: listeners, their triggers and connections. The server's thread runs it."""

    def __init__(self) -> None:
        self.sockets: dict[int, Any] = {}
        """The map of waitress, in the order in which the sockets are served."""
        self.drained_at = 0.0
        """Monotonic time at which no socket that was polled for reading had unread data."""
        self.is_behind = False
        """True if the last round ended before all sockets that were ready were served."""
        self._wait = _WAIT

    def run(self, take_connections: Sequence[Callable[[], None]]) -> None:
        """Serve until all sockets are closed; call `take_connections` at the beginning of each round."""
        while self.sockets:
            for take in take_connections:
                # Not within a round: a new connection may get a closed one's number, for which events are still listed.
                take()
            self._round()

    def poll_within(self, seconds: float) -> None:
        """End this round's wait after so many seconds. For a socket's `readable` and `writable`, which cannot say yet."""
        self._wait = min(self._wait, seconds)

    def dispatch(self, ready: Any, events: int) -> None:
        """Have a socket handle poll(2)'s events. An exception is logged and ends that socket only."""
        number = ready.socket.fileno()
        try:
            if events & select.POLLIN:
                ready.handle_read()
            if events & select.POLLOUT and number in self.sockets:
                ready.handle_write()
            if events & (select.POLLHUP | select.POLLERR | select.POLLNVAL) and number in self.sockets:
                ready.handle_close()
        except Exception:
            log.exception("a connection fails, and is closed")
            ready.handle_close()

    def _round(self) -> None:
        poll, self._wait = select.poll(), _WAIT
        for number, each in list(self.sockets.items()):
            # Resets are reported even for sockets that neither read nor write.
            poll.register(number, (select.POLLIN if each.readable() else 0) | (select.POLLOUT if each.writable() else 0))
        events = poll.poll(0)
        if not events:
            events = poll.poll(self._wait * 1000)
            self.drained_at = time.monotonic()
        now = time.monotonic()
        for number, event in events:
            if number in self.sockets:
                self.dispatch(self.sockets[number], event)
            if number in self.sockets:
                # Served sockets go to the end.
                self.sockets[number] = self.sockets.pop(number)
            if time.monotonic() > now + _ROUND:
                self.is_behind = True
                return
        self.drained_at, self.is_behind = now, False
