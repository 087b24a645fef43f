"""The key store, data/api_keys.json: mint, check, change, rotate, list and revoke. It holds hashes; a key is shown once.

The file is `{ID: {"name", "created", "hash", …}, …}`, with the fields of `Terms`, "minted_by" and "previous" as needed; the
ID "0" is the master key. Where a person has typed a key (`"0": "my key"`), it is replaced by its hash when the file is
next read. "minted_by" leads from a key to that by which it was minted, and so on: its chain. A key may do what all of its
chain may, and what it uses is charged to all of them.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from auth.guesses import Guesses
from auth.hashing import hash_of, new_salt, sha256, stretch
from auth.identity import GRACE, MASTER, Identity, Limits, Terms, check_grant, duration, effective, identity_of
from auth.key_file import check_keys
from auth.key_use import KeyUse, LastUse, LocalLastUse
from services.errors import InvalidRequest, NotAuthenticated, NotFound, NotPermitted
from services.storage.database import NAME
from services.storage.json_file import JsonFile, JsonObject, OpenTable

PREFIX = "hearth-"
# The length of a chain at most.
_DEEPEST = 10
# Keys in all, and keys that one key, with the keys that it minted, may have minted, by default.
MAX_KEYS = 10_000
_MINTED = 100


@dataclass(frozen=True)
class MintedKey:
    """A new key, at the only moment it is known."""

    id: str
    key: str

    def __repr__(self) -> str:
        return f"MintedKey(id={self.id!r}, key='…')"


class KeyStore:
    """The keys.

    Any thread may call it; the file protects itself. `_index` is of the entries as they were last read, and replaced whole.

    `by` is the caller: a key with the scope "keys" manages the keys that it has minted; None is the machine's owner.
    """

    def __init__(
        self,
        path: Path,
        open_table: OpenTable = JsonFile,
        max_keys: int = MAX_KEYS,
        last_use: LastUse | None = None,
    ) -> None:
        """`open_table` opens a cluster's keys instead of the file; `max_keys` is how many keys there may be.

        `last_use` is the table of when keys were last used; None: that of the database beside the file. Raises
        DamagedFile where the file does not hold keys.
        """
        self._file = open_table(path, check_keys, private=True)
        self._max_keys = max_keys
        self._guesses = Guesses()
        self._index = _Index({})
        self._use = KeyUse(last_use or LocalLastUse(path.with_name(NAME)), self._entries)
        self._entries()

    def known(self, key: str) -> Identity | None:
        """Return the identity of `key` without a costly check: a typed key has to have been found by `check` before.

        Raises NotAuthenticated where it has expired.
        """
        index = self._read()
        found = index.find(hash_of(key))
        if found is None and (typed := index.typed()) and (stored := self._guesses.known(key, typed)):
            found = typed[stored]
        return None if found is None else effective(_chain(index.entries, found))

    def check(self, key: str, address: str | None = None) -> Identity | None:
        """Return the identity of `key`, which came from `address`; None where no key is so.

        Raises NotAuthenticated where it has expired; where there are typed keys, RateLimitExceeded if this address has sent
        too many wrong ones, and Unavailable if too many are being checked.
        """
        index = self._read()
        found = index.find(hash_of(key))
        if found is None and (typed := index.typed()):
            stored = self._guesses.find(key, typed, address)
            found = typed[stored] if stored else None
        return None if found is None else effective(_chain(index.entries, found))

    def identity(self, id_: str) -> Identity | None:
        """Return the identity of an id, with no more than all of its chain may do; None if there is none.

        Raises NotAuthenticated where one of the chain has expired or is no more.
        """
        chain = self.chain(id_)
        return effective(chain) if chain else None

    def chain(self, id_: str) -> list[Identity]:
        """Return the key of an id and those by which it was minted, each with its own terms; [] if there is none.

        Raises NotAuthenticated where one of these has expired or is no more.
        """
        entries = self._entries()
        return _chain(entries, id_) if id_ in entries else []

    def is_usable(self, id_: str) -> bool:
        """Return whether there is a key of this id, and neither it nor one of those that minted it has ended."""
        try:
            return bool(self.chain(id_))
        except NotAuthenticated:
            return False

    def family(self, id_: str) -> set[str]:
        """Return the ids of a key and of all keys that were minted by it, and by those."""
        return _family(self._entries(), id_)

    def ancestors(self) -> dict[str, list[str]]:
        """Return the ids of each key's chain, itself included, by its id."""
        entries = self._entries()
        return {id_: list(_chain_ids(entries, id_)) for id_ in entries}

    def names(self) -> dict[str, str | None]:
        """Return the keys' names, by their ids."""
        return {id_: entry.get("name") for id_, entry in self._entries().items()}

    def mint(self, terms: Terms | None = None, by: Identity | None = None) -> MintedKey:
        """Make a key, store its hash, and return it.

        Raises InvalidRequest for an end that is over, NotPermitted where `by` would give more than it has or there are as
        many keys as there may be, StorageFailed.
        """
        entry = _stored(terms or Terms())
        if by:
            check_grant(by, entry)
            if len(self.chain(by.id)) >= _DEEPEST:
                raise NotPermitted(f"there are {_DEEPEST} keys behind this one already, each minted by the one before")
            entry |= {} if by.is_master else {"minted_by": by.id}
        while (minted := self._add(secrets.token_hex(8), entry)) is None:
            pass
        return minted

    def mint_master(self) -> MintedKey | None:
        """Make the master key, where there is none yet. Raises StorageFailed."""
        return self._add(MASTER, {"name": "master"})

    def change(self, id_: str, terms: Terms, by: Identity | None = None) -> None:
        """Change a key's terms: the fields that are set, None taking one away, and of the limits those that are set.

        Raises NotFound, InvalidRequest, NotPermitted, StorageFailed.
        """
        if id_ == MASTER:
            raise InvalidRequest("the master key has no terms that could be changed", param="id")
        new = _stored(terms)
        with self._edit() as data:
            entry = self._managed(data, id_, by)
            kept = {name: value for name, value in entry.items() if name not in terms.model_fields_set}
            changed = {"name": None, **kept, **new}
            if terms.limits:
                taken = terms.limits.model_fields_set - new["limits"].keys()
                limits = {name: most for name, most in entry.get("limits", {}).items() if name not in taken}
                changed["limits"] = {**limits, **new["limits"]}
            if by:
                # Terms that stay were granted before, and its chain limits them.
                check_grant(by, changed, _fields(terms))
            data[id_] = changed

    def rotate(self, id_: str, grace: str = GRACE, by: Identity | None = None) -> tuple[MintedKey, str]:
        """Give a key a new form; the old one works for as long as `grace` says. Returns the new, and when the old one ends.

        Raises NotFound, NotPermitted, StorageFailed.
        """
        key, until = PREFIX + secrets.token_urlsafe(32), _now() + min(duration(grace), timedelta(days=3650))
        with self._edit() as data:
            entry = self._managed(data, id_, by)
            # Nor do older forms work any longer than this one.
            forms = [*entry.get("previous", ()), {"hash": entry["hash"], "until": until.isoformat()}]
            forms = [{**form, "until": min(form["until"], until.isoformat(), key=_time)} for form in forms]
            data[id_] = {
                **entry,
                "hash": hash_of(key),
                "previous": [form for form in forms if _time(form["until"]) > _now()],
            }
        return MintedKey(id_, key), until.isoformat(timespec="seconds")

    def revoke(self, id_: str, by: Identity | None = None) -> None:
        """Forget a key at once, and those that it minted. Raises NotFound for an unknown id, InvalidRequest for "0"."""
        if id_ == MASTER:
            raise InvalidRequest("the master key cannot be revoked; it can be rotated, with a grace of 0s", param="id")
        with self._edit() as data:
            self._managed(data, id_, by)
            for each in _family(data, id_):
                del data[each]

    def list(self, by: Identity | None = None) -> list[dict[str, Any]]:
        """Return each key's terms, and the times of its making and last use; neither keys nor hashes."""
        entries, times = self._entries(), self._use.times()
        return [self._describe(entries, id_, times) for id_, entry in entries.items() if _may_manage(by, entry)]

    def describe(self, id_: str) -> dict[str, Any]:
        """Return what `list` does, of one key. Raises NotFound."""
        entries = self._entries()
        if id_ not in entries:
            raise _no_key()
        return self._describe(entries, id_, self._use.times())

    def note_use(self, id_: str) -> None:
        """Note that the key of this id is used now."""
        self._use.note(id_)

    def close(self) -> None:
        """Write the times of use that are kept in memory only."""
        self._use.close()

    def _describe(self, entries: Mapping[str, dict[str, Any]], id_: str, times: Mapping[str, str]) -> dict[str, Any]:
        entry = entries[id_]
        known = effective([identity_of(each, entries[each]) for each in _chain_ids(entries, id_) if each in entries])
        return {
            "id": id_,
            "name": known.name,
            "created": entry.get("created"),
            "last_used": times.get(id_),
            "expires": known.expires,
            "scopes": known.all_scopes(),
            "profiles": None if known.profiles is None else list(known.profiles),
            "limits": known.limits.given(),
            "minted_by": entry.get("minted_by"),
        }

    def _managed(self, data: JsonObject, id_: str, by: Identity | None) -> dict[str, Any]:
        """Return the entry of a key that `by` may manage. Raises NotFound: others' keys do not exist for it."""
        if id_ not in data or not _may_manage(by, data[id_]):
            raise _no_key()
        return dict(data[id_])

    def _add(self, id_: str, entry: Mapping[str, Any]) -> MintedKey | None:
        """Make a key of this id; return None where there is one already."""
        key = PREFIX + secrets.token_urlsafe(32)
        with self._edit() as data:
            if id_ in data:
                return None
            self._check_room(data, entry.get("minted_by"))
            created = _now().isoformat(timespec="seconds")
            data[id_] = {"name": None, "created": created, "hash": hash_of(key), **entry}
        return MintedKey(id_, key)

    def _entries(self) -> Mapping[str, dict[str, Any]]:
        """Return the stored keys. Not to be changed."""
        return self._read().entries

    def _read(self) -> _Index:
        """Return the index of the stored keys."""
        data, index = self._file.read(), self._index
        if data is index.entries:
            return index
        if any(isinstance(entry, str) for entry in data.values()):
            with self._edit() as data:
                pass
        self._index = index = _Index(data)
        return index

    @contextmanager
    def _edit(self) -> Iterator[JsonObject]:
        """Give the stored keys to be changed, after replacing keys that a person has typed by their hashes."""
        with self._file.edit() as data:
            salt = _salt_of(data)
            for id_, entry in data.items():
                if isinstance(entry, str):
                    data[id_] = {
                        "name": "master" if id_ == MASTER else None,
                        "created": _now().isoformat(timespec="seconds"),
                        "hash": stretch(entry.strip(), salt),
                    }
            yield data

    def _check_room(self, data: JsonObject, by: str | None) -> None:
        """Raise NotPermitted where there are as many keys as there may be, in all or of one in the chain of `by`."""
        if len(data) >= self._max_keys:
            what = f"there are {len(data):,} keys, as many as max_keys allows: revoke some, or raise --max-keys"
            public = f"there are {len(data):,} keys, as many as there may be: revoke some"
            raise NotPermitted(what, param="max_keys", code="too_many_keys", public=public)
        for account in _chain(data, by) if by else ():
            most = account.limits.keys or _MINTED
            if len(_family(data, account.id)) > most:
                whose = "this key" if account.id == by else "the key that minted this one"
                what = f"{whose} may have minted {most:,} keys, those of keys that it minted included: revoke some"
                raise NotPermitted(what, param="limits.keys", code="too_many_keys")


