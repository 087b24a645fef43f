"""All sessions as one table: data/sessions.json, and the journal beside it of what that does not hold yet.

A change is appended to the journal, durably, which costs the same however many sessions there are. A thread of its own
folds the journal into the file soon afterwards. A record says after how many messages it came, so that one which is in the
file already, since a kill came between folding and cutting the journal, is not added twice. The name of the request whose
answer it is stands in the same record: whoever sends that request again, after a kill too, is answered by what is stored.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from services.errors import DamagedFile, HearthError, StorageFailed, Unavailable, Unprocessable
from services.sessions.journal import Journal, Record
from services.storage.json_file import PATIENCE, JsonFile, JsonObject, SchemaError, Stamp, unreadable, unwritable
from services.storage.json_text import readable

log = logging.getLogger(__name__)

Message = dict[str, str]
# How many of a session's first exchanges its prompts leave out.
WINDOW = "window"
# The requests whose answers a session holds, and whose replies are kept nowhere else yet; a name is good for a day.
REQUESTS = "requests"
MOST_REQUESTS, GOOD_FOR = 100, timedelta(days=1)
_UNREAD = (-1, -1, -1)
# A fold begins so long after a change, so that a crowd's changes are folded together, in seconds.
FOLD_AFTER = 0.3
# Seconds for which the last fold of all waits for other programs.
_AT_THE_END = 0.5
# Folding takes at most so much of the time: a large file is folded less often.
FOLD_SHARE = 0.05
# A long fold pauses for as long as it has worked, so that the interpreter's lock is free for the streams, in seconds.
BREATH = 0.002


@dataclass(frozen=True)
class RequestName:
    """What a caller calls a request that is to be computed once, and what is equal for equal requests."""

    id: str
    digest: str


@dataclass(frozen=True)
class Answered:
    """The request that an exchange answers, and what its reply tells beside the text."""

    name: RequestName
    told: Mapping[str, Any]

    def entry(self, at: int, time: str) -> dict[str, Any]:
        """How a session keeps it; `at` is which of its messages the answer is."""
        return {"digest": self.name.digest, "at": at, "time": time, "told": dict(self.told)}


@dataclass(frozen=True)
class Kept:
    """How much is kept of one key: how many sessions or jobs, and how many bytes they are."""

    count: int = 0
    n_bytes: int = 0

    def __add__(self, other: Kept) -> Kept:
        return Kept(self.count + other.count, self.n_bytes + other.n_bytes)


class SessionTable:
    """Entry → session, as in the file. What it gives is shared: not to be changed.

    Any thread may call it. `_lock` protects the table, `_writing` lets one thread at a time change the files, and lock
    files beside the data one process. Who only reads waits for no other program.
    """

    def __init__(
        self, path: Path, check: Callable[[JsonObject], None], old_messages: Callable[[Any], list[Message]]
    ) -> None:
        """`check` raises SchemaError for what is no table of sessions; `old_messages` gives those of a session in an older
        form.

        Folds what an earlier run has left. Raises DamagedFile.
        """
        self._file = JsonFile(path, check=check, private=True)
        self._journal = Journal(path.with_suffix(".journal"))
        self._old_messages = old_messages
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._table: JsonObject = {}
        self._sizes: dict[str, int] = {}
        """How many bytes each session's messages are."""
        self._kept: dict[str, Kept] = {}
        self._seen: Stamp | None = _UNREAD
        self._changed = threading.Event()
        self._settled = False
        """Whether the file still names requests whose replies are kept elsewhere now."""
        self._closing = threading.Event()
        self._folder: threading.Thread | None = None
        self._check = check
        # Where another program holds the lock, the drafts are its own.
        with suppress(Unavailable), self._file.alone("fold", 0):
            # What a kill left half written; it would keep words of sessions that are forgotten meanwhile.
            self._file.drop_draft()
            self._journal.drop_draft()
        self.entries()
        try:
            self.fold()
        except (StorageFailed, Unavailable) as error:
            # It is safe in the journal.
            log.error("%s", error.message)

    def get(self, entry: str) -> Any:
        """A session as it is now, another process's and a person's changes to the file included; None where there is none.

        Raises DamagedFile.
        """
        with self._looking():
            return self._table.get(entry)

    def entries(self, owner: str | None = None) -> Mapping[str, Any]:
        """All sessions as they are now, whoever's. Raises DamagedFile."""
        with self._looking():
            return dict(self._table)

    def kept(self, owner: str) -> Kept:
        """How much there is of an owner's sessions, as it last was seen; "" are those without an owner in their entry."""
        with self._lock:
            return self._kept.get(owner, Kept())

    def add(
        self,
        entry: str,
        messages: list[Message],
        name: str,
        keep: int | None = None,
        request: Answered | None = None,
    ) -> None:
        """Append to a session, durably, all or nothing; one that is not yet comes into being as `name`.

        `keep` says how many of its messages stay; None: all. `request` is what the last message answers: where that is
        answered already nothing is added. Raises StorageFailed, DamagedFile, Unavailable.
        """
        with self._changing():
            if request and answer_to(self._table.get(entry), request.name):
                return
            now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            had = len(self._messages(entry))
            at = had if keep is None else min(keep, had)
            cut = {"cut": True} if at < had else {}
            record = {"session": entry, "at": at, "time": now, "name": name, **cut, "messages": messages}
            if request:
                record[REQUESTS] = {request.name.id: request.entry(at + len(messages) - 1, now)}
            self._record(record)

    def settle(self, entry: str, request: str) -> None:
        """The reply to a request is kept elsewhere now, so that its session need not know its name any more."""
        with self._lock:
            session = self._table.get(entry)
            if session is None or request not in session.get(REQUESTS, {}):
                return
            left = {id_: each for id_, each in session[REQUESTS].items() if id_ != request}
            self._table[entry] = _with_requests(session, left)
            # The next fold writes it. A kill before that does no harm: the session answers, as the reply would.
            self._settled = True
            self._ask_for_fold()

    def rename(self, entry: str, name: str) -> bool:
        """Give a session another name, durably; False where there is none. Raises StorageFailed, DamagedFile."""
        with self._changing():
            if entry not in self._table:
                return False
            self._record({"session": entry, "renamed": name})
            return True

    def set_window(self, entry: str, start: int) -> None:
        """Keep how many of a session's first exchanges prompts leave out, durably. Raises StorageFailed, DamagedFile."""
        with self._changing():
            if entry in self._table:
                self._record({"session": entry, WINDOW: start})

    def remove(self, entry: str) -> bool:
        """Forget a session, durably; False where there is none. Raises StorageFailed, DamagedFile."""
        with self._changing():
            if entry not in self._table:
                return False
            self._record({"session": entry, "removed": True})
            return True

    def fold(self, gently: bool = False, patience: float = PATIENCE) -> None:
        """Bring the journal's records into the file; `gently` leaves time to other threads. Raises HearthError.

        It waits `patience` seconds for other programs at most.
        """
        with self._file.alone("fold", patience):
            with self._changing(patience):
                if self._journal.is_empty and not self._settled:
                    return None
                self._settled = False
                table, seen, position = dict(self._table), self._seen, self._journal.position
            pieces = readable(table)
            draft, stamp = self._file.draft(_with_breaths(pieces) if gently else pieces)
            with self._changing(patience):
                # What another process has appended meanwhile is to stay in the journal.
                if self._seen != seen or self._journal.position[0] != position[0]:
                    # Somebody changed the file meanwhile: it is folded into what that is now.
                    self._file.drop_draft()
                    return self._changed.set()
                self._file.put_in_place(draft)
                self._seen = stamp
                try:
                    self._journal.cut(position[1])
                except OSError as error:
                    raise self._unwritable(error) from error

    def close(self) -> None:
        """Fold what is left, and stop. What cannot be folded now stays in the journal, and is folded at the next start."""
        self._closing.set()
        self._changed.set()
        if self._folder:
            self._folder.join()
        try:
            self.fold(patience=_AT_THE_END)
        except HearthError as error:
            log.error("what the journal of sessions holds is folded at the next start: %s", error.message)

    @contextmanager
    def _changing(self, patience: float = PATIENCE) -> Iterator[None]:
        """Alone at the files, and at the table as it is now. Raises Unavailable where another program keeps them."""
        with self._writing, self._file.alone(patience=patience), self._lock:
            self._refresh()
            yield

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """The table as it is now. Raises Unavailable where it has changed on disk, and another program keeps it."""
        with self._lock:
            if not self._has_changed():
                yield
                return
        with self._changing():
            yield

    def _has_changed(self) -> bool:
        """Whether somebody else has changed the files."""
        return self._file.stamp() != self._seen or not self._journal.is_the_same() or self._journal.has_more()

    def _refresh(self) -> None:
        """Take in what has changed on disk. Only while this process is alone at the files."""
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
            # Half of it may have been taken in.
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
        """Raises SchemaError, with no word of what people wrote, where a record read from the disk is not what it should
        be.
        """
        entry, messages = record.get("session"), record.get("messages", [])
        good = isinstance(entry, str) and isinstance(messages, list)
        if good and "renamed" in record:
            good = isinstance(record["renamed"], str)
        elif good and WINDOW in record:
            good = isinstance(record[WINDOW], int)
        elif good and not record.get("removed"):
            good = all(isinstance(record.get(name), kind) for name, kind in (("at", int), ("time", str), ("name", str)))
        try:
            told = {"messages": messages, REQUESTS: record.get(REQUESTS, {})}
            self._check({str(entry): told} if good else {"": None})
        except SchemaError as error:
            where = ".".join(map(str, error.path[1:]))
            raise SchemaError(error.path, f"a record is not what it should be{f', at its {where}' * bool(where)}") from None

    def _record(self, record: Record) -> None:
        try:
            self._journal.append(record)
        except OSError as error:
            raise self._unwritable(error) from error
        self._apply(record)
        self._ask_for_fold()

    def _ask_for_fold(self) -> None:
        self._changed.set()
        if not self._folder and not self._closing.is_set():
            self._folder = threading.Thread(target=self._fold_on_change, name="session folder", daemon=True)
            self._folder.start()

    def _apply(self, record: Record) -> None:
        """Change the table as a record says, unless that is done already."""
        entry = record["session"]
        if record.get("removed"):
            self._table.pop(entry, None)
            self._weigh(entry, None)
            return
        if "renamed" in record or WINDOW in record:
            if entry in self._table:
                changed = {"name": record["renamed"]} if "renamed" in record else {WINDOW: record[WINDOW]}
                self._table[entry] = {**self._table[entry], **changed}
            return
        new, at = record["messages"], record["at"]
        before = self._messages(entry)
        size = self._sizes.get(entry, 0) if entry in self._table else 0
        if record.get("cut"):
            # A list of its own: a fold may be writing the one that was.
            before = before[:at]
            size = size_of(before)
        elif before[at : at + len(new)] == new:
            return
        session = self._table.get(entry) or {"name": "", "created": record["time"]}
        if 2 * session.get(WINDOW, 0) > at:
            # What the window began with is cut away.
            session = {field: value for field, value in session.items() if field != WINDOW}
        requests = {id_: each for id_, each in session.get(REQUESTS, {}).items() if each["at"] < len(before)}
        requests = dict([*requests.items(), *record.get(REQUESTS, {}).items()][-MOST_REQUESTS:])
        self._table[entry] = {
            **{field: value for field, value in _with_requests(session, requests).items() if field != "history"},
            "name": (session.get("name") if before else "") or record["name"],
            "created": session.get("created") or record["time"],
            "updated": record["time"],
            # Grown in place: to copy it would cost more the longer the session is.
            "messages": before,
        }
        before += new
        self._weigh(entry, size + size_of(new))

    def _weigh(self, entry: str, n_bytes: int | None) -> None:
        """Note how large a session is now; None: it is no more."""
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
                self._weigh(entry, size_of(self._messages(entry)))

    def _unwritable(self, error: OSError) -> HearthError:
        return unwritable(self._journal.path, error)

    def _messages(self, entry: str) -> list[Message]:
        """The session's messages, its own list where it has one."""
        session = self._table.get(entry)
        if session is None:
            return []
        if "history" in session or "messages" not in session:
            return self._old_messages(session)
        messages: list[Message] = session["messages"]
        return messages

    def _fold_on_change(self) -> None:
        """The folder's thread."""
        while self._changed.wait() and not self._closing.wait(FOLD_AFTER):
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


