"""`main.py migrate`: copies a server's files into a cluster's Redis, and back.

The source is left as it is. An entry that the target has already stays; one that differs is named, and the rest is copied.
So a migration can be interrupted, and run again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, field
from dataclasses import replace as replace_used
from pathlib import Path
from typing import Any

from auth.key_file import check_keys
from auth.key_use import LastUse, LocalLastUse
from auth.keys import KeyStore
from auth.usage import UsageRow, UsageStore, UsageTable, Used
from services.cluster.redis_client import RedisClient
from services.cluster.stores.jobs import RedisJobTable
from services.cluster.stores.last_use import RedisLastUse
from services.cluster.stores.responses import RedisResponseTable
from services.cluster.stores.sessions import RedisSessionTable
from services.cluster.stores.stores import cluster_keys
from services.cluster.stores.table import RedisTable
from services.cluster.stores.usage import RedisUsage
from services.errors import DamagedFile
from services.jobs.store import JobStore, StoredJob
from services.sessions.assistants import ASSISTANTS, check_assistants
from services.sessions.file_table import SessionTable
from services.sessions.history import stored_messages
from services.sessions.records import check_sessions, key_of
from services.sessions.responses import UNFINISHED, ResponseStore, ResponseTable
from services.sessions.table import BRANCHES, FOLDER, PINNED, SETTINGS
from services.settings import Settings
from services.storage.database import NAME
from services.storage.json_file import JsonFile, JsonTable

log = logging.getLogger(__name__)

# What a session has only where its owner has set or branched it.
_SET = (BRANCHES, PINNED, FOLDER, SETTINGS)
_SESSIONS, _KEYS = "sessions.json", "api_keys.json"


@dataclass
class Copied:
    """The result of a migration: the entries that were copied, those that the target had already, and those that differ."""

    replaces: bool
    """Whether entries that differ are replaced, and those that only the target has removed."""
    new: dict[str, int] = field(default_factory=dict)
    same: int = 0
    differ: list[str] = field(default_factory=list)
    only_there: list[str] = field(default_factory=list)

    def note(self, kind: str, name: str, found: object, wanted: object) -> bool:
        """Note one entry, given the target's (None: it has none) and the source's; return whether to copy it."""
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
        """Whether the target now is as the source was."""
        return self.replaces or not (self.differ or self.only_there)


def migrate(settings: Settings, client: RedisClient, replace: bool = False) -> Copied:
    """Copy the files' sessions, keys, usage, jobs and responses into Redis; with `replace` over entries that differ there.

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
            if fields := {name: session[name] for name in _SET if name in session}:
                there.update(entry, fields)
    keys = JsonFile(settings.data / _KEYS, check_keys).read()
    _copy_entries(keys, RedisTable(client, Path(_KEYS), check_keys), copied, "keys")
    assistants = JsonFile(settings.data / ASSISTANTS, check_assistants).read()
    _copy_entries(assistants, RedisTable(client, Path(ASSISTANTS), check_assistants), copied, "assistants")
    _copy_last_use(LocalLastUse(settings.data / NAME), RedisLastUse(client))
    store, usage = UsageStore(settings.data / NAME), RedisUsage(client)
    _copy_usage(store.rows(), usage.rows(), usage.add_row, copied)
    store.begin_charges(KeyStore(settings.data / _KEYS).ancestors)
    _copy_charges(store, usage)
    usage.close()
    store.close()
    _copy_jobs(settings, RedisJobTable(client, "migrate"), copied)
    responses = ResponseStore(settings.data / NAME)
    _copy_responses(responses, RedisResponseTable(client), copied)
    responses.close()
    return copied


def migrate_back(settings: Settings, client: RedisClient, replace: bool = False) -> Copied:
    """Copy from Redis into the files, as `migrate` does the other way."""
    copied = Copied(replace)
    there = RedisSessionTable(client)
    sessions = {entry: _plain(session) for entry, session in there.entries().items()}
    # This folds the journal into the file.
    _session_file(settings).close()
    _copy_entries(
        sessions, JsonFile(settings.data / _SESSIONS, check_sessions, private=True), copied, "sessions", names=True
    )
    keys = RedisTable(client, Path(_KEYS), check_keys).read()
    _copy_entries(keys, JsonFile(settings.data / _KEYS, check_keys, private=True), copied, "keys", names=True)
    assistants = RedisTable(client, Path(ASSISTANTS), check_assistants).read()
    to = JsonFile(settings.data / ASSISTANTS, check_assistants, private=True)
    _copy_entries(assistants, to, copied, "assistants", names=True)
    _copy_last_use(RedisLastUse(client), LocalLastUse(settings.data / NAME))
    here, usage = UsageStore(settings.data / NAME), RedisUsage(client)
    _copy_usage(usage.rows(), here.rows(), here.add_row, copied)
    usage.begin_charges(cluster_keys(client).ancestors)
    _copy_charges(usage, here)
    here.close()
    jobs = JobStore(settings.data / NAME)
    for job in RedisJobTable(client, "migrate").everything():
        _copy_job(job, jobs.get(job.key), jobs.add, copied)
    jobs.close()
    responses = ResponseStore(settings.data / NAME)
    _copy_responses(RedisResponseTable(client), responses, copied)
    responses.close()
    return copied


