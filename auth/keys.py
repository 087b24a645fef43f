"""The key store, data/api_keys.json: mint, check, change, rotate, list and revoke. It holds hashes; a key is shown once.

The file is `{ID: {"name", "created", "hash", …}, …}`, with the fields of `Terms`, "minted_by" and "previous" as needed; the
ID "0" is the master key. Where a person has typed a key (`"0": "my key"`), it is replaced by its hash when the file is
next read.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from auth.hashing import equal, hash_of, sha256, stretch
from auth.identity import GRACE, MASTER, Identity, Terms, check_grant, duration, identity_of
from auth.key_file import check_keys
from auth.key_use import KeyUse
from services.errors import InvalidRequest, NotAuthenticated, NotFound, NotPermitted, Unavailable
from services.json_file import JsonFile, JsonObject, OpenTable

PREFIX = "hearth-"
# How many seconds a request may wait for others' keys to be stretched, so that guesses do not take every thread.
_PATIENCE = 1.0
# How many keys may stand behind each other, each minted by the one before.
_DEEPEST = 10


@dataclass(frozen=True)
class MintedKey:
    """A new key, at the only moment it is known."""

    id: str
    key: str

    def __repr__(self) -> str:
        return f"MintedKey(id={self.id!r}, key='…')"


class KeyStore:
    """The keys.

    Any thread may call it; the file protects itself. `_stretching` lets one scrypt run at a time, so that guesses at a
    typed key cannot take every core; `_proofs` holds what was proven, under a secret of this process.

    `by` is who asks for it: a key with the scope "keys" manages those that it has minted; None is the machine's owner.
    """

    def __init__(self, path: Path, open_table: OpenTable = JsonFile) -> None:
        """`open_table` opens a cluster's keys instead of the file.

        Raises DamagedFile where the file is there and is not what it should be.
        """
        self._file = open_table(path, check_keys, private=True)
        self._secret = secrets.token_bytes(32)
        self._stretching = threading.Lock()
        self._proofs: set[bytes] = set()
        self._use = KeyUse(path.with_name("key_use.json"), self._entries, open_table)
        self._entries()

    def check(self, key: str) -> Identity | None:
        """Whose key it is; None where it is nobody's. Every random key's hash is compared, even after one has matched.

        Raises NotAuthenticated where it has expired, Unavailable where a typed key cannot be checked soon.
        """
        entries = self._entries()
        digest = sha256(key.encode())
        wanted = f"sha256:{digest.hex()}"
        now = _now()
        found = None
        for id_, entry in entries.items():
            for stored, until in _hashes(entry):
                if equal(stored, wanted) and (until is None or now < _time(until)):
                    found = id_
        for id_, entry in () if found else entries.items():
            for stored, until in _hashes(entry):
                if stored.startswith("scrypt:") and (until is None or now < _time(until)):
                    found = id_ if self._proves(key, digest, stored) else found
        return None if found is None else _chain(entries, found)[0]

    def identity(self, id_: str) -> Identity | None:
        """Whose the key of this id is; None where there is none. Raises NotAuthenticated where it has expired."""
        return next(iter(self.chain(id_)), None)

    def chain(self, id_: str) -> list[Identity]:
        """Whose the key of this id is, and by whose keys it was minted; empty where there is none.

        Raises NotAuthenticated where one of these has expired or is no more.
        """
        entries = self._entries()
        return _chain(entries, id_) if id_ in entries else []

    def family(self, id_: str) -> set[str]:
        """The ids of a key and of all that were minted by it, and by those."""
        entries, family, new = self._entries(), {id_}, {id_}
        while new := {each for each, entry in entries.items() if entry.get("minted_by") in new} - family:
            family |= new
        return family

    def names(self) -> dict[str, str | None]:
        """The keys' names, by their ids."""
        return {id_: entry.get("name") for id_, entry in self._entries().items()}

    def mint(self, terms: Terms | None = None, by: Identity | None = None) -> MintedKey:
        """Make a key, store its hash, and return it.

        Raises InvalidRequest for an end that is over, NotPermitted where `by` would give more than it has, StorageFailed.
        """
        entry = _stored(terms or Terms())
        if by:
            check_grant(by, entry)
            if len(self.chain(by.id)) >= _DEEPEST:
                raise NotPermitted(f"there are {_DEEPEST} keys behind this one already, each minted by the one before")
            entry |= {} if by.is_master else {"minted_by": by.id}
        while (minted := self._add(secrets.token_hex(4), entry)) is None:
            pass
        return minted

    def mint_master(self) -> MintedKey | None:
        """Make the master key, where there is none yet. Raises StorageFailed."""
        return self._add(MASTER, {"name": "master"})

    def change(self, id_: str, terms: Terms, by: Identity | None = None) -> None:
        """Change what a key was given: the fields that are set, None taking one away, and of the limits those that are set.

        Raises NotFound, InvalidRequest, NotPermitted, StorageFailed.
        """
        if id_ == MASTER:
            raise InvalidRequest("the master key has no terms that could be changed", param="id")
        new = _stored(terms)
        with self._file.edit() as data:
            entry = self._managed(data, id_, by)
            kept = {name: value for name, value in entry.items() if name not in terms.model_fields_set}
            changed = {"name": None, **kept, **new}
            if terms.limits:
                taken = terms.limits.model_fields_set - new["limits"].keys()
                limits = {name: most for name, most in entry.get("limits", {}).items() if name not in taken}
                changed["limits"] = {**limits, **new["limits"]}
            if by:
                check_grant(by, changed)
            data[id_] = changed

    def rotate(self, id_: str, grace: str = GRACE, by: Identity | None = None) -> tuple[MintedKey, str]:
        """Give a key a new form; the old one works for as long as `grace` says. Returns the new, and when the old one ends.

        Raises NotFound, NotPermitted, StorageFailed.
        """
        key, until = PREFIX + secrets.token_urlsafe(32), _now() + min(duration(grace), timedelta(days=3650))
        with self._file.edit() as data:
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
        """Forget a key, at once. Raises NotFound for an unknown id, InvalidRequest for the master's."""
        if id_ == MASTER:
            raise InvalidRequest("the master key cannot be revoked; it can be rotated, with a grace of 0s", param="id")
        with self._file.edit() as data:
            self._managed(data, id_, by)
            del data[id_]

    def list(self, by: Identity | None = None) -> list[dict[str, Any]]:
        """What each key was given, and the times of its making and of its last use; neither keys nor hashes."""
        return [self._describe(id_, entry) for id_, entry in self._entries().items() if _may_manage(by, entry)]

    def describe(self, id_: str) -> dict[str, Any]:
        """The same of one key. Raises NotFound."""
        entries = self._entries()
        if id_ not in entries:
            raise _no_key()
        return self._describe(id_, entries[id_])

    def note_use(self, id_: str) -> None:
        """The key of this id is being used."""
        self._use.note(id_)

    def close(self) -> None:
        """Write what is kept in memory only: when the keys were used."""
        self._use.close()

    def _describe(self, id_: str, entry: Mapping[str, Any]) -> dict[str, Any]:
        known = identity_of(id_, entry)
        return {
            "id": id_,
            "name": known.name,
            "created": entry.get("created"),
            "last_used": self._use.of(id_),
            "expires": known.expires,
            "scopes": known.all_scopes(),
            "profiles": entry.get("profiles"),
            "limits": known.limits.given(),
            "minted_by": entry.get("minted_by"),
        }

    def _managed(self, data: JsonObject, id_: str, by: Identity | None) -> dict[str, Any]:
        """The entry of a key that `by` may manage. Raises NotFound: others' keys do not exist for it."""
        if id_ not in data or not _may_manage(by, data[id_]):
            raise _no_key()
        return dict(data[id_])

    def _add(self, id_: str, entry: Mapping[str, Any]) -> MintedKey | None:
        """Make a key of this id; None where there is one already."""
        key = PREFIX + secrets.token_urlsafe(32)
        with self._file.edit() as data:
            if id_ in data:
                return None
            created = _now().isoformat(timespec="seconds")
            data[id_] = {"name": None, "created": created, "hash": hash_of(key), **entry}
        return MintedKey(id_, key)

    def _entries(self) -> Mapping[str, dict[str, Any]]:
        """The stored keys, after replacing what a person has typed by its hash."""
        data = self._file.read()
        if any(isinstance(entry, str) for entry in data.values()):
            with self._file.edit() as data:
                for id_, entry in data.items():
                    if isinstance(entry, str):
                        data[id_] = {
                            "name": "master" if id_ == MASTER else None,
                            "created": _now().isoformat(timespec="seconds"),
                            "hash": stretch(entry.strip()),
                        }
        return data

    def _proves(self, key: str, digest: bytes, stored: str) -> bool:
        """Whether `key` is the one behind a scrypt hash. Once proven, it costs no more stretching."""
        mark = sha256(self._secret + digest + stored.encode())
        if mark in self._proofs:
            return True
        if not self._stretching.acquire(timeout=_PATIENCE):
            raise Unavailable("too many unknown keys are being checked", code="too_busy", retry_after=2)
        try:
            proven = equal(stored, stretch(key, salt=bytes.fromhex(stored.split(":")[1])))
        finally:
            self._stretching.release()
        if proven:
            self._proofs.add(mark)
        return proven


def _stored(terms: Terms) -> dict[str, Any]:
    try:
        return terms.stored()
    except ValueError as error:
        raise InvalidRequest(str(error), param="expires") from None


def _may_manage(by: Identity | None, entry: Mapping[str, Any]) -> bool:
    return by is None or by.is_master or entry.get("minted_by") == by.id


def _hashes(entry: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """A key's hash, and those of its old forms with the time until which they work."""
    return [(entry["hash"], None), *((old["hash"], old["until"]) for old in entry.get("previous", ()))]


def _chain(entries: Mapping[str, dict[str, Any]], id_: str) -> list[Identity]:
    chain: list[Identity] = []
    by: str | None = id_
    while by is not None and len(chain) < _DEEPEST:
        if by not in entries:
            raise NotAuthenticated("the key by which this one was minted is no more", param="Authorization")
        chain.append(_unexpired(identity_of(by, entries[by])))
        by = entries[by].get("minted_by")
    return chain


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
