"""`main.py migrate`: what a server has kept in its files goes into a cluster's Redis, and back.

What is copied is left where it was. What is there already stays; where it differs it is named, and the rest is copied. So a
migration can be interrupted, and run again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, field
from dataclasses import replace as replace_used
from pathlib import Path
from typing import Any

from auth.key_file import check_keys
from auth.keys import KeyStore
from auth.usage import UsageRow, UsageStore, UsageTable, Used
from services.cluster.redis_client import RedisClient
from services.cluster.stores.jobs import RedisJobTable
from services.cluster.stores.sessions import RedisSessionTable
from services.cluster.stores.stores import cluster_keys
from services.cluster.stores.table import RedisTable
from services.cluster.stores.usage import RedisUsage
from services.jobs.store import JobStore, StoredJob
from services.sessions.history import stored_messages
from services.sessions.records import check_sessions, key_of
from services.sessions.table import SessionTable
from services.settings import Settings
from services.storage.json_file import JsonFile, JsonTable

_SESSIONS, _KEYS, _USE = "sessions.json", "api_keys.json", "key_use.json"


@dataclass
class Copied:
    """What came of it: how many of each kind were copied, how many were there already, and which differ there."""

    replaces: bool
    """Whether what differs is replaced, and what is only there removed."""
    new: dict[str, int] = field(default_factory=dict)
    same: int = 0
    differ: list[str] = field(default_factory=list)
    only_there: list[str] = field(default_factory=list)

    def note(self, kind: str, name: str, found: object, wanted: object) -> bool:
        """Note one entry, given what is there (None: nothing) and what is to be; return whether to copy it."""
        if found is None:
            self.new[kind] = self.new.get(kind, 0) + 1
            return True
        if found == wanted:
            self.same += 1
            return False
        self.differ.append(f"{kind} {name}")
        return self.replaces

    @property
    def is_whole(self) -> bool:
        """Whether all is there now as it was where it came from."""
        return self.replaces or not (self.differ or self.only_there)


def migrate(settings: Settings, client: RedisClient, replace: bool = False) -> Copied:
    """Copy the files' sessions, keys, usage and jobs into Redis. `replace`: what differs there is replaced.

    Raises DamagedFile, StorageFailed, Unavailable.
    """
    copied = Copied(replace)
    table, there = _session_file(settings), RedisSessionTable(client)
    sessions = {entry: _plain(session) for entry, session in table.entries().items() if key_of(entry)}
    table.close()
    for entry, session in sessions.items():
        found = _known(there.get(entry))
        if copied.note("sessions", entry, found, session):
            if found:
                there.remove(entry)
            times = session["created"] or "", session["updated"] or ""
            there.restore(entry, session["messages"], json.dumps(session["name"]), *times)
    for name, check in ((_KEYS, check_keys), (_USE, None)):
        kind = "keys" if name == _KEYS else "times of use"
        source = JsonFile(settings.data / name, check).read()
        _copy_entries(source, RedisTable(client, Path(name), check), copied, kind)
    store, usage = UsageStore(settings.data / "usage.sqlite"), RedisUsage(client)
    _copy_usage(store.rows(), usage.rows(), usage.add_row, copied)
    store.begin_charges(KeyStore(settings.data / _KEYS).ancestors)
    _copy_charges(store, usage)
    usage.close()
    store.close()
    _copy_jobs(settings, RedisJobTable(client, "migrate"), copied)
    return copied


def migrate_back(settings: Settings, client: RedisClient, replace: bool = False) -> Copied:
    """The same from Redis into the files. Raises as `migrate` does."""
    copied = Copied(replace)
    there = RedisSessionTable(client)
    sessions = {entry: _plain(session) for entry, session in there.entries().items()}
    # What the journal holds goes into the file first.
    _session_file(settings).close()
    _copy_entries(
        sessions, JsonFile(settings.data / _SESSIONS, check_sessions, private=True), copied, "sessions", names=True
    )
    for name, check in ((_KEYS, check_keys), (_USE, None)):
        kind = "keys" if name == _KEYS else "times of use"
        source = RedisTable(client, Path(name), check).read()
        _copy_entries(source, JsonFile(settings.data / name, check, private=True), copied, kind, names=True)
    here = UsageStore(settings.data / "usage.sqlite")
    usage = RedisUsage(client)
    _copy_usage(usage.rows(), here.rows(), here.add_row, copied)
    usage.begin_charges(cluster_keys(client).ancestors)
    _copy_charges(usage, here)
    here.close()
    jobs = JobStore(settings.data / "jobs.sqlite")
    for job in RedisJobTable(client, "migrate").everything():
        _copy_job(job, jobs.get(job.key), jobs.add, copied)
    jobs.close()
    return copied


def _session_file(settings: Settings) -> SessionTable:
    return SessionTable(settings.data / _SESSIONS, check_sessions, stored_messages)


def _plain(session: Mapping[str, Any]) -> dict[str, Any]:
    """A session as both keep it."""
    created = session.get("created") or None
    about = {"created": created, "updated": session.get("updated") or created}
    return {"name": session.get("name") or "", **about, "messages": stored_messages(session)}


def _known(session: Any) -> dict[str, Any] | None:
    return None if session is None else _plain(session)


def _copy_entries(source: Mapping[str, Any], target: JsonTable, copied: Copied, kind: str, names: bool = False) -> None:
    """`names`: what is only in the target was forgotten or revoked where it comes from, and is named, or removed."""
    with target.edit() as data:
        for name, entry in source.items():
            found = data.get(name)
            known = _plain(found) if found is not None and kind == "sessions" else found
            if kind == "times of use":
                data[name] = max(found or entry, entry)
            elif copied.note(kind, name, known, entry):
                data[name] = entry
        for name in sorted(data.keys() - source.keys()) if names and kind != "times of use" else ():
            copied.only_there.append(f"{kind} {name}")
            if copied.replaces:
                del data[name]


def _copy_usage(
    source: Iterable[UsageRow], target: Iterable[UsageRow], add: Callable[[UsageRow], None], copied: Copied
) -> None:
    """A day that has grown is added to."""
    known = {(row.key, row.day): row.used for row in target}
    for row in source:
        found = known.get((row.key, row.day))
        grown = Used(*(a - b for a, b in zip(astuple(row.used), astuple(found or Used()), strict=True)))
        if found and grown != Used() and min(astuple(grown)) >= 0:
            add(replace_used(row, used=grown))
        elif copied.note("days of usage", f"of {row.key} on {row.day}", found, row.used) and not found:
            add(row)


def _copy_charges(source: UsageTable, target: UsageTable) -> None:
    """What accounts are charged for today, by keys too that are no more."""
    # Those that it would begin with are copied.
    target.begin_charges(dict)
    known = target.charges()
    for account, n_tokens in source.charges().items():
        if n_tokens > known.get(account, 0):
            target.charge(account, n_tokens - known.get(account, 0))


def _copy_jobs(settings: Settings, table: RedisJobTable, copied: Copied) -> None:
    store = JobStore(settings.data / "jobs.sqlite")
    for job in store.everything():
        _copy_job(job, table.get(job.key), table.add, copied)
    store.close()


def _copy_job(job: StoredJob, found: StoredJob | None, add: Callable[[StoredJob], None], copied: Copied) -> None:
    """One that is done takes the place of one that is not: it is not to be computed again."""
    same = found is not None and found.request.digest == job.request.digest
    is_newly_done = found is not None and same and job.finished is not None and found.finished is None
    if is_newly_done or copied.note("jobs", job.key.id, found and found.request.digest, job.request.digest):
        add(job)


def told(copied: Copied) -> Iterator[str]:
    """What to say of it, line by line."""
    if not any(copied.new.values()) and not copied.same and not copied.differ:
        yield "There was nothing to copy."
    for kind, count in copied.new.items():
        yield f"{count} {kind} copied."
    if copied.same:
        yield f"{copied.same} were there already."
    for name in copied.differ:
        yield f"Replaced: {name}" if copied.replaces else f"There is another already, which was left as it is: {name}"
    for name in copied.only_there:
        yield f"Removed: {name}" if copied.replaces else f"Only there, which was left: {name} (--replace removes it)"
