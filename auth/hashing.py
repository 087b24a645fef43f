"""Hashes of keys: SHA-256 for random ones, which suffices for 256 bits; scrypt for ones that a person typed."""

from __future__ import annotations

import os
from typing import Any

from cryptography.hazmat.primitives import constant_time, hashes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

# From OWASP's password storage cheat sheet: of its equal choices, the one that takes 16 MiB. RFC 7914 names the numbers.
_SCRYPT = {"n": 2**14, "r": 8, "p": 5}


def sha256(data: bytes) -> bytes:
    """Return the digest, of 32 bytes."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(data)
    return digest.finalize()


def hash_of(key: str) -> str:
    """Return the stored form of a random key, `sha256:HEX`."""
    return f"sha256:{sha256(key.encode()).hex()}"


def new_salt() -> bytes:
    """Return a salt for `stretch`, of 16 bytes."""
    return os.urandom(16)


def stretch(key: str, salt: bytes) -> str:
    """Return the stored form of a typed key, `scrypt:SALT:HEX`."""
    return f"scrypt:{salt.hex()}:{Scrypt(salt=salt, length=32, **_SCRYPT).derive(key.encode()).hex()}"


def equal(a: str, b: str) -> bool:
    """Return whether two hashes are the same, in a time that does not depend on where they differ."""
    return constant_time.bytes_eq(a.encode(), b.encode())


def is_hash(value: Any) -> bool:
    """Return whether a value is `sha256:HEX` or `scrypt:SALT:HEX`."""
    kind, *parts = value.split(":") if isinstance(value, str) else [""]
    try:
        sizes = [len(bytes.fromhex(part)) for part in parts]
    except ValueError:
        return False
    return (kind, sizes) in (("sha256", [32]), ("scrypt", [16, 32]))
