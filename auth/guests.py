"""Guests, whom a gate lets in without a key: the pages that may send their requests, and their limits."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from pydantic import ValidationError

from auth.addresses import source_of
from auth.identity import USUAL, Identity, Limits
from auth.usage import today
from services.errors import Forbidden, RateLimitExceeded
from services.validation import explain

GUEST = "guest-"
# The limits of a guest; keys have more.
COUNTED = ("requests_per_minute", "tokens_per_minute", "tokens_per_day", "parallel", "max_tokens")
USUAL_LIMITS = Limits(requests_per_minute=120, tokens_per_day=1_000_000, parallel=8)
# Different keys that an address may send on one day.
MAX_KEYS = 100
# Accounts whose limits are remembered.
_MOST_ACCOUNTS = 10_000
_JSON = "application/json"


def guest_limits(given: Mapping[str, int | None] | None = None) -> Limits:
    """Return the usual limits of guests, with some replaced; None takes one away.

    Raises ValueError, naming the limit at fault.
    """
    wanted = {**USUAL_LIMITS.given(), **(given or {})}
    if unknown := [name for name in wanted if name not in COUNTED]:
        raise ValueError(f"guests have no limit {unknown[0]!r}; they have {', '.join(COUNTED)}")
    try:
        return Limits.model_validate(wanted)
    except ValidationError as error:
        raise ValueError(explain(error, COUNTED).message) from None


@dataclass
class _Account:
    """The account of an address's guests."""

    identity: Identity
    day: str = ""
    keys: set[str] = field(default_factory=set)
    """Digests of the keys that were sent on that day."""


class Guests:
    """The guests, as accounts with limits: one an address, whatever keys are sent from there.

    Any thread may call it; `_lock` protects the accounts.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accounts: OrderedDict[str, _Account] = OrderedDict()
        """By their ids, the last used at the end."""
        self._limits = USUAL_LIMITS
        """The limits of the gate that let a guest in last."""

    def let_in(self, who: str, key: str, scopes: frozenset[str], limits: Limits) -> Identity:
        """Return the guest who sends `key` and has the account of `who`; both keep conversations apart.

        Raises RateLimitExceeded where too many keys were sent from there: each may begin conversations of its own.
        """
        identity = Identity(GUEST + _digest(who), None, scopes.union(USUAL), limits=limits, is_guest=True)
        with self._lock:
            account = self._accounts.setdefault(identity.id, _Account(identity))
            account.identity, self._limits = identity, limits
            self._accounts.move_to_end(identity.id)
            if len(self._accounts) > _MOST_ACCOUNTS:
                self._accounts.popitem(last=False)
            if not key:
                return identity
            if account.day != (day := today()):
                account.day, account.keys = day, set()
            if (digest := _digest(key)) not in account.keys and len(account.keys) >= MAX_KEYS:
                what = f"{MAX_KEYS} different keys came from here today: send one of those, or none"
                raise RateLimitExceeded(what, param="Authorization", code="too_many_guests", retry_after=3600)
            account.keys.add(digest)
        return replace(identity, id=f"{identity.id}-{digest}")

    def accounts(self, id_: str) -> list[Identity]:
        """Return the account that a guest's requests are charged to. A forgotten one has the gate's limits."""
        account = "-".join(id_.split("-")[:2])
        with self._lock:
            known, limits = self._accounts.get(account), self._limits
        return [known.identity if known else Identity(account, None, limits=limits, is_guest=True)]


def is_guest(id_: str) -> bool:
    """Return whether an id is that of a guest."""
    return id_.startswith(GUEST)


def account_of(address: str | None) -> str:
    """Return the name of an address's account; an IPv6 network of 64 bits has one."""
    return f"address:{source_of(address)}"


def check_page(origin: str | None, site: str | None, host: str, origins: Sequence[str]) -> None:
    """Raise Forbidden where a browser sends a request for a page of another origin that is not among `origins`.

    Without a key nothing tells such a page from its visitor: whatever a browser reaches, any page would, and its guesses
    would be the visitor's. `origin`, `site` and `host` are the headers Origin (Fetch), Sec-Fetch-Site (Fetch Metadata) and
    Host; other clients send only the last.
    """
    if origin is not None and ("*" in origins or origin.lower() in (each.lower().rstrip("/") for each in origins)):
        return
    if site not in (None, "none", "same-origin") or (origin is not None and not _is_own(origin, host)):
        name = "Sec-Fetch-Site" if origin is None else "Origin"
        what = (
            "pages of another origin may not ask without a key that is known here; --cors-origins ORIGIN lets those of one"
        )
        raise Forbidden(f"{name}: {what}", 403, param=name, code="origin_not_allowed")


def check_type(mimetype: str, has_body: bool) -> None:
    """Raise Forbidden for a body that is not declared to be JSON: a page may send a form without asking."""
    if mimetype != _JSON and (has_body or mimetype):
        what = f"without a key the body has to be sent as {_JSON}"
        raise Forbidden(f"Content-Type: {what}", 415, param="Content-Type", code="unsupported_media_type")


def _is_own(origin: str, host: str) -> bool:
    """Return whether an origin is that of the host. Its scheme may differ: a proxy may end TLS before this server."""
    try:
        scheme, netloc, *_ = urlsplit(origin.lower())
    except ValueError:
        return False
    port = {"http": ":80", "https": ":443"}.get(scheme)
    return port is not None and bool(netloc) and netloc.removesuffix(port) == host.lower().removesuffix(port)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
