"""A computed state as a file.

    magic · u32 length of the header · header · tokens · data · SHA-256 of all before

The header is JSON: model, file, owner, session, n_tokens, n_bytes. Numbers are little-endian. A file that is not whole,
or is of another model, never reaches llama.cpp, which would trust it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.engine.kv.state import TOKEN_BYTES, State, StateKey

MAGIC = b"HEARTHKV1\n"
SUFFIX = ".state"
_LENGTH = struct.Struct("<I")
_MAX_HEADER = 2**16
_DIGEST = hashlib.sha256().digest_size


class DamagedState(ValueError):
    """The file is not a whole state."""


class Header(BaseModel):
    """The header of a state file; `file` is the model's path."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    model: str
    file: str
    owner: str
    session: str
    n_tokens: int = Field(ge=0)
    n_bytes: int = Field(ge=0)

    @property
    def key(self) -> StateKey:
        """The conversation that it belongs to."""
        return StateKey(self.model, self.owner, self.session)


@dataclass(frozen=True, eq=False)
class Saved:
    """A state on disk: everything but its data. `size` is the whole file's, in bytes."""

    path: Path
    header: Header
    tokens: bytes
    size: int


def write_state(folder: Path, state: State, file: str) -> Saved:
    """Write `state` of the model `file` into `folder`, replacing an older one of the same conversation.

    The file is whole or does not exist. Raises OSError.
    """
    n_tokens = len(state.tokens) // TOKEN_BYTES
    header = Header(file=file, **state.key._asdict(), n_tokens=n_tokens, n_bytes=len(state.data))
    text = header.model_dump_json().encode()
    parts = [MAGIC, _LENGTH.pack(len(text)), text, state.tokens, state.data]
    digest = hashlib.sha256()
    path = folder / (hashlib.sha256(repr(tuple(state.key)).encode()).hexdigest()[:32] + SUFFIX)
    # Another process may write the same one.
    draft = path.with_suffix(f".{secrets.token_hex(8)}.new")
    with os.fdopen(os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as out:
        for part in parts:
            digest.update(part)
            out.write(part)
        out.write(digest.digest())
        out.flush()
        os.fsync(out.fileno())
    draft.replace(path)
    return Saved(path, header, state.tokens, sum(map(len, parts)) + _DIGEST)


def read_saved(path: Path) -> Saved:
    """Read a file but for its data. Raises DamagedState where its length shows that it is not whole; OSError."""
    with path.open("rb") as file:
        header = _read_header(file)
        size = file.tell() + TOKEN_BYTES * header.n_tokens + header.n_bytes + _DIGEST
        if os.fstat(file.fileno()).st_size != size:
            raise DamagedState("its length is not what its header says")
        return Saved(path, header, file.read(TOKEN_BYTES * header.n_tokens), size)


def read_state(saved: Saved, used: float) -> State:
    """Read all of a state, and check it. Raises DamagedState where it is not as it was written; OSError."""
    content = memoryview(bytearray(saved.size))
    with saved.path.open("rb") as file:
        if file.readinto(content) != saved.size or file.read(1):
            raise DamagedState("its length has changed")
    whole, digest = content[:-_DIGEST], content[-_DIGEST:]
    if hashlib.sha256(whole).digest() != digest:
        raise DamagedState("its checksum does not match")
    start = len(whole) - saved.header.n_bytes
    if whole[start - len(saved.tokens) : start] != saved.tokens:
        raise DamagedState("it has changed since it was found")
    return State(saved.header.key, saved.tokens, whole[start:], used)


def _read_header(file: BinaryIO) -> Header:
    if file.read(len(MAGIC)) != MAGIC:
        raise DamagedState("it does not begin as a state does")
    raw = file.read(_LENGTH.size)
    length: Any = _LENGTH.unpack(raw)[0] if len(raw) == _LENGTH.size else 0
    if not 0 < length <= _MAX_HEADER:
        raise DamagedState("its header is too short or too long")
    try:
        return Header.model_validate_json(file.read(length))
    except ValidationError as error:
        raise DamagedState("its header is not what it should be") from error
