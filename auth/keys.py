"""The key store, data/api_keys.json: mint, check, list and revoke. It holds hashes; a key itself is shown once.

The file is `{ID: {"name", "created", "hash"}, …}`; the ID "0" is the master key. A random key of 256 bits is hashed with
SHA-256, which suffices for it. Where a person has typed a key (`"0": "my key"`), it is stretched with scrypt (RFC 7914)
and replaced by its hash when the file is next read.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import constant_time, hashes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from auth.key_use import KeyUse
from services.errors import InvalidRequest, NotFound, Unavailable
from services.json_file import JsonFile, JsonObject, Misfit

MASTER = "0"
PREFIX = "hearth-"
_EVERYBODY = ("answer", "models:read", "models:switch")
_MASTER_ONLY = ("keys", "models:pull")
# From OWASP's password storage cheat sheet: of its equal choices, the one that takes 16 MiB.
_SCRYPT = {"n": 2**14, "r": 8, "p": 5}
# How many seconds a request may wait for others' keys to be stretched, so that guesses do not take every thread.
_PATIENCE = 1.0


@dataclass(frozen=True)
class Identity:
    """Who is asking: a key's id and name, never the key."""

    id: str
    name: str | None
    scopes: frozenset[str] = frozenset()
    """What it may do beside answering, reading and switching models."""
    is_guest: bool = False
    """Whether it is somebody without a key of this server, whom a gate let in."""

    @property
    def is_master(self) -> bool:
        """Whether this is the master key, which may mint and revoke."""
        return self.id == MASTER

    def all_scopes(self) -> list[str]:
        """Everything that it may do, by name."""
        return sorted({*_EVERYBODY, *(_MASTER_ONLY if self.is_master else self.scopes - {"keys"})})

    def may(self, scope: str) -> bool:
        """Whether it may do what `scope` names; the master may do everything."""
        return self.is_master or scope in self.scopes


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
    """

    def __init__(self, path: Path) -> None:
        """Raises DamagedFile where the file is there and is not what it should be."""
        self._file = JsonFile(path, check=_check, private=True)
        self._secret = secrets.token_bytes(32)
        self._stretching = threading.Lock()
        self._proofs: set[bytes] = set()
        self._use = KeyUse(path.with_name("key_use.json"), self._entries)
        self._entries()

    def check(self, key: str) -> Identity | None:
        """Whose key it is; None where it is nobody's. Every random key's hash is compared, even after one has matched.

        Raises Unavailable where a typed key cannot be checked soon, since others' are.
        """
        entries = self._entries()
        digest = _sha256(key.encode())
        found = None
        for id_, entry in entries.items():
            if entry["hash"].startswith("sha256:") and _equal(entry["hash"], f"sha256:{digest.hex()}"):
                found = _identity(id_, entry)
        if found:
            return found
        for id_, entry in entries.items():
            if entry["hash"].startswith("scrypt:") and self._proves(key, digest, entry["hash"]):
                found = _identity(id_, entry)
        return found

    def identity(self, id_: str) -> Identity | None:
        """Whose the key of this id is; None where there is none, or none any more."""
        entry = self._entries().get(id_)
        return None if entry is None else _identity(id_, entry)

    def mint(self, name: str | None = None, scopes: Iterable[str] = ()) -> MintedKey:
        """Make a key, store its hash, and return it. Raises StorageFailed."""
        while (minted := self._add(secrets.token_hex(4), name, scopes)) is None:
            pass
        return minted

    def mint_master(self) -> MintedKey | None:
        """Make the master key, where there is none yet. Raises StorageFailed."""
        return self._add(MASTER, "master")

    def list(self) -> list[dict[str, Any]]:
        """Every key's id, name, and times of making and of its last use; neither keys nor hashes."""
        return [
            {"id": id_, "name": entry.get("name"), "created": entry.get("created"), "last_used": self._use.of(id_)}
            for id_, entry in self._entries().items()
        ]

    def note_use(self, id_: str) -> None:
        """The key of this id is being used."""
        self._use.note(id_)

    def close(self) -> None:
        """Write what is kept in memory only: when the keys were used."""
        self._use.close()

    def revoke(self, id_: str) -> None:
        """Forget a key, at once. Raises NotFound for an unknown id, InvalidRequest for the master's."""
        if id_ == MASTER:
            raise InvalidRequest(
                'the master key cannot be revoked; to replace it, type a new one at "0" in data/api_keys.json'
            )
        with self._file.edit() as data:
            if data.pop(id_, None) is None:
                raise NotFound(f"there is no key {id_}", param="id", code="key_not_found")

    def _add(self, id_: str, name: str | None, scopes: Iterable[str] = ()) -> MintedKey | None:
        """Make a key of this id; None where there is one already."""
        key = PREFIX + secrets.token_urlsafe(32)
        with self._file.edit() as data:
            if id_ in data:
                return None
            granted = {"scopes": sorted(scopes)} if scopes else {}
            data[id_] = {"name": name, "created": _now(), "hash": f"sha256:{_sha256(key.encode()).hex()}", **granted}
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
                            "created": _now(),
                            "hash": _stretch(entry.strip()),
                        }
        return data

    def _proves(self, key: str, digest: bytes, stored: str) -> bool:
        """Whether `key` is the one behind a scrypt hash. Once proven, it costs no more stretching."""
        mark = _sha256(self._secret + digest + stored.encode())
        if mark in self._proofs:
            return True
        if not self._stretching.acquire(timeout=_PATIENCE):
            raise Unavailable("too many unknown keys are being checked", code="too_busy", retry_after=2)
        try:
            proven = _equal(stored, _stretch(key, salt=bytes.fromhex(stored.split(":")[1])))
        finally:
            self._stretching.release()
        if proven:
            self._proofs.add(mark)
        return proven


def _identity(id_: str, entry: Mapping[str, Any]) -> Identity:
    return Identity(id_, entry.get("name"), frozenset(entry.get("scopes", ())))


def _stretch(key: str, salt: bytes | None = None) -> str:
    salt = salt or os.urandom(16)
    return f"scrypt:{salt.hex()}:{Scrypt(salt=salt, length=32, **_SCRYPT).derive(key.encode()).hex()}"


def _sha256(data: bytes) -> bytes:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(data)
    return digest.finalize()


def _equal(a: str, b: str) -> bool:
    return constant_time.bytes_eq(a.encode(), b.encode())


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _check(data: JsonObject) -> None:
    """Raise Misfit, naming the entry, where `data` does not hold keys."""
    for id_, entry in data.items():
        if not id_ or "/" in id_:
            raise Misfit((id_,), f'"{id_}" is no id of a key')
        if isinstance(entry, str):
            if not entry.strip():
                raise Misfit((id_,), f'key "{id_}" is empty; remove the line, and a start of the server makes a master key')
        elif not isinstance(entry, dict) or not _is_hash(entry.get("hash")):
            raise Misfit((id_,), f'key "{id_}" should be a key, or an object with a "hash" that the server wrote')
        elif not _is_list_of_texts(entry.get("scopes", [])):
            raise Misfit((id_, "scopes"), f'the "scopes" of key "{id_}" should be a list of texts')


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_hash(value: Any) -> bool:
    """Whether it is `sha256:HEX` or `scrypt:SALT:HEX`."""
    kind, *parts = value.split(":") if isinstance(value, str) else [""]
    try:
        sizes = [len(bytes.fromhex(part)) for part in parts]
    except ValueError:
        return False
    return (kind, sizes) in (("sha256", [32]), ("scrypt", [16, 32]))