def _session_file(settings: Settings) -> SessionTable:
    return SessionTable(settings.data / _SESSIONS)


def _plain(session: Mapping[str, Any]) -> dict[str, Any]:
    """Return a session's fields that both stores have."""
    created = session.get("created") or None
    about = {"created": created, "updated": session.get("updated") or created}
    about |= {name: session[name] for name in _SET if session.get(name)}
    return {"name": session.get("name") or "", **about, "messages": stored_messages(session)}


def _known(session: Any) -> dict[str, Any] | None:
    return None if session is None else _plain(session)


def _copy_entries(source: Mapping[str, Any], target: JsonTable, copied: Copied, kind: str, names: bool = False) -> None:
    """`names`: entries that only the target has were removed from the source, and are named, or removed too."""
    with target.edit() as data:
        for name, entry in source.items():
            found = data.get(name)
            known = _plain(found) if found is not None and kind == "sessions" else found
            if copied.note(kind, name, known, entry):
                data[name] = entry
        for name in sorted(data.keys() - source.keys()) if names else ():
            copied.only_there.append(f"{kind} {name}")
            if copied.replaces:
                del data[name]


def _copy_last_use(source: LastUse, target: LastUse) -> None:
    times = _times(source)
    target.write(times, {*times, *_times(target)})
    source.close()
    target.close()


def _times(table: LastUse) -> Mapping[str, str]:
    """Return the times of a table; none of a damaged one, which is no reason to copy nothing else."""
    try:
        return table.read()
    except DamagedFile as error:
        log.warning("%s", error.message)
        return {}


def _copy_usage(
    source: Iterable[UsageRow], target: Iterable[UsageRow], add: Callable[[UsageRow], None], copied: Copied
) -> None:
    """Copy rows; to one that has grown in the source the difference is added."""
    known = {(row.key, row.day): row.used for row in target}
    for row in source:
        found = known.get((row.key, row.day))
        grown = Used(*(a - b for a, b in zip(astuple(row.used), astuple(found or Used()), strict=True)))
        if found and grown != Used() and min(astuple(grown)) >= 0:
            add(replace_used(row, used=grown))
        elif copied.note("days of usage", f"of {row.key} on {row.day}", found, row.used) and not found:
            add(row)


def _copy_charges(source: UsageTable, target: UsageTable) -> None:
    """Copy today's charges, those by revoked keys included."""
    # None of the target's own: they are copied.
    target.begin_charges(dict)
    known = target.charges()
    for account, n_tokens in source.charges().items():
        if n_tokens > known.get(account, 0):
            target.charge(account, n_tokens - known.get(account, 0))


def _copy_jobs(settings: Settings, table: RedisJobTable, copied: Copied) -> None:
    store = JobStore(settings.data / NAME)
    for job in store.everything():
        _copy_job(job, table.get(job.key), table.add, copied)
    store.close()


def _copy_responses(source: ResponseTable, target: ResponseTable, copied: Copied) -> None:
    """Copy responses; one that is finished replaces one that is not."""
    for each in source.everything():
        found = target.get(each.owner, each.id)
        is_newly_done = found is not None and found.status in UNFINISHED and each.status not in UNFINISHED
        if is_newly_done or copied.note("responses", each.id, found and found.body, each.body):
            if found:
                target.remove(each.owner, each.id)
            target.add(each)


def _copy_job(job: StoredJob, found: StoredJob | None, add: Callable[[StoredJob], None], copied: Copied) -> None:
    """Copy a job; one that is done replaces one that is not, so that it is not computed again."""
    same = found is not None and found.request.digest == job.request.digest
    is_newly_done = found is not None and same and job.finished is not None and found.finished is None
    if is_newly_done or copied.note("jobs", job.key.id, found and found.request.digest, job.request.digest):
        add(job)


def report(copied: Copied) -> Iterator[str]:
    """Yield the lines that tell a person of a migration."""
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
