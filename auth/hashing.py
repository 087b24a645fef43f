"""How keys are kept: random ones by their SHA-256, which suffices for 256 bits; typed ones stretched with scrypt."""

from __future__ import annotations

import os
from typing import Any

from cryptography.hazmat.primitives import constant_time, hashes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

# From OWASP's password storage cheat sheet: of its equal choices, the one that takes 16 MiB. RFC 7914 names the numbers.
_SCRYPT = {"n": 2**14, "r": 8, "p": 5}


def sha256(data: bytes) -> bytes:
    """The digest, of 32 bytes."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(data)
    return digest.finalize()


def hash_of(key: str) -> str:
    """How a random key is stored: `sha256:HEX`."""
    return f"sha256:{sha256(key.encode()).hex()}"


def new_salt() -> bytes:
    """A salt for `stretch`, of 16 bytes."""
    return os.urandom(16)


def stretch(key: str, salt: bytes) -> str:
    """How a typed key is stored: `scrypt:SALT:HEX`."""
    return f"scrypt:{salt.hex()}:{Scrypt(salt=salt, length=32, **_SCRYPT).derive(key.encode()).hex()}"


def equal(a: str, b: str) -> bool:
    """Whether two hashes are the same; it takes as long however early they differ."""
    return constant_time.bytes_eq(a.encode(), b.encode())


def is_hash(value: Any) -> bool:
    """Whether it is `sha256:HEX` or `scrypt:SALT:HEX`."""
    kind, *parts = value.split(":") if isinstance(value, str) else [""]
    try:
        sizes = [len(bytes.fromhex(part)) for part in parts]
    except ValueError:
        return False
    return (kind, sizes) in (("sha256", [32]), ("scrypt", [16, 32]))