class _Index:
    """An index of the keys' hashes. Not changed once it is made.

    Random keys' hashes are looked up under a secret: the time that takes does not depend on how much of a guess was right.
    """

    def __init__(self, entries: Mapping[str, Any]) -> None:
        self.entries = entries
        self._secret = secrets.token_bytes(32)
        self._random: dict[bytes, list[tuple[str, str | None]]] = {}
        self._typed: dict[str, list[tuple[str, str | None]]] = {}
        for id_, entry in entries.items():
            for stored, until in _hashes(entry):
                if stored.startswith("scrypt:"):
                    self._typed.setdefault(stored, []).append((id_, until))
                else:
                    self._random.setdefault(self._digest(stored), []).append((id_, until))

    def find(self, stored: str) -> str | None:
        """Return the id of the key with this hash, if that still works."""
        return next((id_ for id_, until in self._random.get(self._digest(stored), ()) if _works(until)), None)

    def typed(self) -> dict[str, str]:
        """Return the ids of the typed keys, by their hashes that still work."""
        return {stored: id_ for stored, ids in self._typed.items() for id_, until in reversed(ids) if _works(until)}

    def _digest(self, stored: str) -> bytes:
        return sha256(self._secret + stored.encode())


def _stored(terms: Terms) -> dict[str, Any]:
    try:
        return terms.stored()
    except ValueError as error:
        raise InvalidRequest(str(error), param="expires") from None


