"""Jobs on disk: what is still to be computed, and for a day what came of it. One SQLite file."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from services.errors import HearthError
from services.sessions.table import Kept
from services.storage.sqlite_file import TableFile

log = logging.getLogger(__name__)

JobState = Literal["queued", "running", "done", "failed"]
# Seconds for which what came of a job can be had.
KEPT_FOR = 24 * 3600.0

# Seconds for which another program that has locked the file is waited for: nobody else's reply may wait for long.
_PATIENCE = 1.0
# Pages that are given back to the disk at once, and seconds between two times, in which others use the file.
_PAGES, _PAUSE = 500, 0.02
_SET_UP = (
    # Before there is a table; one of before this was is made so at its next opening.
    "PRAGMA auto_vacuum=INCREMENTAL",
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    # What is deleted is written over.
    "PRAGMA secure_delete=ON",
    "CREATE TABLE IF NOT EXISTS jobs (owner TEXT NOT NULL, id TEXT NOT NULL, digest TEXT NOT NULL, path TEXT NOT NULL, "
    "body BLOB NOT NULL, state TEXT NOT NULL, created REAL NOT NULL, finished REAL, status INTEGER, content_type TEXT, "
    "reply BLOB, session TEXT NOT NULL DEFAULT '', PRIMARY KEY (owner, id))",
    "CREATE INDEX IF NOT EXISTS by_end ON jobs (finished)",
    "CREATE INDEX IF NOT EXISTS by_state ON jobs (state)",
)
_SIZE = "length(body) + coalesce(length(reply), 0)"
_COLUMNS = "owner, id, path, body, digest, session, state, created, finished, status, content_type, reply"


@dataclass(frozen=True)
class JobKey:
    """Whose job it is (a key's id), and what that caller calls it."""

    owner: str
    id: str


@dataclass(frozen=True)
class JobRequest:
    """What is to be computed: a POST of `body` to `path`. `digest` is equal for equal requests."""

    path: str
    body: bytes = field(repr=False)
    digest: str
    session: str = ""
    """The number of the caller's session that it goes on with; "" for none."""


@dataclass(frozen=True)
class Reply:
    """What came of a job, as HTTP tells it."""

    status: int
    content_type: str
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class StoredJob:
    """One row. `created` and `finished` are seconds since 1970."""

    key: JobKey
    request: JobRequest
    state: JobState
    created: float
    finished: float | None
    reply: Reply | None


class JobTable(Protocol):
    """All jobs that there are to be computed, and what came of them. Any thread may call it. All raise StorageFailed."""

    is_shared: bool
    """Whether other servers compute jobs of it too."""
    on_lost: Callable[[JobKey], object]
    """Called with a job that is computed here, and that another server has taken over."""

    def get(self, key: JobKey) -> StoredJob | None:
        """The job called so; None where there is none, or none any more."""
        ...

    def unfinished(self) -> list[StoredJob]:
        """What is still to be computed, in the order in which it came."""
        ...

    def add(self, job: StoredJob) -> None:
        """Store a job durably, in the place of one of the same key. What was asked is not kept once it is over."""
        ...

    def remove(self, key: JobKey) -> None:
        """Forget a job, and leave no trace of it."""
        ...

    def remove_session(self, owner: str, session: str) -> None:
        """Forget what came of all that went on with a session, and leave no trace of it."""
        ...

    def kept(self, owner: str) -> Kept:
        """How many jobs there are of an owner, and how many bytes their bodies and replies are; cheap."""
        ...

    def tidy(self) -> None:
        """Forget what has been kept for long enough, and give its room back. It may take a while, in which others go on."""
        ...

    def claim(self, key: JobKey) -> bool:
        """Take it upon this server to compute a job; False where another server has."""
        ...

    def release(self, key: JobKey) -> None:
        """Leave a job to whoever wants to compute it."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class JobStore:
    """The table. Any thread may call it; `_lock` lets one statement run at a time, and change the counts in `_kept`."""

    is_shared = False
    on_lost: Callable[[JobKey], object]

    def __init__(self, path: Path) -> None:
        """Raises DamagedFile where the file is no table of jobs, StorageFailed where it cannot be used."""
        self._lock = threading.Lock()
        self._file = TableFile(path, "jobs", _SET_UP, _PATIENCE)
        self._db = self._file.db
        with self._file.explained():
            if "session" not in {column[1] for column in self._db.execute("PRAGMA table_info(jobs)")}:
                # A file of before there was one.
                self._db.execute("ALTER TABLE jobs ADD COLUMN session TEXT NOT NULL DEFAULT ''")
            self._db.execute(f"SELECT {_COLUMNS} FROM jobs LIMIT 1")  # noqa: S608
            rows = self._db.execute(f"SELECT owner, count(*), sum({_SIZE}) FROM jobs GROUP BY owner")  # noqa: S608
            self._kept = {owner: Kept(count, n_bytes) for owner, count, n_bytes in rows}
        try:
            with self._file.explained():
                if self._db.execute("PRAGMA auto_vacuum").fetchone() != (2,):
                    self._db.execute("VACUUM")
        except HearthError as error:
            # It is larger than it needs to be, and good.
            log.warning("the room of old jobs is not given back: %s", error.message)

    def get(self, key: JobKey) -> StoredJob | None:
        """The job called so; None where there is none, or none any more. Raises StorageFailed."""
        return next(iter(self._select("owner = ? AND id = ?", (key.owner, key.id))), None)

    def unfinished(self) -> list[StoredJob]:
        """What is still to be computed, in the order in which it came. Raises StorageFailed."""
        return self._select("state IN ('queued', 'running')", ())

    def everything(self) -> list[StoredJob]:
        """All that there are. Raises StorageFailed."""
        return self._select("1", ())

    def add(self, job: StoredJob) -> None:
        """Store a job durably, in the place of one of the same key. Raises StorageFailed.

        What was asked is not kept once it is over.
        """
        reply = job.reply
        row = (
            *(job.key.owner, job.key.id, job.request.path, job.request.body if job.finished is None else b""),
            *(job.request.digest, job.request.session, job.state, job.created, job.finished),
            *((reply.status, reply.content_type, reply.body) if reply else (None, None, None)),
        )
        n_bytes = len(job.request.body if job.finished is None else b"") + len(reply.body if reply else b"")
        with self._lock, self._file.explained():
            places, owner = ", ".join("?" * len(row)), job.key.owner
            had = self._db.execute(f"SELECT {_SIZE} FROM jobs WHERE owner = ? AND id = ?", (owner, job.key.id)).fetchone()  # noqa: S608
            self._db.execute(f"INSERT OR REPLACE INTO jobs ({_COLUMNS}) VALUES ({places})", row)  # noqa: S608
            self._kept[owner] = self._kept.get(owner, Kept()) + (Kept(0, n_bytes - had[0]) if had else Kept(1, n_bytes))

    def remove(self, key: JobKey) -> None:
        """Forget a job, and leave no trace of it on the disk. Raises StorageFailed."""
        with self._lock, self._file.explained():
            self._delete("owner = ? AND id = ?", key.owner, key.id)
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def remove_session(self, owner: str, session: str) -> None:
        """Forget what came of all that went on with a session, and leave no trace of it. Raises StorageFailed."""
        with self._lock, self._file.explained():
            if self._delete("owner = ? AND session = ?", owner, session):
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def kept(self, owner: str) -> Kept:
        """See `JobTable.kept`."""
        # Without the turn, which may take as long as the disk does: it is one value, whole at any moment.
        return self._kept.get(owner, Kept())

    def tidy(self) -> None:
        """See `JobTable.tidy`. Raises StorageFailed."""
        with self._lock, self._file.explained():
            self._delete("finished < ?", time.time() - KEPT_FOR)
        while True:
            with self._lock, self._file.explained():
                left = self._db.execute("PRAGMA freelist_count").fetchone()[0]
                # `execute` would do one page only: it ends at the first step of what has no columns.
                self._db.executescript(f"PRAGMA incremental_vacuum({_PAGES})")
                if left <= _PAGES:
                    # Only this makes the file on the disk smaller.
                    self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)" if left else "PRAGMA wal_checkpoint(PASSIVE)")
                    return
            time.sleep(_PAUSE)

    def claim(self, _key: JobKey) -> bool:
        """See `JobTable.claim`: there is no other."""
        return True

    def release(self, _key: JobKey) -> None:
        """See `JobTable.release`."""

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def _delete(self, where: str, *values: str | float) -> int:
        """Delete rows; return how many there were."""
        query = f"DELETE FROM jobs WHERE {where} RETURNING owner, {_SIZE}"  # noqa: S608
        rows = self._db.execute(query, values).fetchall()
        for owner, n_bytes in rows:
            self._kept[owner] = self._kept.get(owner, Kept()) + Kept(-1, -n_bytes)
        return len(rows)

    def _select(self, where: str, values: tuple[str, ...]) -> list[StoredJob]:
        with self._lock, self._file.explained():
            query = f"SELECT {_COLUMNS} FROM jobs WHERE {where} ORDER BY created"  # noqa: S608
            rows = self._db.execute(query, values).fetchall()
        jobs = [
            StoredJob(JobKey(*row[:2]), JobRequest(*row[2:6]), row[6], row[7], row[8], Reply(*row[9:]) if row[9] else None)
            for row in rows
        ]
        return [job for job in jobs if job.finished is None or job.finished > time.time() - KEPT_FOR]
