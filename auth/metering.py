"""How much each key may ask for, and how much it has: limits that hold, and usage that is kept.

Tokens are held back for an answer before it begins, as many as it may take, and what it did not take is given back at its
end. So no number of requests at once gets past a limit; the last answer before it is cut short.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from math import ceil
from typing import Any

from limits import RateLimitItemPerMinute
from limits.errors import StorageError
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import MovingWindowRateLimiter

from auth.identity import Identity, Limits
from auth.keys import KeyStore
from auth.under_way import LocalUnderWay, UnderWay
from auth.usage import Usage, today
from services.backend import Spent
from services.errors import LimitPassed, Unavailable

log = logging.getLogger(__name__)

MEMORY = "memory://"
# Seconds by which the clock may be set back before the windows are begun anew: they would stay shut for as long.
_CLOCK_SLACK = 5.0
# Seconds in which a storage elsewhere answers.
_PATIENCE = 2.0


class Ticket:
    """One request of a key that is being computed. Owned by its thread."""

    def __init__(self, meter: Meter, accounts: Sequence[Identity]) -> None:
        """`accounts` are the key and those by which it was minted: it may use no more than what they have left."""
        self._meter = meter
        self.accounts = accounts
        self.profiles = accounts[0].profiles if accounts else None
        """Which profiles it may use; None: every one, and every file."""
        self.id = uuid.uuid4().hex
        self.spent = Spent()
        """What it has cost in the end."""
        self.is_counted = False
        self.is_computed = False

    def cap(self, max_tokens: int) -> int:
        """As many tokens as one answer of this key may have, and no more than are asked for."""
        return min(max_tokens, *(account.limits.max_tokens or max_tokens for account in self.accounts), max_tokens)

    def hold(self, prompt_tokens: int, max_tokens: int) -> int:
        """Hold tokens back for an answer; return how many it may have. Raises LimitPassed where there is not one."""
        most = self.cap(max_tokens)
        for account in self.accounts:
            most = self._meter.room(account, self.id, prompt_tokens, most)
        if not self.is_counted:
            # Only now: what is refused for other reasons, and tried again, is not counted each time.
            self.is_counted = True
            for account in self.accounts:
                self._meter.count_request(account)
        return most


class Meter:
    """Counts by the key's id.

    Any thread may call it. The minute's windows are the library's, in memory or in Redis; the day's tokens are those of the
    usage, which a restart does not forget.
    """

    def __init__(
        self,
        keys: KeyStore,
        usage: Usage,
        windows: str = MEMORY,
        under_way: UnderWay | None = None,
        prefix: str = "LIMITS",
    ) -> None:
        """`windows` is where the minute's windows are kept, as the library `limits` names storages; `prefix`, in Redis.

        `under_way` is a cluster's count of what is under way; that of a server by itself is in memory.
        """
        self._keys = keys
        self._usage = usage
        patience = {} if windows == MEMORY else _elsewhere(prefix)
        self._storage = storage_from_string(windows, wrap_exceptions=True, **patience)
        self._windows = MovingWindowRateLimiter(self._storage)
        self._under_way = under_way or LocalUnderWay()
        self._clock = _clock()

    def profiles(self, key: str) -> tuple[str, ...] | None:
        """Which profiles a key may use; None: every one, and every file."""
        identity = self._keys.identity(key)
        return identity.profiles if identity else None

    @contextmanager
    def enter(self, key: str) -> Iterator[Ticket]:
        """Let a request of a key begin, and count at its end what it has spent. Raises LimitPassed."""
        ticket = Ticket(self, self._keys.chain(key))
        for account in ticket.accounts:
            self._ask_for_request(account, self._windows.test)
        begun: list[Identity] = []
        try:
            for account in ticket.accounts:
                if not _counts(account.limits):
                    continue
                most = account.limits.parallel
                if not self._under_way.begin(account.id, ticket.id, most):
                    what = f"this key may have {_n(most or 0, 'answer')} under way at once"
                    raise LimitPassed(what, param="parallel", retry_after=1)
                begun.append(account)
            yield ticket
            ticket.is_computed = True
        finally:
            try:
                # What is refused is no use; what went wrong half-way was one.
                if ticket.is_computed or ticket.spent != Spent():
                    self._usage.add(key, ticket.spent)
                    for account in ticket.accounts:
                        self._count_tokens(account, ticket.spent)
            finally:
                for account in begun:
                    self._under_way.end(account.id, ticket.id)

    def room(self, account: Identity, ticket: str, prompt_tokens: int, max_tokens: int) -> int:
        """Hold back a prompt's tokens and as many of `max_tokens` as there is room for; return how many of these."""
        most = max_tokens
        if not _counts(account.limits):
            return most
        with self._under_way.alone(account.id):
            held = self._under_way.held(account.id)
            for name, limit, used, reset in self._token_windows(account.id, account.limits):
                left = limit - used - held - prompt_tokens
                if left < 1:
                    raise LimitPassed(_no_room(name, limit, used, held, prompt_tokens), param=name, retry_after=reset)
                most = min(most, left)
            self._under_way.hold(account.id, ticket, prompt_tokens + most)
        return most

    def headers(self, key: str, limits: Limits) -> dict[str, str]:
        """The x-ratelimit-* headers for a key, by OpenAI's names: limits, what is left of them, when some is free again."""
        headers: dict[str, str] = {}
        if limits.requests_per_minute:
            used, reset = self._window("requests", key, limits.requests_per_minute)
            headers |= _three("requests", limits.requests_per_minute, used, reset)
        for name, limit, used, reset in self._token_windows(key, limits):
            kind = "tokens" if name == "tokens_per_minute" else "tokens-day"
            headers |= _three(kind, limit, used + self._under_way.held(key), reset)
        if limits.parallel:
            left = max(limits.parallel - self._under_way.count(key), 0)
            headers |= {"x-ratelimit-limit-parallel": str(limits.parallel), "x-ratelimit-remaining-parallel": str(left)}
        return headers

    def count_request(self, account: Identity) -> None:
        """Count a request that is about to be computed. Raises LimitPassed."""
        self._ask_for_request(account, self._windows.hit)

    def _ask_for_request(self, account: Identity, take: Callable[..., bool]) -> None:
        """Raises LimitPassed where `take`, of the windows, says that there is no room for a request."""
        most = account.limits.requests_per_minute
        if not most:
            return
        with _reached():
            self._check_clock()
            if take(RateLimitItemPerMinute(most), "requests", account.id):
                return
        _, reset = self._window("requests", account.id, most)
        what = f"this key may send {_n(most, 'request')} a minute"
        raise LimitPassed(what, param="requests_per_minute", retry_after=reset)

    def _count_tokens(self, account: Identity, spent: Spent) -> None:
        n_tokens, most = spent.prompt_tokens + spent.completion_tokens, account.limits.tokens_per_minute
        if not most or not n_tokens:
            return
        # The answer is out: it is not taken back for this.
        try:
            with _reached():
                item = RateLimitItemPerMinute(most)
                if not self._windows.hit(item, "tokens", account.id, cost=n_tokens):
                    # Another server has used them meanwhile: what fits is counted.
                    left = self._windows.get_window_stats(item, "tokens", account.id).remaining
                    self._windows.hit(item, "tokens", account.id, cost=max(left, 1))
        except Unavailable as error:
            log.error("%s", error.message)

    def _token_windows(self, key: str, limits: Limits) -> Iterator[tuple[str, int, int, int]]:
        """Of each limit of tokens its name, itself, how many are used, and in how many seconds some are free again."""
        if limits.tokens_per_minute:
            yield "tokens_per_minute", limits.tokens_per_minute, *self._window("tokens", key, limits.tokens_per_minute)
        if limits.tokens_per_day:
            now = datetime.now(timezone.utc)
            midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), timezone.utc)
            used = sum(self._usage.on(each, today()).tokens for each in self._keys.family(key))
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


def _elsewhere(prefix: str) -> dict[str, Any]:
    return {"socket_timeout": _PATIENCE, "socket_connect_timeout": _PATIENCE, "key_prefix": prefix}


def _counts(limits: Limits) -> bool:
    """Whether it matters what is under way of a key."""
    return bool(limits.parallel or limits.tokens_per_minute or limits.tokens_per_day)


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
