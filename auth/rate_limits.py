"""Rate limits of keys, and the metering of their usage.

Tokens are reserved for an answer before it begins, as many as it may take, and released at its end where it did not take
them. So no number of requests at once gets past a limit; the last answer before it is cut short.
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

from limits import RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.errors import StorageError
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import MovingWindowRateLimiter

from auth.guests import Guests, is_guest
from auth.identity import MASTER, Identity, Limits, effective
from auth.in_flight import InFlight, LocalInFlight
from auth.keys import KeyStore
from auth.usage import UsageTable
from services.backend.types import Spent
from services.errors import HearthError, NotAuthenticated, NotPermitted, RateLimitExceeded, Unavailable

log = logging.getLogger(__name__)

MEMORY = "memory://"
# Seconds by which the clock may be set back before the windows are begun anew: they would stay shut for as long.
_CLOCK_SLACK = 5.0
# Seconds in which a storage elsewhere answers.
_PATIENCE = 2.0
# Seconds between two looks at whether the key of a request in flight is still good.
_KEY_CHECK_INTERVAL = 0.5
# How often a minute a key, with those that it minted, may do each audited action; the master as it likes.
ACTIONS = 30
# How many drafts a second a key may send: a page sends one whenever its person pauses.
DRAFTS = 5


class _PerMinute(RateLimitItemPerMinute):
    """A limit whose window goes on when the limit is changed."""

    def key_for(self, *identifiers: Any) -> str:
        """Return the window's name, without the amount that the library's own has in it."""
        return "/".join((self.namespace, *identifiers, "minute"))


class Ticket:
    """One request of a key that is being computed, and its cost. Owned by the request's thread."""

    def __init__(self, meter: Meter, accounts: Sequence[Identity]) -> None:
        """`accounts` are the key and those by which it was minted: it may use no more than they have left."""
        self._meter = meter
        self.accounts = accounts
        self.id = uuid.uuid4().hex
        self.spent = Spent()
        """The request's cost so far."""
        self._checked = time.monotonic()

    @property
    def profiles(self) -> tuple[str, ...] | None:
        """The profiles that the key may use, as of the request's begin; None: every profile, and every file."""
        return _profiles(self.accounts)

    def add(self, spent: Spent) -> None:
        """Add to the request's cost."""
        self.spent += spent

    def check(self) -> None:
        """Raise NotAuthenticated where the key, or one by which it was minted, has been revoked or has expired.

        Raises NotPermitted where it has lost the scope for answers. Other changed terms count from the next request on. The
        keys are read twice a second at most; while they cannot be read, their last known state counts.
        """
        now = time.monotonic()
        if not self.accounts or now - self._checked < _KEY_CHECK_INTERVAL:
            return
        self._checked = now
        try:
            now_known = self._meter.accounts(self.accounts[0].id)
        except NotAuthenticated:
            raise
        except HearthError as error:
            log.warning("an answer's key cannot be checked: %s", error.message)
            return
        if now_known and not effective(now_known).may("answer"):
            raise NotPermitted("this key may not answer any more: it has lost the scope answer", code="scope_missing")

    def cap(self, max_tokens: int) -> int:
        """Return how many tokens one answer of this key may have, `max_tokens` at most."""
        return min(max_tokens, *(account.limits.max_tokens or max_tokens for account in self.accounts), max_tokens)

    def reserve(self, prompt_tokens: int, max_tokens: int) -> int:
        """Reserve tokens for an answer; return how many it may have. Raises RateLimitExceeded where there is not one.

        Calls add up: each reserves for a prompt of `prompt_tokens` more, and releases none of the earlier ones.
        """
        most = self.cap(max_tokens)
        for account in self.accounts:
            most = self._meter.room(account, self.id, prompt_tokens, most, _whose(account, self.accounts))
        return most

    def check_room(self, prompt_tokens: int) -> None:
        """Raise RateLimitExceeded where the key has no room for so many tokens that are read, and an answer."""
        for account in self.accounts:
            self._meter.check_room(account, prompt_tokens, 1, _whose(account, self.accounts))