def _may_manage(by: Identity | None, entry: Mapping[str, Any]) -> bool:
    return by is None or by.is_master or entry.get("minted_by") == by.id


def _hashes(entry: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """Return a key's hash, and those of its old forms with the time until which they work."""
    return [(entry["hash"], None), *((old["hash"], old["until"]) for old in entry.get("previous", ()))]


def _salt_of(data: Mapping[str, Any]) -> bytes:
    """Return the salt of the keys that were typed before, else a new one.

    All of a file have the same: one stretching tells which of them an unknown key is.
    """
    typed = (stored for entry in data.values() if isinstance(entry, dict) for stored, _ in _hashes(entry))
    salts = (stored.split(":")[1] for stored in typed if stored.startswith("scrypt:"))
    return bytes.fromhex(next(salts, "")) or new_salt()


def _works(until: str | None) -> bool:
    return until is None or _now() < _time(until)


def _chain(entries: Mapping[str, dict[str, Any]], id_: str) -> list[Identity]:
    chain: list[Identity] = []
    for each in _chain_ids(entries, id_):
        if each not in entries:
            raise NotAuthenticated("the key by which this one was minted is no more", param="Authorization")
        chain.append(_unexpired(identity_of(each, entries[each])))
    return chain


def _chain_ids(entries: Mapping[str, Any], id_: str) -> Iterator[str]:
    """Yield the ids of a key, of the one by which it was minted, and so on; the last one may be gone."""
    by: str | None = id_
    passed: set[str] = set()
    while by is not None and by not in passed:
        yield by
        passed.add(by)
        by = entries[by].get("minted_by") if by in entries else None


def _family(entries: Mapping[str, Any], id_: str) -> set[str]:
    family, new = {id_}, {id_}
    while new := {each for each, entry in entries.items() if entry.get("minted_by") in new} - family:
        family |= new
    return family


def _fields(terms: Terms) -> set[str]:
    """Return the names of the fields that `terms` sets, as `check_grant` takes them."""
    fields = set(terms.model_fields_set)
    if "limits" in fields:
        given = Limits.model_fields if terms.limits is None else terms.limits.model_fields_set
        fields |= {f"limits.{name}" for name in given}
    return fields


def _unexpired(identity: Identity) -> Identity:
    if identity.expires and _now() >= _time(identity.expires):
        what = f"this key expired at {identity.expires}: ask whoever gave it to you"
        raise NotAuthenticated(what, param="Authorization", code="key_expired")
    return identity


def _no_key() -> NotFound:
    # The id is not repeated: somebody may have pasted a key there.
    return NotFound("there is no key with this id", param="id", code="key_not_found")


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
