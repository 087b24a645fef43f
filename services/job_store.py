"""Jobs on disk: what is still to be computed, and for a day what came of it. One SQLite file."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from services.table_file import TableFile

JobState = Literal["queued", "running", "done", "failed"]
# Seconds for which what came of a job can be had.
KEPT_FOR = 24 * 3600.0

# Seconds between two looks for what is older.
_PRUNE_EVERY = 60.0
_SET_UP = (
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
    """The table. Any thread may call it; `_turn` lets one statement run at a time."""

    is_shared = False
    on_lost: Callable[[JobKey], object]

    def __init__(self, path: Path) -> None:
        """Raises DamagedFile where the file is no table of jobs, StorageFailed where it cannot be used."""
        self._turn = threading.Lock()
        self._pruned = 0.0
        self._file = TableFile(path, "jobs", _SET_UP)
        self._db = self._file.db
        with self._file.explained():
            if "session" not in {column[1] for column in self._db.execute("PRAGMA table_info(jobs)")}:
                # A file of before there was one.
                self._db.execute("ALTER TABLE jobs ADD COLUMN session TEXT NOT NULL DEFAULT ''")
            self._db.execute(f"SELECT {_COLUMNS} FROM jobs LIMIT 1")  # noqa: S608

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
        with self._turn, self._file.explained():
            self._prune()
            places = ", ".join("?" * len(row))
            self._db.execute(f"INSERT OR REPLACE INTO jobs ({_COLUMNS}) VALUES ({places})", row)  # noqa: S608

    def remove(self, key: JobKey) -> None:
        """Forget a job, and leave no trace of it on the disk. Raises StorageFailed."""
        with self._turn, self._file.explained():
            self._db.execute("DELETE FROM jobs WHERE owner = ? AND id = ?", (key.owner, key.id))
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def remove_session(self, owner: str, session: str) -> None:
        """Forget what came of all that went on with a session, and leave no trace of it. Raises StorageFailed."""
        with self._turn, self._file.explained():
            done = self._db.execute("DELETE FROM jobs WHERE owner = ? AND session = ?", (owner, session))
            if done.rowcount:
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def claim(self, _key: JobKey) -> bool:
        """See `JobTable.claim`: there is no other."""
        return True

    def release(self, _key: JobKey) -> None:
        """See `JobTable.release`."""

    def close(self) -> None:
        """Close the file."""
        with self._turn:
            self._db.close()

    def _prune(self) -> None:
        """Forget what has been kept for long enough, once in a while."""
        if time.monotonic() - self._pruned > _PRUNE_EVERY:
            self._pruned = time.monotonic()
            self._db.execute("DELETE FROM jobs WHERE finished < ?", (time.time() - KEPT_FOR,))

    def _select(self, where: str, values: tuple[str, ...]) -> list[StoredJob]:
        with self._turn, self._file.explained():
            query = f"SELECT {_COLUMNS} FROM jobs WHERE {where} ORDER BY created"  # noqa: S608
            rows = self._db.execute(query, values).fetchall()
        jobs = [
            StoredJob(JobKey(*row[:2]), JobRequest(*row[2:6]), row[6], row[7], row[8], Reply(*row[9:]) if row[9] else None)
            for row in rows
        ]
        return [job for job in jobs if job.finished is None or job.finished > time.time() - KEPT_FOR]