class Meter:
    """Counts by the key's id.

    Any thread may call it. The minute's windows are the library's, in memory or in Redis; the day's tokens are those of the
    usage, which a restart does not forget.
    """

    def __init__(
        self,
        keys: KeyStore,
        usage: UsageTable,
        windows: str = MEMORY,
        in_flight: InFlight | None = None,
        prefix: str = "LIMITS",
    ) -> None:
        """`windows` is where the minute's windows are kept, as the library `limits` names storages; `prefix`, in Redis.

        `in_flight` is a cluster's count of requests in flight; that of a single server is in memory.
        """
        self.guests = Guests()
        self._keys = keys
        self._usage = usage
        patience = {} if windows == MEMORY else _elsewhere(prefix)
        self._storage = storage_from_string(windows, wrap_exceptions=True, **patience)
        self._windows = MovingWindowRateLimiter(self._storage)
        usage.begin_charges(keys.ancestors)
        self._in_flight = in_flight or LocalInFlight()
        self._clock = _clock()

    def account(self, identity: Identity) -> str:
        """Return the id of the account whose share of the server an identity takes.

        It is the key at the root of its chain, the one that all others of the chain were minted by; a guest's address.
        """
        return self.guests.accounts(identity.id)[-1].id if identity.is_guest else identity.account or identity.id

    def accounts(self, key: str) -> list[Identity]:
        """Return whom a key's requests are charged to: itself, and those by which it was minted; a guest's to its address.

        Raises NotAuthenticated where one of them has been revoked or has expired.
        """
        if is_guest(key):
            return self.guests.accounts(key)
        accounts = self._keys.chain(key)
        if not accounts and key != MASTER:
            raise NotAuthenticated("this key has been revoked", param="Authorization", code="key_revoked")
        return accounts

    def profiles(self, key: str) -> tuple[str, ...] | None:
        """Return the profiles that a key may use now; None: every profile, and every file. Raises NotAuthenticated."""
        return _profiles(self.accounts(key))

    def charge_request(self, key: str) -> None:
        """Count a request of a key that takes no ticket. Raises RateLimitExceeded, NotAuthenticated, Unavailable."""
        self._charge_request(self.accounts(key))

    def charge_action(self, by: Identity, action: str) -> None:
        """Count an audited action of `by`, before it is done. Raises as `charge_request` does.

        An action on keys is counted as a request here; one on models, where it is done.
        """
        if by.is_master:
            return
        accounts = self.accounts(by.id)
        if action in ("mint", "change", "revoke", "rotate"):
            self._charge_request(accounts)
        # It shares this budget with all keys that it mints.
        head = accounts[-1]
        with _reached():
            self._check_clock()
            has_room = self._windows.hit(_PerMinute(ACTIONS), action, head.id)
        if not has_room:
            _, reset = self._window(action, head.id, ACTIONS)
            what = f"{_whose(head, accounts)} may do this {ACTIONS} times a minute ({action}), with the keys that it minted"
            raise RateLimitExceeded(what, param=action, retry_after=reset)

    @contextmanager
    def enter(self, key: str) -> Iterator[Ticket]:
        """Count a request of a key as in flight, and at its end what it has spent.

        Raises RateLimitExceeded, NotAuthenticated.
        """
        ticket = Ticket(self, self.accounts(key))
        begun: list[Identity] = []
        is_computed = False
        try:
            for account in ticket.accounts:
                if not _counts(account.limits):
                    continue
                most = account.limits.parallel
                if not self._in_flight.begin(account.id, ticket.id, most):
                    what = f"{_whose(account, ticket.accounts)} may have {_n(most or 0, 'answer')} under way at once"
                    raise RateLimitExceeded(what, param="parallel", retry_after=1)
                begun.append(account)
            # Before it is computed: a request that is refused from here on has cost something too.
            self._charge_request(ticket.accounts)
            yield ticket
            is_computed = True
        finally:
            try:
                # A refused request is no usage; one that failed half-way is.
                if is_computed or ticket.spent != Spent():
                    self._add_usage(key, ticket, n_requests=1)
            finally:
                for account in begun:
                    self._in_flight.end(account.id, ticket.id)

    @contextmanager
    def enter_draft(self, key: str) -> Iterator[Ticket]:
        """Count a draft of a key, and at its end the tokens that it has spent. It is no request, and not in flight.

        Raises RateLimitExceeded where the key has sent many in this second, or might send no request now, and
        NotAuthenticated.
        """
        ticket = Ticket(self, self.accounts(key))
        for account in ticket.accounts[:1]:
            with _reached():
                self._check_clock()
                has_room = self._windows.hit(RateLimitItemPerSecond(DRAFTS), "drafts", account.id)
            if not has_room:
                what = f"{_whose(account, ticket.accounts)} may send {DRAFTS} drafts a second"
                raise RateLimitExceeded(what, param="drafts", retry_after=1)
        for account in ticket.accounts:
            self._ask_for_request(account, self._windows.test, _whose(account, ticket.accounts))
        yield ticket
        if ticket.spent != Spent():
            self._add_usage(key, ticket, n_requests=0)

    def _add_usage(self, key: str, ticket: Ticket, n_requests: int) -> None:
        self._usage.add(key, ticket.spent, [account.id for account in ticket.accounts], n_requests)
        for account in ticket.accounts:
            self._count_tokens(account, ticket.spent)

    def room(self, account: Identity, ticket: str, prompt_tokens: int, max_tokens: int, whose: str) -> int:
        """Reserve a prompt's tokens and as many of `max_tokens` as there is room for; return how many of these.

        `whose` names the account in the RateLimitExceeded that is raised where there is no room.
        """
        if not _counts(account.limits):
            return max_tokens
        with self._in_flight.alone(account.id):
            most = self.check_room(account, prompt_tokens, max_tokens, whose)
            self._in_flight.reserve(account.id, ticket, prompt_tokens + most)
        return most

    def check_room(self, account: Identity, prompt_tokens: int, max_tokens: int, whose: str) -> int:
        """Return what `room` does, and raise as it does, but reserve nothing."""
        most = max_tokens
        reserved = self._in_flight.reserved(account.id)
        for name, limit, used, reset in self._token_windows(account.id, account.limits):
            left = limit - used - reserved - prompt_tokens
            if left < 1:
                raise RateLimitExceeded(
                    _no_room(whose, name, limit, used, reserved, prompt_tokens), param=name, retry_after=reset
                )
            most = min(most, left)
        return most

    def headers(self, key: str) -> dict[str, str]:
        """Return the x-ratelimit-* headers for a key, by OpenAI's names: limits, what is left, when some is free again.

        Those of each kind are the account's that has the least left: the key's, or of one by which it was minted.
        """
        least: dict[str, tuple[int, int, int]] = {}
        for account in self.accounts(key):
            for kind, limit, used, reset in self._state(account):
                if kind not in least or limit - used < least[kind][0] - least[kind][1]:
                    least[kind] = limit, used, reset
        headers: dict[str, str] = {}
        for kind, (limit, used, reset) in least.items():
            headers[f"x-ratelimit-limit-{kind}"] = str(limit)
            headers[f"x-ratelimit-remaining-{kind}"] = str(max(limit - used, 0))
            if kind != "parallel":
                headers[f"x-ratelimit-reset-{kind}"] = f"{reset}s" if used else "0s"
        return headers

    def _state(self, account: Identity) -> Iterator[tuple[str, int, int, int]]:
        """Yield each limit of an account: its kind, itself, how much is used, in how many seconds some is free again."""
        limits = account.limits
        if limits.requests_per_minute:
            yield "requests", limits.requests_per_minute, *self._window("requests", account.id, limits.requests_per_minute)
        for name, limit, used, reset in self._token_windows(account.id, limits):
            kind = "tokens" if name == "tokens_per_minute" else "tokens-day"
            yield kind, limit, used + self._in_flight.reserved(account.id), reset
        if limits.parallel:
            yield "parallel", limits.parallel, self._in_flight.count(account.id), 1

    def _charge_request(self, accounts: Sequence[Identity]) -> None:
        """Count a request of each account, where all have room for it. Raises RateLimitExceeded, Unavailable."""
        for account in accounts:
            self._ask_for_request(account, self._windows.test, _whose(account, accounts))
        # Other requests may have taken the last of it meanwhile: no key is charged for what the key above it refuses.
        for account in reversed(accounts):
            self._ask_for_request(account, self._windows.hit, _whose(account, accounts))

    def _ask_for_request(self, account: Identity, take: Callable[..., bool], whose: str) -> None:
        """Raise RateLimitExceeded where `take`, a method of the windows, finds no room for a request."""
        most = account.limits.requests_per_minute
        if not most:
            return
        with _reached():
            self._check_clock()
            if take(_PerMinute(most), "requests", account.id):
                return
        _, reset = self._window("requests", account.id, most)
        what = f"{whose} may send {_n(most, 'request')} a minute"
        raise RateLimitExceeded(what, param="requests_per_minute", retry_after=reset)

    def _count_tokens(self, account: Identity, spent: Spent) -> None:
        n_tokens, most = spent.prompt_tokens + spent.completion_tokens, account.limits.tokens_per_minute
        if not most or not n_tokens:
            return
        # The answer is out: it is not taken back for this.
        try:
            with _reached():
                item = _PerMinute(most)
                if not self._windows.hit(item, "tokens", account.id, cost=n_tokens):
                    # Another server has used them meanwhile: what fits is counted.
                    left = self._windows.get_window_stats(item, "tokens", account.id).remaining
                    self._windows.hit(item, "tokens", account.id, cost=max(left, 1))
        except Unavailable as error:
            log.error("%s", error.message)

    def _token_windows(self, key: str, limits: Limits) -> Iterator[tuple[str, int, int, int]]:
        """Yield each limit of tokens: its name, itself, how many are used, and in how many seconds some are free again."""
        if limits.tokens_per_minute:
            yield "tokens_per_minute", limits.tokens_per_minute, *self._window("tokens", key, limits.tokens_per_minute)
        if limits.tokens_per_day:
            now = datetime.now(timezone.utc)
            midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), timezone.utc)
            used = self._usage.charged(key)
            yield "tokens_per_day", limits.tokens_per_day, used, ceil((midnight - now).total_seconds())

    def _window(self, kind: str, key: str, limit: int) -> tuple[int, int]:
        """Return how many are used of a minute's window, and in how many seconds the first of them are free again."""
        with _reached():
            self._check_clock()
            found = self._windows.get_window_stats(_PerMinute(limit), kind, key)
        used = limit - found.remaining
        return used, min(max(ceil(found.reset_time - time.time()), 1), 60) if used else 1

    def _check_clock(self) -> None:
        if isinstance(self._storage, MemoryStorage) and _clock() < self._clock - _CLOCK_SLACK:
            self._storage.reset()
        self._clock = _clock()


