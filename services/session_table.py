"""All sessions as one table: data/sessions.json, and the journal beside it of what that does not hold yet.

A change is appended to the journal, durably, which costs the same however many sessions there are. A thread of its own
folds the journal into the file soon afterwards. A record says after how many messages it came, so that one which is in the
file already, since a kill came between folding and cutting the journal, is not added twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from services.errors import DamagedFile, HearthError, StorageFailed
from services.journal import Journal, Record
from services.json_file import JsonFile, JsonObject, Misfit, Stamp
from services.json_text import readable

log = logging.getLogger(__name__)

Message = dict[str, str]
# How many of a session's first exchanges its prompts leave out.
WINDOW = "window"
_UNREAD = (-1, -1, -1)
# A fold begins so long after a change, so that a crowd's changes are folded together, in seconds.
FOLD_AFTER = 0.3
# Folding takes at most so much of the time: a large file is folded less often.
FOLD_SHARE = 0.05
# A long fold pauses for as long as it has worked, so that the interpreter's lock is free for the streams, in seconds.
BREATH = 0.002


class SessionTable:
    """Entry → session, as in the file. What it gives is shared: not to be changed.

    Any thread may call it. `_turn` protects the table; lock files beside the data serialize processes.
    """

    def __init__(
        self, path: Path, check: Callable[[JsonObject], None], old_messages: Callable[[Any], list[Message]]
    ) -> None:
        """`check` raises Misfit for what is no table of sessions; `old_messages` gives those of a session in an older form.

        Folds what an earlier run has left. Raises DamagedFile.
        """
        self._file = JsonFile(path, check=check, private=True)
        self._journal = Journal(path.with_suffix(".journal"))
        self._old_messages = old_messages
        self._turn = threading.RLock()
        self._table: JsonObject = {}
        self._seen: Stamp | None = _UNREAD
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._folder: threading.Thread | None = None
        self._check = check
        with self._file.alone("fold"):
            # What a kill left half written; it would keep words of sessions that are forgotten meanwhile.
            self._file.drop_draft()
            self._journal.drop_draft()
        self.entries()
        try:
            self.fold()
        except StorageFailed as error:
            # It is safe in the journal.
            log.error("%s", error.message)

    def get(self, entry: str) -> Any:
        """A session as it is now, another process's and a person's changes to the file included; None where there is none.

        Raises DamagedFile.
        """
        with self._turn:
            self._look()
            return self._table.get(entry)

    def entries(self, owner: str | None = None) -> Mapping[str, Any]:
        """All sessions as they are now, whoever's. Raises DamagedFile."""
        with self._turn:
            self._look()
            return dict(self._table)

    def add(self, entry: str, messages: list[Message], name: str, keep: int | None = None) -> None:
        """Append to a session, durably, all or nothing; one that is not yet comes into being as `name`.

        `keep` says how many of its messages stay; None: all. Raises StorageFailed, DamagedFile.
        """
        with self._turn, self._file.alone():
            self._refresh()
            now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            had = len(self._messages(entry))
            at = had if keep is None else min(keep, had)
            cut = {"cut": True} if at < had else {}
            self._record({"session": entry, "at": at, "time": now, "name": name, **cut, "messages": messages})

    def rename(self, entry: str, name: str) -> bool:
        """Give a session another name, durably; False where there is none. Raises StorageFailed, DamagedFile."""
        with self._turn, self._file.alone():
            self._refresh()
            if entry not in self._table:
                return False
            self._record({"session": entry, "renamed": name})
            return True

    def set_window(self, entry: str, start: int) -> None:
        """Keep how many of a session's first exchanges prompts leave out, durably. Raises StorageFailed, DamagedFile."""
        with self._turn, self._file.alone():
            self._refresh()
            if entry in self._table:
                self._record({"session": entry, WINDOW: start})

    def remove(self, entry: str) -> bool:
        """Forget a session, durably; False where there is none. Raises StorageFailed, DamagedFile."""
        with self._turn, self._file.alone():
            self._refresh()
            if entry not in self._table:
                return False
            self._record({"session": entry, "removed": True})
            return True

    def fold(self, gently: bool = False) -> None:
        """Bring the journal's records into the file; `gently` leaves time to other threads. Raises HearthError."""
        with self._file.alone("fold"):
            with self._turn, self._file.alone():
                self._refresh()
                if self._journal.is_empty:
                    return None
                table, seen, position = dict(self._table), self._seen, self._journal.position
            pieces = readable(table)
            draft, stamp = self._file.draft(_with_breaths(pieces) if gently else pieces)
            with self._turn, self._file.alone():
                # What another process has appended meanwhile is to stay in the journal.
                self._refresh()
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
            self.fold()
        except HearthError as error:
            log.error("%s", error.message)

    def _look(self) -> None:
        """Take in what has changed on disk, if anything has."""
        if self._file.stamp() != self._seen or not self._journal.is_the_same() or self._journal.has_more():
            with self._file.alone():
                self._refresh()

    def _refresh(self) -> None:
        """Take in what has changed on disk. Only while this process is alone at the files."""
        try:
            if self._file.stamp() != self._seen or not self._journal.is_the_same():
                stamp = self._file.stamp()
                self._table, records = self._file.load(), self._journal.read_all()
                self._seen = stamp
            else:
                records = self._journal.read_new()
        except OSError as error:
            raise DamagedFile(self._journal.path, f"cannot be read: {error.strerror}") from error
        for number, record in enumerate(records, start=self._journal.n_records - len(records) + 1):
            try:
                self._examine(record)
            except Misfit as error:
                self._seen = _UNREAD
                raise DamagedFile(self._journal.path, str(error), line=number) from None
            self._apply(record)

    def _examine(self, record: Record) -> None:
        """Raises Misfit, with no word of what people wrote, where a record read from the disk is not what it should be."""
        entry, messages = record.get("session"), record.get("messages", [])
        good = isinstance(entry, str) and isinstance(messages, list)
        if good and "renamed" in record:
            good = isinstance(record["renamed"], str)
        elif good and WINDOW in record:
            good = isinstance(record[WINDOW], int)
        elif good and not record.get("removed"):
            good = all(isinstance(record.get(name), kind) for name, kind in (("at", int), ("time", str), ("name", str)))
        try:
            self._check({str(entry): {"messages": messages}} if good else {"": None})
        except Misfit as error:
            where = ".".join(map(str, error.path[1:]))
            raise Misfit(error.path, f"a record is not what it should be{f', at its {where}' * bool(where)}") from None

    def _record(self, record: Record) -> None:
        try:
            self._journal.append(record)
        except OSError as error:
            raise self._unwritable(error) from error
        self._apply(record)
        self._changed.set()
        if not self._folder and not self._closing.is_set():
            self._folder = threading.Thread(target=self._fold_on_change, name="session folder", daemon=True)
            self._folder.start()

    def _apply(self, record: Record) -> None:
        """Change the table as a record says, unless that is done already."""
        entry = record["session"]
        if record.get("removed"):
            self._table.pop(entry, None)
            return
        if "renamed" in record or WINDOW in record:
            if entry in self._table:
                changed = {"name": record["renamed"]} if "renamed" in record else {WINDOW: record[WINDOW]}
                self._table[entry] = {**self._table[entry], **changed}
            return
        new, at = record["messages"], record["at"]
        before = self._messages(entry)
        if record.get("cut"):
            # A list of its own: a fold may be writing the one that was.
            before = before[:at]
        elif before[at : at + len(new)] == new:
            return
        session = self._table.get(entry) or {"name": "", "created": record["time"]}
        if 2 * session.get(WINDOW, 0) > at:
            # What the window began with is cut away.
            session = {field: value for field, value in session.items() if field != WINDOW}
        self._table[entry] = {
            **{field: value for field, value in session.items() if field != "history"},
            "name": (session.get("name") if before else "") or record["name"],
            "created": session.get("created") or record["time"],
            "updated": record["time"],
            # Grown in place: to copy it would cost more the longer the session is.
            "messages": before,
        }
        before += new

    def _unwritable(self, error: OSError) -> StorageFailed:
        path = self._journal.path
        return StorageFailed(f"{path.parent.name}/{path.name} cannot be written: {error.strerror}")

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


def _with_breaths(pieces: Iterable[str]) -> Iterator[str]:
    worked = time.monotonic()
    for piece in pieces:
        yield piece
        if time.monotonic() - worked > BREATH:
            time.sleep(BREATH)
            worked = time.monotonic()
