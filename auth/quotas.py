"""Quotas: how many sessions, and how many megabytes of sessions, responses, jobs and files, each key may keep.

What a key keeps counts for every key of its chain, those by which it was minted; what a revoked key has left still counts
for them. Room is reserved before an answer is computed, so that no answer is lost for want of it: answers in flight may go
past a limit by their own length.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import Protocol

from auth.identity import MASTER, Identity
from services.errors import NotPermitted
from services.jobs.store import JobTable
from services.sessions.history import SessionKey
from services.sessions.responses import ResponseTable
from services.sessions.service import Sessions
from services.sessions.table import Kept
from services.storage.json_file import JsonTable, SchemaError

# Jobs and replies that one key may keep.
MOST_JOBS = 100_000
_MB = 10**6


class Keys(Protocol):
    """The part of `KeyStore` that quotas need."""

    def chain(self, id_: str) -> list[Identity]:
        """Return a key and those by which it was minted; empty if there is none."""
        ...

    def family(self, id_: str) -> set[str]:
        """Return the ids of a key and of all that were minted by it, and by those."""
        ...

    def names(self) -> dict[str, str | None]:
        """Return the names of all keys, by their ids."""
        ...


class OwnedTable(Protocol):
    """A table of what keys keep."""

    def kept(self, owner: str) -> Kept:
        """Return the number and the bytes of what is kept of a key; cheap."""
        ...


class Quotas:
    """The quotas of all keys; the master key has none.

    Any thread may call it; `_lock` protects the reservations, and no disk is waited for with it.
    """

    def __init__(
        self,
        keys: Keys,
        sessions: Sessions,
        jobs: JobTable,
        responses: ResponseTable,
        charged: JsonTable,
        key_sessions: int,
        key_storage_mb: int,
        files: OwnedTable | None = None,
    ) -> None:
        """`charged` keeps the ids of a key's chain for when the key is no more: `{KEY: [MINTED BY, THAT ONE BY, …]}`.

        `files` are the keys' documents; None where none are kept.
        `key_sessions` (a count) and `key_storage_mb` (megabytes) hold for keys without limits of their own; 0: no limit.
        """
        self._keys = keys
        self._sessions = sessions
        self._jobs = jobs
        self._tables: tuple[OwnedTable, ...] = (jobs, responses, *([files] if files else []))
        self._charged = charged
        self._usual = key_sessions, key_storage_mb
        self._lock = threading.Lock()
        self._reserved: dict[SessionKey, int] = {}
        """Bytes reserved for requests in flight."""

    @contextmanager
    def session(self, key: SessionKey, n_bytes: int) -> Iterator[None]:
        """Reserve room for `n_bytes` more in a session, which may be new. The caller holds the session's lock.

        Raises NotPermitted where its owner may not keep so much.
        """
        if key.owner == MASTER:
            yield
            return
        is_new = not self._is_there(key)
        with self._lock:
            before = dict(self._reserved)
            self._reserved[key] = n_bytes
        try:
            self._check(key.owner, n_bytes, is_new, before)
            yield
        finally:
            with self._lock:
                self._reserved.pop(key, None)

    def check_room(self, owner: str, n_bytes: int) -> None:
        """Raise NotPermitted where an owner may not keep one more response or file, of `n_bytes`."""
        if owner == MASTER:
            return
        with self._lock:
            reserved = dict(self._reserved)
        self._check(owner, n_bytes, False, reserved)

    def check_job(self, owner: str, n_bytes: int) -> None:
        """Raise NotPermitted where an owner may not keep one more job, of `n_bytes`."""
        if owner == MASTER:
            return
        self.check_room(owner, n_bytes)
        if (count := self._jobs.kept(owner).count) >= MOST_JOBS:
            what = f"{count:,} jobs and replies of this key are kept, as many as may be: delete some, or wait for a day"
            raise NotPermitted(what, code="jobs_limit")

    def _check(self, owner: str, n_bytes: int, is_new: bool, reserved: Mapping[SessionKey, int]) -> None:
        """Raise NotPermitted where the owner, or a key of its chain, may not keep `n_bytes` more beside what is reserved.

        `is_new`: they are those of a new session.
        """
        chain: Sequence[Identity] = self._keys.chain(owner) or [Identity(owner, None)]
        self._note_chain([each.id for each in chain])
        for account in chain:
            most, most_mb = (account.limits.sessions or self._usual[0]), (account.limits.storage_mb or self._usual[1])
            family = self._family(account.id)
            sessions = self._kept(family)
            whose = "this key" if account is chain[0] else "the key that minted this one"
            if most and is_new:
                count = self._count(family, reserved)
                if count >= most:
                    what = f"{whose} may keep {most:,} sessions, and has {count:,}: delete some (DELETE /answer/NUMBER)"
                    raise NotPermitted(what, param="limits.sessions", code="sessions_limit")
            others = sum((table.kept(each) for each in family for table in self._tables), Kept())
            coming = sum(size for key, size in reserved.items() if key.owner in family)
            used = sessions.n_bytes + others.n_bytes + coming
            if most_mb and used + n_bytes > most_mb * _MB:
                what = (
                    f"{whose} may keep {most_mb:,} MB of sessions, responses, jobs and files, and has {used / _MB:,.1f} MB"
                )
                how = (
                    "delete sessions (DELETE /answer/NUMBER), responses (DELETE /v1/responses/ID), jobs (DELETE /jobs/ID) "
                    "or files (DELETE /files/ID)"
                )
                raise NotPermitted(
                    f"{what}: {how}",
                    param="limits.storage_mb",
                    code="storage_limit",
                )

    def _kept(self, family: Set[str]) -> Kept:
        return sum((self._sessions.kept(each) for each in family), Kept())

    def _count(self, family: Set[str], reserved: Iterable[SessionKey]) -> int:
        """Return how many sessions there are, with the reserved ones that are not stored yet."""
        while True:
            count = self._kept(family).count
            coming = sum(key.owner in family and not self._is_there(key) for key in reserved)
            # One that was stored in between is in neither.
            if self._kept(family).count == count:
                return count + coming

    def _is_there(self, key: SessionKey) -> bool:
        return self._sessions.history(key).exists

    def _family(self, owner: str) -> set[str]:
        """Return the ids of the keys whose sessions and jobs count for an owner, those of revoked keys included."""
        return self._keys.family(owner) | {id_ for id_, chain in self._charged.read().items() if owner in chain}

    def _note_chain(self, chain: Sequence[str]) -> None:
        key, *by = chain
        if by and self._charged.read().get(key) != by:
            names = self._keys.names()
            with self._charged.edit() as data:
                for gone in data.keys() - names.keys():
                    if not any(table.kept(gone).count for table in (self._sessions, *self._tables)):
                        del data[gone]
                data[key] = by


def check_charged(data: dict[str, object]) -> None:
    """Raise SchemaError, naming the entry, where `data` does not hold chains of keys."""
    for id_, chain in data.items():
        if not isinstance(chain, list) or not all(isinstance(each, str) for each in chain):
            raise SchemaError((id_,), f'"{id_}" should be a list of key ids')
