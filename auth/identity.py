"""The identity of a caller, and the terms of a key: scopes, expiry, profiles and limits."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field

from services.errors import NotPermitted
from services.validation import Strict

MASTER = "0"
Scope = Literal["answer", "models:read", "models:switch", "models:pull", "models:delete", "keys", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
# The scopes of a key that was minted without any.
USUAL: tuple[Scope, ...] = ("answer", "models:read")
# How long a rotated key's old form goes on working by default.
GRACE = "1d"

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"([0-9]{1,6})\s*([smhdw])")
_Count = Annotated[int, Field(ge=1, le=10**12)]


def duration(text: str) -> timedelta:
    """Parse "30d", "12h", "90m", "45s" or "2w". Raises ValueError."""
    found = _DURATION.fullmatch(text.strip().lower())
    if not found:
        raise ValueError("should be a time like 30d, 12h, 90m, 45s or 2w")
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


def _as_duration(text: str) -> str:
    duration(text)
    return text


def _as_time(text: str) -> str:
    moment(text)
    return text


def moment(text: str) -> datetime:
    """Parse a time: ISO 8601, in UTC where it names no zone, or a duration from now. Raises ValueError."""
    try:
        return datetime.now(timezone.utc) + duration(text)
    except (ValueError, OverflowError):
        pass
    try:
        named = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text.strip()))
        return (named if named.tzinfo else named.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise ValueError("should be a time like 2027-01-31T18:00:00Z, or how long from now: 30d, 12h, 2w") from None


Duration = Annotated[str, AfterValidator(_as_duration)]
Moment = Annotated[str, AfterValidator(_as_time)]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class Limits(Strict):
    """The limits of a key; None: no limit. Tokens are those of prompts and answers together."""

    requests_per_minute: _Count | None = None
    tokens_per_minute: _Count | None = None
    tokens_per_day: _Count | None = None
    parallel: _Count | None = None
    max_tokens: _Count | None = None
    sessions: _Count | None = None
    """Stored sessions."""
    storage_mb: _Count | None = None
    """Megabytes of its stored sessions, responses, jobs and files."""
    keys: _Count | None = None
    """Keys that it, and the keys that it minted, may have minted; None: 100."""

    def given(self) -> dict[str, int]:
        """Return the limits that are set."""
        return self.model_dump(exclude_none=True)


_GRANTED = frozenset({"scopes", "profiles", "expires", *(f"limits.{name}" for name in Limits.model_fields)})


class Terms(Strict):
    """The terms of a key. None: no name, no end, the usual scopes, every profile, no limits."""

    name: Name | None = None
    expires: Moment | None = None
    scopes: list[Scope] | None = None
    profiles: Annotated[list[Name], Field(min_length=1, max_length=100)] | None = None
    limits: Limits | None = None

    def stored(self) -> dict[str, Any]:
        """Return the terms that are set, as an entry of the key store: `expires` as a time.

        Raises ValueError where that time is over.
        """
        entry = self.model_dump(exclude_none=True, exclude_unset=True)
        if self.limits:
            entry["limits"] = self.limits.given()
        if self.scopes is not None:
            entry["scopes"] = sorted(set(self.scopes), key=SCOPES.index)
        if self.expires:
            until = moment(self.expires)
            if until <= datetime.now(timezone.utc):
                raise ValueError("expires: that time is over")
            entry["expires"] = until.isoformat(timespec="seconds")
        return entry


@dataclass(frozen=True)
class Identity:
    """A caller: a key's id, name and terms, never the key."""

    id: str
    name: str | None
    scopes: frozenset[str] = frozenset(USUAL)
    """Its scopes; the master may do everything."""
    profiles: tuple[str, ...] | None = None
    """The profiles that it may use; None: every one, and the files of the models folder. It may be empty."""
    limits: Limits = field(default=Limits())
    expires: str | None = None
    is_guest: bool = False
    """True if a gate let it in without a key of this server."""
    account: str = field(default="", compare=False)
    """The id of the last key of its chain."""

    @property
    def is_master(self) -> bool:
        """Whether this is the master key."""
        return self.id == MASTER

    def all_scopes(self) -> list[str]:
        """Return all scopes that it has."""
        return [scope for scope in SCOPES if self.may(scope)]

    def may(self, scope: str) -> bool:
        """Return whether it has a scope."""
        return self.is_master or scope in self.scopes

    def may_use(self, profile: str) -> bool:
        """Return whether it may use this profile, or the model file of this name."""
        return self.profiles is None or profile in self.profiles


def identity_of(id_: str, entry: Mapping[str, Any]) -> Identity:
    """Return the identity of a key, given its entry of the key store, which has been checked."""
    return Identity(
        id_,
        entry.get("name"),
        frozenset(entry.get("scopes", USUAL)),
        tuple(entry["profiles"]) if entry.get("profiles") else None,
        Limits.model_validate(entry.get("limits", {})),
        entry.get("expires"),
    )


def effective(chain: Sequence[Identity]) -> Identity:
    """Return the first key of a chain with its effective terms: no more than each key by which it was minted has."""
    own = chain[0]
    restricting = [each.profiles for each in chain if each.profiles is not None]
    limits: dict[str, int] = {}
    for each in chain:
        for name, most in each.limits.given().items():
            limits[name] = min(most, limits.get(name, most))
    return replace(
        own,
        scopes=frozenset.intersection(*(each.scopes for each in chain if not each.is_master or each is own)),
        profiles=tuple(name for name in restricting[0] if all(name in others for others in restricting))
        if restricting
        else None,
        limits=Limits(**limits),
        expires=min((each.expires for each in chain if each.expires), key=datetime.fromisoformat, default=None),
        account=chain[-1].id,
    )


def check_grant(giver: Identity, entry: Mapping[str, Any], fields: Collection[str] = _GRANTED) -> None:
    """Raise NotPermitted, naming the field, where `giver` would give a key more than it has itself.

    `fields` are those that it gives: names of `Terms`, and limits.NAME for each limit.
    """
    if giver.is_master:
        return
    wanted = identity_of("", entry)
    more = [scope for scope in wanted.all_scopes() if not giver.may(scope)]
    if "scopes" in fields and more:
        raise NotPermitted(f"scopes: this key cannot give {', '.join(more)}, which it has not itself", param="scopes")
    allowed = giver.profiles
    if "profiles" in fields and allowed is not None and not set(wanted.profiles or ("",)) <= set(allowed):
        raise NotPermitted(f"profiles: this key can give {', '.join(allowed)} only", param="profiles")
    if "expires" in fields and giver.expires and (wanted.expires is None or _later(wanted.expires, giver.expires)):
        raise NotPermitted(f"expires: this key itself ends at {giver.expires}: name a time until then", param="expires")
    for name, most in giver.limits.given().items():
        if f"limits.{name}" in fields and (getattr(wanted.limits, name) or most + 1) > most:
            raise NotPermitted(f"limits.{name}: this key's own is {most}: name one up to it", param=f"limits.{name}")


def _later(time: str, other: str) -> bool:
    return datetime.fromisoformat(time) > datetime.fromisoformat(other)
