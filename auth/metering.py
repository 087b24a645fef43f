"""How much each key may ask for, and how much it has: limits that hold, and usage that is kept.

Tokens are held back for an answer before it begins, as many as it may take, and what it did not take is given back at its
end. So no number of requests at once gets past a limit; the last answer before it is cut short.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from math import ceil

from limits import RateLimitItemPerMinute
from limits.errors import StorageError
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import MovingWindowRateLimiter

from auth.identity import Identity, Limits
from auth.keys import KeyStore
from auth.usage import UsageStore, today
from services.backend import Spent
from services.errors import LimitPassed, Unavailable

log = logging.getLogger(__name__)

MEMORY = "memory://"
# Seconds by which the clock may be set back before the windows are begun anew: they would stay shut for as long.
_CLOCK_SLACK = 5.0


class Ticket:
    """One request of a key that is being computed. Owned by its thread."""

    def __init__(self, meter: Meter, key: str, identity: Identity | None) -> None:
        self._meter = meter
        self._key = key
        self.limits = identity.limits if identity else Limits()
        self.profiles = identity.profiles if identity else None
        """Which profiles it may use; None: every one, and every file."""
        self.held = 0
        """How many tokens are held back for it."""
        self.spent = Spent()
        """What it has cost in the end."""
        self.is_computed = False

    def cap(self, max_tokens: int) -> int:
        """As many tokens as one answer of this key may have, and no more than are asked for."""
        return min(max_tokens, self.limits.max_tokens or max_tokens)

    def hold(self, prompt_tokens: int, max_tokens: int) -> int:
        """Hold tokens back for an answer; return how many it may have. Raises LimitPassed where there is not one."""
        most = self._meter.room(self._key, self.limits, prompt_tokens, self.cap(max_tokens))
        self.held += prompt_tokens + most
        return most


class Meter:
    """Counts by the key's id.

    Any thread may call it; `_turn` protects the counts of what is under way. The minute's windows are the library's, in
    memory or in Redis; the day's tokens are those of the usage, which a restart does not forget.
    """

    def __init__(self, keys: KeyStore, usage: UsageStore, windows: str = MEMORY) -> None:
        """`windows` is where the minute's windows are kept, as the library `limits` names storages."""
        self._keys = keys
        self._usage = usage
        self._storage = storage_from_string(windows, wrap_exceptions=True)
        self._windows = MovingWindowRateLimiter(self._storage)
        self._turn = threading.Lock()
        self._open: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._clock = _clock()

    def profiles(self, key: str) -> tuple[str, ...] | None:
        """Which profiles a key may use; None: every one, and every file."""
        identity = self._keys.identity(key)
        return identity.profiles if identity else None

    @contextmanager
    def enter(self, key: str) -> Iterator[Ticket]:
        """Count a request of a key, and at its end what it has spent. Raises LimitPassed."""
        ticket = Ticket(self, key, self._keys.identity(key))
        limits = ticket.limits
        with self._turn:
            if limits.parallel and self._open[key] >= limits.parallel:
                what = f"this key may have {_n(limits.parallel, 'answer')} under way at once"
                raise LimitPassed(what, param="parallel", retry_after=1)
            self._open[key] += 1
        try:
            self._count_request(key, limits)
            yield ticket
            ticket.is_computed = True
        finally:
            # What is refused is no use; what went wrong half-way was one.
            if ticket.is_computed or ticket.spent != Spent():
                self._usage.add(key, ticket.spent)
                self._count_tokens(key, limits, ticket.spent)
            with self._turn:
                self._open[key] -= 1
                self._held[key] -= ticket.held
                for counts in (self._open, self._held):
                    if not counts[key]:
                        del counts[key]

    def room(self, key: str, limits: Limits, prompt_tokens: int, max_tokens: int) -> int:
        """Hold back a prompt's tokens and as many of `max_tokens` as there is room for; return how many of these."""
        with self._turn:
            most = max_tokens
            for name, limit, used, reset in self._token_windows(key, limits):
                left = limit - used - self._held[key] - prompt_tokens
                if left < 1:
                    raise LimitPassed(
                        _no_room(name, limit, used, self._held[key], prompt_tokens), param=name, retry_after=reset
                    )
                most = min(most, left)
            self._held[key] += prompt_tokens + most
        return most

    def headers(self, key: str, limits: Limits) -> dict[str, str]:
        """The x-ratelimit-* headers for a key, by OpenAI's names: limits, what is left of them, when some is free again."""
        headers: dict[str, str] = {}
        if limits.requests_per_minute:
            used, reset = self._window("requests", key, limits.requests_per_minute)
            headers |= _three("requests", limits.requests_per_minute, used, reset)
        for name, limit, used, reset in self._token_windows(key, limits):
            kind = "tokens" if name == "tokens_per_minute" else "tokens-day"
            headers |= _three(kind, limit, used + self._held[key], reset)
        if limits.parallel:
            left = max(limits.parallel - self._open[key], 0)
            headers |= {"x-ratelimit-limit-parallel": str(limits.parallel), "x-ratelimit-remaining-parallel": str(left)}
        return headers

    def _count_request(self, key: str, limits: Limits) -> None:
        if not limits.requests_per_minute:
            return
        with _reached():
            self._check_clock()
            if self._windows.hit(RateLimitItemPerMinute(limits.requests_per_minute), "requests", key):
                return
        _, reset = self._window("requests", key, limits.requests_per_minute)
        what = f"this key may send {_n(limits.requests_per_minute, 'request')} a minute"
        raise LimitPassed(what, param="requests_per_minute", retry_after=reset)

    def _count_tokens(self, key: str, limits: Limits, spent: Spent) -> None:
        n_tokens = spent.prompt_tokens + spent.completion_tokens
        if limits.tokens_per_minute and n_tokens:
            # The answer is out: it is not taken back for this.
            try:
                with _reached():
                    self._windows.hit(RateLimitItemPerMinute(limits.tokens_per_minute), "tokens", key, cost=n_tokens)
            except Unavailable as error:
                log.error("%s", error.message)

    def _token_windows(self, key: str, limits: Limits) -> Iterator[tuple[str, int, int, int]]:
        """Of each limit of tokens its name, itself, how many are used, and in how many seconds some are free again."""
        if limits.tokens_per_minute:
            yield "tokens_per_minute", limits.tokens_per_minute, *self._window("tokens", key, limits.tokens_per_minute)
        if limits.tokens_per_day:
            now = datetime.now(timezone.utc)
            midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), timezone.utc)
            used = self._usage.on(key, today()).tokens
            yield "tokens_per_day", limits.tokens_per_day, used, ceil((midnight - now).total_seconds())

    def _window(self, kind: str, key: str, limit: int) -> tuple[int, int]:
        """How many are used of a minute's window, and in how many seconds the first of them are free again."""
        with _reached():
            self._check_clock()
            found = self._windows.get_window_stats(RateLimitItemPerMinute(limit), kind, key)
        used = limit - found.remaining
        return used, min(max(ceil(found.reset_time - time.time()), 1), 60) if used else 1

    def _check_clock(self) -> None:
        if isinstance(self._storage, MemoryStorage) and _clock() < self._clock - _CLOCK_SLACK:
            self._storage.reset()
        self._clock = _clock()


def _clock() -> float:
    """By how many seconds the clock is ahead of one that nobody sets."""
    return time.time() - time.monotonic()


@contextmanager
def _reached() -> Iterator[None]:
    """Raise it as ours where the storage of the windows cannot be reached."""
    try:
        yield
    except StorageError as error:
        what = "the limits of keys cannot be counted: their storage cannot be reached"
        raise Unavailable(what, code="limits_unavailable", retry_after=5) from error


def _no_room(name: str, limit: int, used: int, held: int, prompt_tokens: int) -> str:
    span = "a minute" if name == "tokens_per_minute" else "a day (UTC)"
    so_far = f"{used} are used" + (f", {held} are held back for answers under way" if held else "")
    return f"this key may use {_n(limit, 'token')} {span}: {so_far}, and this prompt has {prompt_tokens}"


def _three(kind: str, limit: int, used: int, reset: int) -> dict[str, str]:
    values = {"limit": str(limit), "remaining": str(max(limit - used, 0)), "reset": f"{reset}s" if used else "0s"}
    return {f"x-ratelimit-{name}-{kind}": value for name, value in values.items()}


def _n(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' if count != 1 else ''}"
