"""The sessions in data/sessions.json, and the journal beside it of the changes that the file does not hold yet.

A change is appended to the journal, durably, which costs the same however many sessions there are. A thread folds the
journal into the file soon afterwards. A record says after how many messages it came, so that one which is in the file
already, since a kill came between folding and cutting the journal, is not added twice. The name of the request whose answer
it is stands in the same record: the same request sent again, after a kill too, gets the stored answer.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from typing_extensions import override

from services.errors import DamagedFile, HearthError, StorageFailed, Unavailable
from services.sessions.branches import size_of_branches
from services.sessions.history import stored_messages
from services.sessions.journal import Journal, Record
from services.sessions.records import check_sessions
from services.sessions.table import (
    BRANCHES,
    MOST_REQUESTS,
    REQUESTS,
    WINDOW,
    Answered,
    Kept,
    Message,
    Table,
    answer_to,
    n_same,
    size_of,
)
from services.storage.json_file import PATIENCE, JsonFile, JsonObject, SchemaError, Stamp, unreadable, unwritable
from services.storage.json_text import readable

log = logging.getLogger(__name__)

_UNREAD = (-1, -1, -1)
# Seconds between a change and the fold, so that a crowd's changes are folded together.
FOLD_AFTER = 0.3
# Seconds for which the last fold waits for other programs.
_AT_THE_END = 0.5
# The share of the time that folding takes at most: a large file is folded less often.
FOLD_SHARE = 0.05
# Seconds after which a long fold pauses for as long, so that the interpreter's lock is free for the streams.
BREATH = 0.002


class SessionTable(Table):
    """The sessions of one server, by their names in the file. Sessions that it returns are shared: not to be changed.

    Any thread may call it. `_lock` protects the table, `_writing` lets one thread at a time change the files, and lock
    files beside the data one process. Reading waits for no other program.
    """

    def __init__(self, path: Path, fold_after: float = FOLD_AFTER) -> None:
        """Fold what an earlier run has left; later changes are folded after `fold_after` seconds. Raises DamagedFile."""
        self._file = JsonFile(path, check=check_sessions, private=True)
        self._fold_after = fold_after
        self._journal = Journal(path.with_suffix(".journal"))
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._table: JsonObject = {}
        self._sizes: dict[str, int] = {}
        """The bytes of each session's messages."""
        self._kept: dict[str, Kept] = {}
        self._seen: Stamp | None = _UNREAD
        self._changed = threading.Event()
        self._settled = False
        """Whether the file still names requests whose replies are stored elsewhere now."""
        self._closing = threading.Event()
        self._folding: threading.Thread | None = None
        # Where another program holds the lock, the drafts are its own.
        with suppress(Unavailable), self._file.locked("fold", 0):
            # A kill left them half written, with words of sessions that may have been removed since.
            self._file.drop_draft()
            self._journal.drop_draft()
        self.entries()
        try:
            self.fold()
        except (StorageFailed, Unavailable) as error:
            # It is safe in the journal.
            log.error("%s", error.message)

    @override
    def get(self, entry: str) -> Any:
        # Changes of other processes, and of people to the file, are read first.
        with self._looking():
            return self._table.get(entry)

    @override
    def entries(self, owner: str | None = None) -> Mapping[str, Any]:
        with self._looking():
            return dict(self._table)

    @override
    def kept(self, owner: str) -> Kept:
        # As it was when the files were last read.
        with self._lock:
            return self._kept.get(owner, Kept())

    @override
    def add(
        self,
        entry: str,
        messages: list[Message],
        name: str,
        keep: int | None = None,
        request: Answered | None = None,
        branches: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        with self._changing():
            if request and answer_to(self._table.get(entry), request.name):
                return
            now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            had = len(self._messages(entry))
            at = had if keep is None else min(keep, had)
            cut = {"cut": True} if at < had else {}
            record = {"session": entry, "at": at, "time": now, "name": name, **cut, "messages": messages}
            if branches is not None:
                record[BRANCHES] = branches
            if request:
                record[REQUESTS] = {request.name.id: request.entry(at + len(messages) - 1, now)}
            self._record(record)

    @override
    def settle(self, entry: str, request: str) -> None:
        with self._lock:
            session = self._table.get(entry)
            if session is None or request not in session.get(REQUESTS, {}):
                return
            left = {id_: each for id_, each in session[REQUESTS].items() if id_ != request}
            self._table[entry] = _with(session, REQUESTS, left)
            # The next fold writes it. A kill before that does no harm: the session answers as the stored reply would.
            self._settled = True
            self._ask_for_fold()

    @override
    def update(self, entry: str, fields: Mapping[str, Any], messages: list[Message] | None = None) -> bool:
        with self._changing():
            if entry not in self._table:
                return False
            record: Record = {"session": entry, "set": dict(fields)}
            if messages is not None:
                record |= {"messages": messages, "same": n_same(self._messages(entry), messages)}
            self._record(record)
            return True

    @override
    def remove(self, entry: str) -> bool:
        with self._changing():
            if entry not in self._table:
                return False
            self._record({"session": entry, "removed": True})
            return True

    def fold(self, gently: bool = False, patience: float = PATIENCE) -> None:
        """Fold the journal's records into the file; `gently` leaves time to other threads. Raises HearthError.

        It waits at most `patience` seconds for other programs.
        """
        with self._file.locked("fold", patience):
            with self._changing(patience):
                if self._journal.is_empty and not self._settled:
                    return None
                self._settled = False
                table, seen, position = dict(self._table), self._seen, self._journal.position
            pieces = readable(table)
            draft, stamp = self._file.draft(_with_breaths(pieces) if gently else pieces)
            with self._changing(patience):
                if self._seen != seen or self._journal.position[0] != position[0]:
                    # The file was changed meanwhile: the journal is folded into the new one.
                    self._file.drop_draft()
                    return self._changed.set()
                self._file.put_in_place(draft)
                self._seen = stamp
                try:
                    # Records that another process has appended meanwhile stay.
                    self._journal.cut(position[1])
                except OSError as error:
                    raise self._unwritable(error) from error

    @override
    def close(self) -> None:
        """Fold the journal, and stop. What cannot be folded now is folded at the next start."""
        self._closing.set()
        self._changed.set()
        if self._folding:
            self._folding.join()
        try:
            self.fold(patience=_AT_THE_END)
        except HearthError as error:
            log.error("what the journal of sessions holds is folded at the next start: %s", error.message)

    @contextmanager
    def _changing(self, patience: float = PATIENCE) -> Iterator[None]:
        """Lock the files and the table, as they are now. Raises Unavailable where another program holds the lock."""
        with self._writing, self._file.locked(patience=patience), self._lock:
            self._refresh()
            yield

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """Lock the table, as it is now. Raises Unavailable where it has changed on disk, and another program locks it."""
        with self._lock:
            if not self._has_changed():
                yield
                return
        with self._changing():
            yield

    def _has_changed(self) -> bool:
        """Return whether another process, or a person, has changed the files."""
        return self._file.stamp() != self._seen or not self._journal.is_the_same() or self._journal.has_more()

    def _refresh(self) -> None:
        """Read the changes on disk; the files are locked. Raises DamagedFile, Unavailable."""
        try:
            if self._file.stamp() != self._seen or not self._journal.is_the_same():
                stamp = self._file.stamp()
                self._table, records = self._file.load(), self._journal.read_all()
                self._seen = stamp
                self._weigh_all()
            else:
                records = self._journal.read_new()
        except OSError as error:
            self._seen = _UNREAD
            raise unreadable(self._journal.path, error) from error
        except HearthError:
            # Half of it may have been read.
            self._seen = _UNREAD
            raise
        for number, record in enumerate(records, start=self._journal.n_records - len(records) + 1):
            try:
                self._examine(record)
            except SchemaError as error:
                self._seen = _UNREAD
                raise DamagedFile(self._journal.path, str(error), line=number) from None
            self._apply(record)

    def _examine(self, record: Record) -> None:
        """Raise SchemaError, which quotes no text of people's, for a record that is not as this class writes it."""
        entry, messages = record.get("session"), record.get("messages", [])
        good = isinstance(entry, str) and isinstance(messages, list)
        changed = _set_by(record)
        if good and changed is not None:
            good = isinstance(changed, dict)
        elif good and not record.get("removed"):
            good = all(isinstance(record.get(name), kind) for name, kind in (("at", int), ("time", str), ("name", str)))
        try:
            session = {
                **(changed or {BRANCHES: record.get(BRANCHES, [])}),
                "messages": messages,
                REQUESTS: record.get(REQUESTS, {}),
            }
            n_messages = record.get("at", 0) + len(messages) if changed is None or "messages" in record else sys.maxsize
            check_sessions({str(entry): session} if good else {"": None}, n_messages)
        except SchemaError as error:
            where = ".".join(map(str, error.path[1:]))
            raise SchemaError(error.path, f"a record is not what it should be{f', at its {where}' * bool(where)}") from None

    def _record(self, record: Record) -> None:
        # What could not be read again is never written.
        self._examine(record)
        try:
            self._journal.append(record)
        except OSError as error:
            raise self._unwritable(error) from error
        self._apply(record)
        self._ask_for_fold()

    def _ask_for_fold(self) -> None:
        self._changed.set()
        if not self._folding and not self._closing.is_set():
            self._folding = threading.Thread(target=self._fold_on_change, name="session folding", daemon=True)
            self._folding.start()

    def _apply(self, record: Record) -> None:
        """Apply a record to the table, unless that is done already."""
        entry = record["session"]
        if record.get("removed"):
            self._table.pop(entry, None)
            self._weigh(entry, None)
            return
        if (changed := _set_by(record)) is not None:
            if entry in self._table:
                self._set(entry, changed, record.get("messages"), record.get("same", 0))
            return
        new, at = record["messages"], record["at"]
        before = self._messages(entry)
        size = self._sizes.get(entry, 0) if entry in self._table else 0
        if record.get("cut"):
            # A list of its own: a fold may be writing the one that was.
            before = before[:at]
        elif before[at : at + len(new)] == new:
            # The file may have been written between the messages and the request's name.
            requests = {**self._table[entry].get(REQUESTS, {}), **record.get(REQUESTS, {})}
            self._table[entry] = _with(self._table[entry], REQUESTS, requests)
            return
        session = self._table.get(entry) or {"name": "", "created": record["time"]}
        if BRANCHES in record:
            session = _with(session, BRANCHES, record[BRANCHES])
        if record.get("cut"):
            size = size_of(before) + size_of_branches(session.get(BRANCHES, ()))
        if 2 * session.get(WINDOW, 0) > at:
            # The exchange at which the window begins is cut away.
            session = _with(session, WINDOW, None)
        requests = {id_: each for id_, each in session.get(REQUESTS, {}).items() if each["at"] < len(before)}
        requests = dict([*requests.items(), *record.get(REQUESTS, {}).items()][-MOST_REQUESTS:])
        self._table[entry] = {
            **{field: value for field, value in _with(session, REQUESTS, requests).items() if field != "history"},
            "name": (session.get("name") if before else "") or record["name"],
            "created": session.get("created") or record["time"],
            "updated": record["time"],
            # It grows in place: a copy would cost more the longer the session is.
            "messages": before,
        }
        before += new
        self._weigh(entry, size + size_of(new))

    def _set(self, entry: str, fields: Mapping[str, Any], messages: list[Message] | None, same: int) -> None:
        """Replace fields of a session, and its messages if they are given, of which the first `same` stay as they were."""
        session = self._table[entry]
        for field, value in fields.items():
            session = _with(session, field, value)
        if messages is not None:
            # An answer that a request names is there no more, or at another place.
            requests = {id_: each for id_, each in session.get(REQUESTS, {}).items() if each["at"] < same}
            session = {**_with(_with(session, REQUESTS, requests), "history", None), "messages": messages}
            if 2 * session.get(WINDOW, 0) > same:
                session = _with(session, WINDOW, None)
        self._table[entry] = session
        if messages is not None or BRANCHES in fields:
            self._weigh(entry, self._size(entry))

    def _size(self, entry: str) -> int:
        """Return the bytes of a session's messages, those of its other branches included."""
        return size_of(self._messages(entry)) + size_of_branches(self._table[entry].get(BRANCHES, ()))

    def _weigh(self, entry: str, n_bytes: int | None) -> None:
        """Note the size of a session; None: it is removed."""
        owner, had = _owner_of(entry), self._sizes.pop(entry, None)
        kept = self._kept.get(owner, Kept())
        if had is not None:
            kept += Kept(-1, -had)
        if n_bytes is not None:
            self._sizes[entry] = n_bytes
            kept += Kept(1, n_bytes)
        self._kept[owner] = kept

    def _weigh_all(self) -> None:
        self._sizes, self._kept = {}, {}
        for entry, session in self._table.items():
            if isinstance(session, dict):
                self._weigh(entry, self._size(entry))

    def _unwritable(self, error: OSError) -> HearthError:
        return unwritable(self._journal.path, error)

    def _messages(self, entry: str) -> list[Message]:
        """Return the session's messages, its own list where it has one."""
        session = self._table.get(entry)
        if session is None:
            return []
        if "history" in session or "messages" not in session:
            return stored_messages(session)
        messages: list[Message] = session["messages"]
        return messages

    def _fold_on_change(self) -> None:
        """The thread that folds."""
        while self._changed.wait() and not self._closing.wait(self._fold_after):
            self._changed.clear()
            started = time.thread_time()
            try:
                self.fold(gently=True)
            except HearthError as error:
                # It stays in the journal, and the next change tries again.
                log.error("%s", error.message)
            except Exception:
                log.exception("the journal of sessions could not be folded")
            self._closing.wait((time.thread_time() - started) / FOLD_SHARE)


def _with(session: JsonObject, field: str, value: Any) -> JsonObject:
    """Return a session with another value of a field, without the field if that is empty; a name may be."""
    rest = {name: each for name, each in session.items() if name != field}
    return {**rest, field: value} if value or field == "name" else rest


def _set_by(record: Record) -> Any:
    """Return the fields that a record sets, in this version's form or that of 0.1.0; None if it sets none."""
    if "renamed" in record:
        return {"name": record["renamed"]}
    return record.get("set", {WINDOW: record[WINDOW]} if WINDOW in record else None)


def _owner_of(entry: str) -> str:
    return entry.rpartition("/")[0]


def _with_breaths(pieces: Iterable[str]) -> Iterator[str]:
    worked = time.monotonic()
    for piece in pieces:
        yield piece
        if time.monotonic() - worked > BREATH:
            time.sleep(BREATH)
            worked = time.monotonic()
