"""Jobs on disk, in data/hearth.sqlite: those still to be computed, and for a day the replies of those that were."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from typing_extensions import override

from services.sessions.owned_rows import OwnedRows
from services.sessions.table import Kept

JobState = Literal["queued", "running", "done", "failed"]
# Seconds for which a reply is kept.
KEPT_FOR = 24 * 3600.0

# Pages that are given back to the disk at once, and seconds between two times, for other users of the file.
_ROWS = 500
_PAGES, _PAUSE = 500, 0.02
_SIZE = "length(body) + coalesce(length(reply), 0)"
_COLUMNS = "owner, id, path, body, digest, session, state, created, finished, status, content_type, reply"


@dataclass(frozen=True)
class JobKey:
    """A job's owner (a key's id), and its name, which is the owner's."""

    owner: str
    id: str


@dataclass(frozen=True)
class JobRequest:
    """A POST of `body` to `path`. `digest` is equal for equal requests."""

    path: str
    body: bytes = field(repr=False)
    digest: str
    session: str = ""
    """The number of the session that it goes on with; "" for none."""


@dataclass(frozen=True)
class Reply:
    """The HTTP reply to a job's request."""

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
    """All jobs and their replies. Any thread may call it. All raise StorageFailed, or Unavailable in a cluster."""

    is_shared: bool
    """Whether other servers compute jobs of it too."""

    def add_lost_listener(self, listener: Callable[[JobKey], object]) -> None:
        """Have `listener` called with each job that is computed here, and that another server has taken over.

        A table that is not shared never calls it.
        """
        return

    def get(self, key: JobKey) -> StoredJob | None:
        """Return the job; None if it is not stored, or expired."""
        ...

    def unfinished(self) -> list[StoredJob]:
        """Return the jobs still to be computed, the oldest first."""
        ...

    def add(self, job: StoredJob) -> None:
        """Store a job durably, replacing one of the same key. Once it is over its body is not kept."""
        ...

    def remove(self, key: JobKey) -> None:
        """Forget a job, and leave no trace of it."""
        ...

    def remove_session(self, owner: str, session: str) -> None:
        """Forget all jobs that went on with a session, and leave no trace of them."""
        ...

    def kept(self, owner: str) -> Kept:
        """Return the number of an owner's jobs, and the bytes of their bodies and replies; cheap."""
        ...

    def tidy(self) -> None:
        """Forget what is older than `KEPT_FOR`, and give its room back. It may take a while, in which others go on."""
        ...

    def claim(self, key: JobKey) -> bool:
        """Reserve a job for this server to compute; return False where another server has."""
        ...

    def release(self, key: JobKey) -> None:
        """Give up the claim of a job."""
        ...

    def close(self) -> None:
        """Close it; claims are given up."""
        ...


class JobStore(OwnedRows, JobTable):
    """The table of one server. Any thread may call it."""

    is_shared = False

    def __init__(self, path: Path) -> None:
        """`path` is the database. Raises DamagedFile where it is none, StorageFailed where it cannot be used."""
        super().__init__(path, "jobs", _SIZE)

    @override
    def get(self, key: JobKey) -> StoredJob | None:
        return next(iter(self._select("owner = ? AND id = ?", (key.owner, key.id))), None)

    @override
    def unfinished(self) -> list[StoredJob]:
        return self._select("state IN ('queued', 'running')", ())

    def everything(self) -> list[StoredJob]:
        """Return all jobs, the oldest first. Raises StorageFailed."""
        return self._select("1", ())

    @override
    def add(self, job: StoredJob) -> None:
        reply = job.reply
        row = (
            *(job.key.owner, job.key.id, job.request.path, job.request.body if job.finished is None else b""),
            *(job.request.digest, job.request.session, job.state, job.created, job.finished),
            *((reply.status, reply.content_type, reply.body) if reply else (None, None, None)),
        )
        n_bytes = len(job.request.body if job.finished is None else b"") + len(reply.body if reply else b"")
        with self.lock, self.file.explained():
            places, owner = ", ".join("?" * len(row)), job.key.owner
            had = self.db.execute(f"SELECT {_SIZE} FROM jobs WHERE owner = ? AND id = ?", (owner, job.key.id)).fetchone()  # noqa: S608
            self.db.execute(f"INSERT OR REPLACE INTO jobs ({_COLUMNS}) VALUES ({places})", row)  # noqa: S608
            self.count(owner, 0 if had else 1, n_bytes - (had[0] if had else 0))

    @override
    def remove(self, key: JobKey) -> None:
        with self.lock, self.file.explained():
            self.delete("owner = ? AND id = ?", key.owner, key.id)
            self.empty_wal()

    @override
    def remove_session(self, owner: str, session: str) -> None:
        with self.lock, self.file.explained():
            if self.delete("owner = ? AND session = ?", owner, session):
                self.empty_wal()

    @override
    def tidy(self) -> None:
        expired = f"rowid IN (SELECT rowid FROM jobs WHERE finished < ? LIMIT {_ROWS})"  # noqa: S608
        n_deleted = _ROWS
        while n_deleted == _ROWS:
            # In pieces: each holds the database's write lock, for which the other stores wait.
            with self.lock, self.file.explained():
                n_deleted = self.delete(expired, time.time() - KEPT_FOR)
            time.sleep(_PAUSE)
        while True:
            with self.lock, self.file.explained():
                left = self.db.execute("PRAGMA freelist_count").fetchone()[0]
                # `execute` would do one page only: it ends at the first step of what has no columns.
                self.db.executescript(f"PRAGMA incremental_vacuum({_PAGES})")
                if left <= _PAGES:
                    # Only this makes the file on the disk smaller.
                    if left or self.has_traces:
                        self.empty_wal()
                    else:
                        self.db.execute("PRAGMA wal_checkpoint(PASSIVE)")
                    return
            time.sleep(_PAUSE)

    @override
    def claim(self, _key: JobKey) -> bool:
        # There is no other server.
        return True

    @override
    def release(self, _key: JobKey) -> None:
        pass

    def _select(self, where: str, values: tuple[str, ...]) -> list[StoredJob]:
        with self.lock, self.file.explained():
            query = f"SELECT {_COLUMNS} FROM jobs WHERE {where} ORDER BY created"  # noqa: S608
            rows = self.db.execute(query, values).fetchall()
        jobs = [
            StoredJob(JobKey(*row[:2]), JobRequest(*row[2:6]), row[6], row[7], row[8], Reply(*row[9:]) if row[9] else None)
            for row in rows
        ]
        return [job for job in jobs if job.finished is None or job.finished > time.time() - KEPT_FOR]
