"""How many connections there may be, and which one makes room for the next."""

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
# So many connections a few browsers open. Addresses with no more are all alike where one has to make room; of those with
# more, the one with most does.
_FEW = 24
# Bytes that all requests which arrive, or wait for their answers, may take in memory.
MAX_HELD = 2**27
# Seconds after which it is looked anew who may be dropped, where nobody was found.
_LOOK_AGAIN = 0.01


class Connection(Protocol):
    """What a connection is asked about."""

    source: str
    """Whom it is counted for: its address, or that one's network."""
    is_handshaking: bool

    @property
    def is_open_request(self) -> bool:
        """Whether a request of it waits for its answer, or is being answered."""
        ...

    @property
    def is_body_arriving(self) -> bool:
        """Whether a request's header is whole, and its body is not."""
        ...

    @property
    def n_held(self) -> int:
        """Bytes of requests that it keeps in memory."""
        ...

    @property
    def n_unread(self) -> int:
        """Bytes that its client has not received, as far as is known."""
        ...

    def measure(self, now: float) -> None:
        """Note how its client goes on with reading and sending."""
        ...

    def spent(self, now: float) -> float | None:
        """Which part of the server's patience it has used up, 1.0 being all; None: it may not be dropped."""
        ...

    def abort(self) -> None:
        """End it at once, whatever is under way."""
        ...

    def refuse(self, refusal: Refusal) -> None:
        """Answer the request whose body arrives with a refusal, and let go of the body."""
        ...


@dataclass(frozen=True)
class ConnectionLimits:
    """How many connections there may be in all, and of one source: connections, open requests, handshakes; 0: any."""

    connections: int
    address_connections: int
    address_requests: int
    address_handshakes: int


class Connections:
    """All connections, by their source, owned by the server's thread.

    A newcomer is preferred to whoever keeps the server waiting longest: slow or half-open ones first, then idle ones. A
    request that is being answered is dropped only where its reader does not read.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._all: set[Connection] = set()
        self._by_source: defaultdict[str, set[Connection]] = defaultdict(set)
        self._worst: dict[tuple[str, str], list[tuple[float, Connection]]] = {}
        """Who was found to be next to be dropped, and what it had spent, by what needed room; the last is first."""
        self._nobody_until: dict[tuple[str, str], float] = {}
        """Until when nobody is looked for, since nobody was found."""

    def __len__(self) -> int:
        return len(self._all)

    def add(self, connection: Connection) -> None:
        """Count one that was accepted."""
        self._all.add(connection)
        self._by_source[connection.source].add(connection)

    def remove(self, connection: Connection) -> None:
        """Count it no longer."""
        self._all.discard(connection)
        if mine := self._by_source.get(connection.source):
            mine.discard(connection)
            if not mine:
                del self._by_source[connection.source]

    def forget(self) -> None:
        """Look anew who may be dropped. Every second: nobody is kept in memory for it who has gone."""
        self._worst.clear()
        self._nobody_until.clear()

    def make_room(self, source: str) -> bool:
        """Whether there is room for one more of this source; others are dropped for it where they may be."""
        mine, limits = self._by_source.get(source, set()), self._limits
        if limits.address_handshakes and len(mine) >= limits.address_handshakes:
            half_open = [connection for connection in mine if connection.is_handshaking]
            if len(half_open) >= limits.address_handshakes and not self._drop(("handshakes", source), half_open):
                return False
        if limits.address_connections and len(mine) >= limits.address_connections:
            return self._drop(("connections", source), mine)
        return len(self._all) < limits.connections or self._drop(("all", ""), self._all)

    def may_ask(self, source: str) -> bool:
        """Whether the source may have one more request open."""
        mine, most = self._by_source.get(source, set()), self._limits.address_requests
        return not most or len(mine) < most or sum(connection.is_open_request for connection in mine) < most

    def fit_into_memory(self) -> None:
        """Refuse a body that arrives, where all take too much: the largest one of the source that holds most."""
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
        """Drop one connection, where one may be."""
        self._drop(("all", ""), self._all)

    def _drop(self, purpose: tuple[str, str], candidates: Iterable[Connection]) -> bool:
        now = time.monotonic()
        # Looked for once for many: a flood would have every connection looked at for each of its own.
        worst = self._worst.setdefault(purpose, [])
        while now >= self._nobody_until.get(purpose, 0.0):
            if not worst:
                for one in candidates:
                    one.measure(now)
                worst[:] = [(spent, one) for one in candidates if (spent := one.spent(now)) is not None]
                # Who came just now has not used up much more, or less, than others: then it counts how much is unread.
                worst.sort(key=lambda pair: (self._excess(pair[1].source), round(pair[0], 2), pair[1].n_unread, pair[0]))
                # The better half is looked at again before one of them is dropped.
                del worst[: len(worst) // 2]
            if not worst:
                self._nobody_until[purpose] = now + _LOOK_AGAIN
                break
            spent, found = worst.pop()
            if found in self._all:
                found.measure(now)
                now_spent = found.spent(now)
                # Not one that has gone on since.
                if now_spent is not None and now_spent >= spent:
                    found.abort()
                    return True
        return False

    def _excess(self, source: str) -> int:
        """How many connections a source has beyond what a few browsers open."""
        return max(0, len(self._by_source[source]) - _FEW)


def allow_connections(wanted: int) -> int:
    """As many of the wanted connections as the system has files for, beside those that the server needs for itself.

    The process's limit is raised where it may be.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return wanted
    # Where there are few files in all, half of them.
    return min(wanted, max(soft - RESERVED_FILES, soft // 2, _LEAST))
