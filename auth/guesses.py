"""Typed keys are proven by stretching, which takes a core a tenth of a second: guesses do not get it at will."""

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
# How many keys are remembered that were wrong.
_KNOWN_WRONG = 1000


class Guesses:
    """Proves typed keys.

    Any thread may call it. `_lock` protects all that is remembered. One key is checked at a time: addresses take turns, and
    so do the keys of one. What was proven, or is known to be wrong, costs nothing more; it is remembered under a secret of
    this process.
    """

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._proven: set[bytes] = set()
        self._taken: set[str] = set()
        """Hashes whose keys are proven: they are of no other key."""
        self._wrong: OrderedDict[bytes, None] = OrderedDict()
        self._budget = GuessBudget()
        self._checks: dict[bytes, Future[str | None]] = {}
        """By what is known of a key and of the hashes, what will come of it."""
        self._waiting: Counter[str] = Counter()
        self._is_checking = False
        self._line: OrderedDict[str, deque[threading.Event]] = OrderedDict()
        """By address, the next first, who waits for a turn."""

    def known(self, key: str, hashes: Iterable[str]) -> str | None:
        """Which of these scrypt hashes is that of `key`, where it has been proven before."""
        mark = self._mark(key)
        with self._lock:
            return self._proven_by(mark, hashes)

    def find(self, key: str, hashes: Iterable[str], address: str | None) -> str | None:
        """Which of these scrypt hashes is that of `key`, which came from `address`; None: none of them.

        Raises RateLimitExceeded where too many wrong keys came from this address, Unavailable where too many are being
        checked.
        """
        hashes = tuple(hashes)
        mark = self._mark(key)
        whole, source = sha256(mark + "\n".join(hashes).encode()), source_of(address)
        with self._lock:
            if stored := self._proven_by(mark, hashes):
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
                self._check(key, hashes, mark, whole, source, found)
            return found.result()
        finally:
            with self._lock:
                self._waiting[source] -= 1
                # Addresses are as many as they like.
                self._waiting += Counter()

    def _check(
        self, key: str, hashes: tuple[str, ...], mark: bytes, whole: bytes, source: str, found: Future[str | None]
    ) -> None:
        self._await_turn(source)
        try:
            with self._lock:
                # Those before it may have been wrong.
                self._budget.ask(source, whole, time.monotonic(), takes=True)
                free = [stored for stored in hashes if stored not in self._taken]
            proven = _owner_of(key, free)
        except BaseException as error:
            with self._lock:
                del self._checks[whole]
                self._pass_on()
            found.set_exception(error)
            return
        with self._lock:
            if proven:
                self._proven.add(sha256(mark + proven.encode()))
                self._taken.add(proven)
            else:
                self._budget.spend(source, time.monotonic())
                self._wrong[whole] = None
                if len(self._wrong) > _KNOWN_WRONG:
                    self._wrong.popitem(last=False)
            del self._checks[whole]
            self._pass_on()
        found.set_result(proven)

    def _await_turn(self, source: str) -> None:
        turn = threading.Event()
        with self._lock:
            if not self._is_checking:
                self._is_checking = True
                return
            self._line.setdefault(source, deque()).append(turn)
        turn.wait()

    def _pass_on(self) -> None:
        """Give the turn to the next address. The lock is held."""
        self._is_checking = bool(self._line)
        if self._line:
            source, waiting = self._line.popitem(last=False)
            waiting.popleft().set()
            if waiting:
                self._line[source] = waiting

    def _proven_by(self, mark: bytes, hashes: Iterable[str]) -> str | None:
        return next((stored for stored in hashes if sha256(mark + stored.encode()) in self._proven), None)

    def _mark(self, key: str) -> bytes:
        return sha256(self._secret + sha256(key.encode()))


def _owner_of(key: str, hashes: Iterable[str]) -> str | None:
    """Which of these hashes is that of `key`. Those that share a salt, as they do, cost one stretching together."""
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
