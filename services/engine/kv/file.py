"""A computed state as a file.

    magic · u32 length of the header · header · tokens · data · data of each checkpoint · SHA-256 of all before

The header is JSON: model, file, owner, session, n_tokens, n_bytes, checkpoints. Numbers are little-endian. A file that is
not whole, or is of another model, never reaches llama.cpp, which would trust it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import struct
from collections.abc import Sequence as Many
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from services.engine.kv.checkpoints import Checkpoint
from services.engine.kv.state import TOKEN_BYTES, State, StateKey

MAGIC = b"HEARTHKV1\n"
SUFFIX = ".state"
_LENGTH = struct.Struct("<I")
_MAX_HEADER = 2**16
_DIGEST = hashlib.sha256().digest_size


class DamagedState(ValueError):
    """The file is not a whole state."""


_Count = Annotated[int, Field(ge=0)]


class Header(BaseModel):
    """The header of a state file; `file` is the model's path, `checkpoints` are each one's n_tokens and n_bytes."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    model: str
    file: str
    owner: str
    session: str
    n_tokens: _Count
    n_bytes: _Count
    checkpoints: tuple[tuple[_Count, _Count], ...] = ()

    @model_validator(mode="after")
    def _ascend(self) -> Header:
        positions = [0, *(n_tokens for n_tokens, _ in self.checkpoints), self.n_tokens + 1]
        if self.checkpoints and any(one >= other for one, other in pairwise(positions)):
            raise ValueError("checkpoints are not in order")
        return self

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

    @property
    def positions(self) -> Many[int]:
        """The numbers of tokens that its checkpoints stand behind, ascending."""
        return [n_tokens for n_tokens, _ in self.header.checkpoints]


def write_state(folder: Path, state: State, file: str) -> Saved:
    """Write `state` of the model `file` into `folder`, replacing an older one of the same conversation.

    The file is whole or does not exist. Raises OSError.
    """
    n_tokens = len(state.tokens) // TOKEN_BYTES
    header = Header(
        file=file,
        **state.key._asdict(),
        n_tokens=n_tokens,
        n_bytes=len(state.data),
        checkpoints=tuple((each.n_tokens, len(each.data)) for each in state.checkpoints),
    )
    text = header.model_dump_json().encode()
    checkpoints = [each.data for each in state.checkpoints]
    parts = [MAGIC, _LENGTH.pack(len(text)), text, state.tokens, state.data, *checkpoints]
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
        n_data = header.n_bytes + sum(n_bytes for _, n_bytes in header.checkpoints)
        size = file.tell() + TOKEN_BYTES * header.n_tokens + n_data + _DIGEST
        if os.fstat(file.fileno()).st_size != size:
            raise DamagedState("its length is not what its header says")
        return Saved(path, header, file.read(TOKEN_BYTES * header.n_tokens), size)


def read_state(saved: Saved, used: float) -> State:
    """Read all of a state, and check it. Raises DamagedState where it is not as it was written; OSError."""
    header, digest = saved.header, hashlib.sha256()
    sizes = [header.n_bytes, *(n_bytes for _, n_bytes in header.checkpoints)]
    # Each of its own, so that checkpoints may stay when the rest goes.
    parts = [bytearray(size) for size in (saved.size - sum(sizes) - _DIGEST, *sizes)]
    with saved.path.open("rb") as file:
        for part in parts:
            if file.readinto(part) != len(part):
                raise DamagedState("its length has changed")
            digest.update(part)
        rest = file.read(_DIGEST + 1)
    if len(rest) != _DIGEST:
        raise DamagedState("its length has changed")
    if rest != digest.digest():
        raise DamagedState("its checksum does not match")
    head, data, *others = parts
    if not head.endswith(saved.tokens):
        raise DamagedState("it has changed since it was found")
    checkpoints = [Checkpoint(n_tokens, part) for (n_tokens, _), part in zip(header.checkpoints, others, strict=True)]
    return State(header.key, saved.tokens, data, used, tuple(checkpoints))


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
