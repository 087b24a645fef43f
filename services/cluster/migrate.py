"""`main.py migrate`: what a server has kept in its files goes into a cluster's Redis, and back.

What is copied is left where it was. What is there already stays; where it differs it is named, and the rest is copied. So a
migration can be interrupted, and run again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from auth.key_file import check_keys
from auth.usage import UsageStore
from services.cluster.jobs import RedisJobTable
from services.cluster.link import Link
from services.cluster.sessions import RedisSessionTable
from services.cluster.table import RedisTable
from services.cluster.usage import RedisUsage
from services.job_store import JobStore, StoredJob
from services.json_file import JsonFile, JsonTable
from services.session_history import stored_messages
from services.session_table import SessionTable
from services.sessions import check_sessions, key_of
from services.settings import Settings

_SESSIONS, _KEYS, _USE = "sessions.json", "api_keys.json", "key_use.json"


@dataclass
class Copied:
    """What came of it: how many of each kind were copied, how many were there already, and which differ there."""

    new: dict[str, int] = field(default_factory=dict)
    same: int = 0
    differ: list[str] = field(default_factory=list)

    def note(self, kind: str, name: str, found: object, wanted: object) -> bool:
        """Note one entry, given what is there (None: nothing) and what is to be; return whether to copy it."""
        self.new.setdefault(kind, 0)
        if found is None:
            self.new[kind] += 1
            return True
        if found == wanted:
            self.same += 1
        else:
            self.differ.append(f"{kind} {name}")
        return False


def migrate(settings: Settings, link: Link, replace: bool = False) -> Copied:
    """Copy the files' sessions, keys, usage and jobs into Redis. `replace`: what differs there is replaced.

    Raises DamagedFile, StorageFailed, Unavailable.
    """
    copied = Copied()
    table, there = _session_file(settings), RedisSessionTable(link)
    sessions = {entry: _plain(session) for entry, session in table.entries().items() if key_of(entry)}
    table.close()
    for entry, session in sessions.items():
        found = _known(there.get(entry))
        if copied.note("sessions", entry, found, session) or (replace and found != session):
            if found:
                there.remove(entry)
            times = session["created"] or "", session["updated"] or ""
            there.restore(entry, session["messages"], json.dumps(session["name"]), *times)
    for name, check in ((_KEYS, check_keys), (_USE, None)):
        kind = "keys" if name == _KEYS else "times of use"
        source = JsonFile(settings.data / name, check).read()
        _copy_entries(source, RedisTable(link, Path(name), check), copied, kind, replace)
    _copy_usage(settings, RedisUsage(link), copied)
    _copy_jobs(settings, RedisJobTable(link, "migrate"), copied)
    return copied


def migrate_back(settings: Settings, link: Link, replace: bool = False) -> Copied:
    """The same from Redis into the files. Raises as `migrate` does."""
    copied = Copied()
    there = RedisSessionTable(link)
    sessions = {entry: _plain(session) for entry, session in there.entries().items()}
    # What the journal holds goes into the file first.
    _session_file(settings).close()
    _copy_entries(sessions, JsonFile(settings.data / _SESSIONS, check_sessions, private=True), copied, "sessions", replace)
    for name, check in ((_KEYS, check_keys), (_USE, None)):
        kind = "keys" if name == _KEYS else "times of use"
        source = RedisTable(link, Path(name), check).read()
        _copy_entries(source, JsonFile(settings.data / name, check, private=True), copied, kind, replace)
    here, usage = UsageStore(settings.data / "usage.sqlite"), RedisUsage(link)
    known = {(row.key, row.day): row.used for row in here.rows()}
    for row in usage.rows():
        if copied.note("days of usage", f"of {row.key} on {row.day}", known.get((row.key, row.day)), row.used):
            here.add_row(row)
    here.close()
    jobs = JobStore(settings.data / "jobs.sqlite")
    for job in RedisJobTable(link, "migrate").everything():
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


def _copy_entries(source: Mapping[str, Any], target: JsonTable, copied: Copied, kind: str, replace: bool) -> None:
    with target.edit() as data:
        for name, entry in source.items():
            found = data.get(name)
            known = _plain(found) if found is not None and kind == "sessions" else found
            if kind == "times of use" and found is not None:
                data[name] = max(found, entry)
            elif copied.note(kind, name, known, entry) or replace:
                data[name] = entry


def _copy_usage(settings: Settings, usage: RedisUsage, copied: Copied) -> None:
    store = UsageStore(settings.data / "usage.sqlite")
    known = {(row.key, row.day): row.used for row in usage.rows()}
    for row in store.rows():
        if copied.note("days of usage", f"of {row.key} on {row.day}", known.get((row.key, row.day)), row.used):
            usage.add_row(row)
    store.close()


def _copy_jobs(settings: Settings, table: RedisJobTable, copied: Copied) -> None:
    store = JobStore(settings.data / "jobs.sqlite")
    for job in store.everything():
        _copy_job(job, table.get(job.key), table.add, copied)
    store.close()


def _copy_job(job: StoredJob, found: StoredJob | None, add: Callable[[StoredJob], None], copied: Copied) -> None:
    if copied.note("jobs", job.key.id, found and found.request.digest, job.request.digest):
        add(job)


def told(copied: Copied, replaced: bool) -> Iterator[str]:
    """What to say of it, line by line."""
    if not any(copied.new.values()) and not copied.same and not copied.differ:
        yield "There was nothing to copy."
    for kind, count in copied.new.items():
        if count:
            yield f"{count} {kind} copied."
    if copied.same:
        yield f"{copied.same} were there already."
    for name in copied.differ:
        yield f"Replaced: {name}" if replaced else f"There is another already, which was left as it is: {name}"
