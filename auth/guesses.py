"""Checking typed keys, which takes a core a tenth of a second (scrypt): who guesses gets few checks."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from concurrent.futures import Future

from auth.addresses import source_of
from auth.guess_budget import GuessBudget
from auth.hashing import equal, sha256, stretch
from services.errors import Unavailable

# Requests that may wait for a check: in all, of one address, and of one from which many wrong keys came.
_WAITING = 40
_OF_ONE = 32
_OF_GUESSER = 4
# Wrong keys that are remembered.
_KNOWN_WRONG = 1000


class Guesses:
    """Checks typed keys.

    Any thread may call it. `_lock` protects all that is remembered. One key is checked at a time: addresses take turns, and
    so do the keys of one. A key that was checked costs nothing more; results are remembered under a secret of this process.
    """

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._proven: set[bytes] = set()
        self._taken: set[str] = set()
        """Hashes whose keys were found: no other key has them."""
        self._wrong: OrderedDict[bytes, None] = OrderedDict()
        self._budget = GuessBudget()
        self._checks: dict[bytes, Future[str | None]] = {}
        """The pending checks, by a digest of the key and the hashes."""
        self._waiting: Counter[str] = Counter()
        self._is_checking = False
        self._queue: OrderedDict[str, deque[threading.Event]] = OrderedDict()
        """The checks that wait, by address, the next address first."""

    def known(self, key: str, hashes: Iterable[str]) -> str | None:
        """Return the scrypt hash among these that is of `key`, as far as it was found before; else None."""
        digest = self._digest(key)
        with self._lock:
            return self._proven_by(digest, hashes)

    def find(self, key: str, hashes: Iterable[str], address: str | None) -> str | None:
        """Return the scrypt hash among these that is of `key`, which came from `address`; None if there is none.

        Raises RateLimitExceeded where too many wrong keys came from this address, Unavailable where too many are being
        checked.
        """
        hashes = tuple(hashes)
        digest = self._digest(key)
        whole, source = sha256(digest + "\n".join(hashes).encode()), source_of(address)
        with self._lock:
            if stored := self._proven_by(digest, hashes):
                return stored
            if whole in self._wrong:
                self._wrong.move_to_end(whole)
                return None
            found = self._checks.get(whole)
            is_first = found is None
            if is_first:
                self._budget.ask(source, whole, time.monotonic(), takes=False)
            most = _OF_GUESSER if self._budget.guesses(source, time.monotonic()) else _OF_ONE
            if self._waiting.total() >= _WAITING or self._waiting[source] >= most:
                raise _busy()
            if found is None:
                found = self._checks[whole] = Future()
            self._waiting[source] += 1
        try:
            if is_first:
                self._check(key, hashes, digest, whole, source, found)
            return found.result()
        finally:
            with self._lock:
                self._waiting[source] -= 1
                # Remove the zeros: there may be any number of addresses.
                self._waiting += Counter()

    def _check(
        self, key: str, hashes: tuple[str, ...], digest: bytes, whole: bytes, source: str, found: Future[str | None]
    ) -> None:
        self._await_check(source)
        try:
            with self._lock:
                # The keys before it may have been wrong.
                self._budget.ask(source, whole, time.monotonic(), takes=True)
                free = [stored for stored in hashes if stored not in self._taken]
            proven = _owner_of(key, free)
        except BaseException as error:
            with self._lock:
                del self._checks[whole]
                self._start_next()
            found.set_exception(error)
            return
        with self._lock:
            if proven:
                self._proven.add(sha256(digest + proven.encode()))
                self._taken.add(proven)
            else:
                self._budget.spend(source, time.monotonic())
                self._wrong[whole] = None
                if len(self._wrong) > _KNOWN_WRONG:
                    self._wrong.popitem(last=False)
            del self._checks[whole]
            self._start_next()
        found.set_result(proven)

    def _await_check(self, source: str) -> None:
        start = threading.Event()
        with self._lock:
            if not self._is_checking:
                self._is_checking = True
                return
            self._queue.setdefault(source, deque()).append(start)
        start.wait()

    def _start_next(self) -> None:
        """Start the check of the next address. The lock is held."""
        self._is_checking = bool(self._queue)
        if self._queue:
            source, waiting = self._queue.popitem(last=False)
            waiting.popleft().set()
            if waiting:
                self._queue[source] = waiting

    def _proven_by(self, digest: bytes, hashes: Iterable[str]) -> str | None:
        return next((stored for stored in hashes if sha256(digest + stored.encode()) in self._proven), None)

    def _digest(self, key: str) -> bytes:
        return sha256(self._secret + sha256(key.encode()))


def _owner_of(key: str, hashes: Iterable[str]) -> str | None:
    """Return the hash among these that is of `key`. Hashes that share a salt, as they do, cost one stretching together."""
    stretched: dict[str, str] = {}
    for stored in hashes:
        salt = stored.split(":")[1]
        if salt not in stretched:
            stretched[salt] = stretch(key, salt=bytes.fromhex(salt))
        if equal(stored, stretched[salt]):
            return stored
    return None


def _busy() -> Unavailable:
    what = "too many unknown keys are being checked; try again in a second"
    return Unavailable(what, param="Authorization", code="too_busy", retry_after=1)