def _profiles(accounts: Sequence[Identity]) -> tuple[str, ...] | None:
    """Return the profiles that all of a key's accounts may use; the master, who has none, may use every one."""
    return effective(accounts).profiles if accounts else None


def _elsewhere(prefix: str) -> dict[str, Any]:
    return {"socket_timeout": _PATIENCE, "socket_connect_timeout": _PATIENCE, "key_prefix": prefix}


def _counts(limits: Limits) -> bool:
    """Return whether a key's requests in flight have to be counted."""
    return bool(limits.parallel or limits.tokens_per_minute or limits.tokens_per_day)


def _clock() -> float:
    """Return by how many seconds the clock is ahead of the monotonic one, which nobody sets."""
    return time.time() - time.monotonic()


@contextmanager
def _reached() -> Iterator[None]:
    """Raise Unavailable where the storage of the windows cannot be reached."""
    try:
        yield
    except StorageError as error:
        what = "the limits of keys cannot be counted: their storage cannot be reached"
        raise Unavailable(what, code="limits_unavailable", retry_after=5) from error


def _whose(account: Identity, accounts: Sequence[Identity]) -> str:
    """Return how a message names one of the accounts that a request is charged to."""
    if account.is_guest:
        return "this address"
    return "this key" if account is accounts[0] else "the key that minted this one"


def _no_room(whose: str, name: str, limit: int, used: int, reserved: int, prompt_tokens: int) -> str:
    span = "a minute" if name == "tokens_per_minute" else "a day (UTC)"
    so_far = f"{used} are used" + (f", {reserved} are held back for answers under way" if reserved else "")
    return f"{whose} may use {_n(limit, 'token')} {span}: {so_far}, and this prompt has {prompt_tokens}"


def _n(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' if count != 1 else ''}"
