"""The limits on connections, and the choice of the connection that makes room for the next."""

from __future__ import annotations

import resource
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from services.server.parser import Refusal

# Files that the server opens beside its connections: sessions, tables, states, downloads, the engine's pipe, its triggers.
RESERVED_FILES = 500
_LEAST = 20
# A few browsers open so many connections. An address with no more is not preferred when one has to make room; of those
# with more, the one with most makes room.
_FEW = 24
# The most bytes of memory that all arriving and waiting requests may take.
MAX_HELD = 2**27
# Seconds before the next search for a connection to drop, after one that found none.
SEARCH_AGAIN = 0.01


class Connection(Protocol):
    """A connection, as the limits see it. Times are monotonic seconds."""

    source: str
    """The address that it is counted for, or that address's network."""
    is_handshaking: bool

    @property
    def is_open_request(self) -> bool:
        """True while one of its requests waits for an answer, or is being answered."""
        ...

    @property
    def is_body_arriving(self) -> bool:
        """True while a request's header is complete, and its body is not."""
        ...

    @property
    def n_held(self) -> int:
        """The bytes of requests that it keeps in memory."""
        ...

    @property
    def n_unread(self) -> int:
        """The bytes that its client has not received, as far as is known."""
        ...

    def measure(self, now: float) -> None:
        """Record the progress of its client's reading and sending."""
        ...

    def spent(self, now: float) -> float | None:
        """The share of its time that it has used up (1.0: all); None while it may not be dropped."""
        ...

    def abort(self) -> None:
        """End it at once, whatever is in flight."""
        ...

    def refuse(self, refusal: Refusal) -> None:
        """Answer the request whose body is arriving with a refusal, and drop the body."""
        ...


@dataclass(frozen=True)
class ConnectionLimits:
    """The most connections in all, and the most connections, open requests and handshakes of one source (0: no limit)."""

    connections: int
    address_connections: int
    address_requests: int
    address_handshakes: int


class Connections:
    """All connections by source, owned by the server's thread.

    A new connection takes the place of the one that has kept the server waiting longest: slow or half-open ones first, then
    idle ones. One whose request is being answered is dropped only if its client does not read.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self.n_parked = 0
        """Accepted connections that wait for room, of all listeners."""
        self._all: set[Connection] = set()
        self._by_source: defaultdict[str, set[Connection]] = defaultdict(set)
        self._worst: dict[tuple[str, str], list[tuple[float, Connection]]] = {}
        """The connections to drop next, each with its `spent`, by the limit that they make room under; from the end on."""
        self._search_at: dict[tuple[str, str], float] = {}
        """By limit, the earliest time of the next search, after one that found no connection to drop."""

    def __len__(self) -> int:
        return len(self._all)

    def add(self, connection: Connection) -> None:
        """Count an accepted connection."""
        self._all.add(connection)
        self._by_source[connection.source].add(connection)

    def remove(self, connection: Connection) -> None:
        """Stop counting a connection."""
        self._all.discard(connection)
        if mine := self._by_source.get(connection.source):
            mine.discard(connection)
            if not mine:
                del self._by_source[connection.source]

    def forget(self) -> None:
        """Forget the results of searches. Called every second, so that closed connections leave memory."""
        self._worst.clear()
        self._search_at.clear()

    def make_room(self, source: str) -> bool:
        """Make room for one more connection of this source, by dropping another if need be; False if that cannot be."""
        mine, limits = self._by_source.get(source, set()), self._limits
        if limits.address_handshakes and len(mine) >= limits.address_handshakes:
            half_open = [connection for connection in mine if connection.is_handshaking]
            if len(half_open) >= limits.address_handshakes and not self._drop(("handshakes", source), half_open):
                return False
        if limits.address_connections and len(mine) >= limits.address_connections:
            return self._drop(("connections", source), mine)
        return len(self._all) < limits.connections or self._drop(("all", ""), self._all)

    def may_open_request(self, source: str) -> bool:
        """Return whether the source may have one more request open."""
        mine, most = self._by_source.get(source, set()), self._limits.address_requests
        return not most or len(mine) < most or sum(connection.is_open_request for connection in mine) < most

    def fit_into_memory(self) -> None:
        """Refuse an arriving body if all take too much memory: the largest one of the source that holds most."""
        held = {connection: connection.n_held for connection in self._all}
        if sum(held.values()) <= MAX_HELD:
            return
        by_source: Counter[str] = Counter()
        for connection, n_held in held.items():
            by_source[connection.source] += n_held
        arriving = [connection for connection in held if connection.is_body_arriving]
        if arriving:
            largest = max(arriving, key=lambda connection: (by_source[connection.source], held[connection]))
            what = "too many large requests arrive at once, most of them from here; try again soon"
            largest.refuse(Refusal(503, "Service Unavailable", what, "too_busy"))

    def shed(self) -> None:
        """Drop one connection, if any may be dropped."""
        self._drop(("all", ""), self._all)

    def _drop(self, limit: tuple[str, str], candidates: Iterable[Connection]) -> bool:
        """Drop the worst of the candidates; return whether one could be dropped."""
        now = time.monotonic()
        # One search serves many: in a flood, each new connection would otherwise cost a look at all the others.
        worst = self._worst.setdefault(limit, [])
        while now >= self._search_at.get(limit, 0.0):
            if not worst:
                for one in candidates:
                    one.measure(now)
                worst[:] = [(spent, one) for one in candidates if (spent := one.spent(now)) is not None]
                # Connections of about the same age are told apart by the data that they leave unread.
                worst.sort(key=lambda pair: (self._excess(pair[1].source), round(pair[0], 2), pair[1].n_unread, pair[0]))
                # The better half is measured again before one of them is dropped.
                del worst[: len(worst) // 2]
            if not worst:
                self._search_at[limit] = now + SEARCH_AGAIN
                break
            spent, found = worst.pop()
            if found in self._all:
                found.measure(now)
                now_spent = found.spent(now)
                # One that has made progress since is spared.
                if now_spent is not None and now_spent >= spent:
                    found.abort()
                    return True
        return False

    def _excess(self, source: str) -> int:
        """The number of a source's connections beyond those that a few browsers open."""
        return max(0, len(self._by_source[source]) - _FEW)


def allow_connections(wanted: int) -> int:
    """The number of the wanted connections for which the system has files, beside those that the server needs itself.

    Raises the process's soft limit on open files as far as it may.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return wanted
    # Of a low limit, half.
    return min(wanted, max(soft - RESERVED_FILES, soft // 2, _LEAST))