def size_of(messages: Iterable[Message]) -> int:
    """How many bytes of text (UTF-8) messages hold."""
    texts = (message["content"] for message in messages)
    return sum(len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass")) for text in texts)


def answer_to(session: Any, name: RequestName) -> Mapping[str, Any] | None:
    """What a session knows of the request of this name: "digest", "at", "told"; None where it holds no answer to it.

    Raises Unprocessable where another request has that name.
    """
    known: Mapping[str, Any] | None = ((session or {}).get(REQUESTS) or {}).get(name.id)
    if known is None or known["time"] < (datetime.now(timezone.utc) - GOOD_FOR).isoformat(timespec="seconds"):
        return None
    if known["digest"] != name.digest:
        raise name_taken(name.id)
    return known


def name_taken(id_: str) -> Unprocessable:
    """What to raise where another request has the name, "key:NAME" or "job:NAME"."""
    kind, _, shown = id_.partition(":")
    what = f"{shown} was sent before, with another request: a new request needs a name of its own"
    return Unprocessable(what, param="job_id" if kind == "job" else "Idempotency-Key", code="name_taken")


def _with_requests(session: JsonObject, requests: JsonObject) -> JsonObject:
    rest = {field: value for field, value in session.items() if field != REQUESTS}
    return {**rest, REQUESTS: requests} if requests else rest


def _owner_of(entry: str) -> str:
    return entry.rpartition("/")[0]


def _with_breaths(pieces: Iterable[str]) -> Iterator[str]:
    worked = time.monotonic()
    for piece in pieces:
        yield piece
        if time.monotonic() - worked > BREATH:
            time.sleep(BREATH)
            worked = time.monotonic()
