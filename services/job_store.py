"""Jobs on disk: what is still to be computed, and for a day what came of it. One SQLite file."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from services.errors import DamagedFile, StorageFailed

JobState = Literal["queued", "running", "done", "failed"]
# Seconds for which what came of a job can be had.
KEPT_FOR = 24 * 3600.0

_TABLE = """
CREATE TABLE IF NOT EXISTS jobs (
    owner TEXT NOT NULL, id TEXT NOT NULL, digest TEXT NOT NULL, path TEXT NOT NULL, body BLOB NOT NULL,
    state TEXT NOT NULL, created REAL NOT NULL, finished REAL, status INTEGER, content_type TEXT, reply BLOB,
    PRIMARY KEY (owner, id)
)
"""
_COLUMNS = "owner, id, path, body, digest, state, created, finished, status, content_type, reply"


@dataclass(frozen=True)
class JobKey:
    """Whose job it is (a key's id), and what that caller calls it."""

    owner: str
    id: str


@dataclass(frozen=True)
class JobRequest:
    """What is to be computed: a POST of `body` to `path`. `digest` is equal for equal requests."""

    path: str
    body: bytes
    digest: str


@dataclass(frozen=True)
class Reply:
    """What came of a job, as HTTP tells it."""

    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True)
class StoredJob:
    """One row. `created` and `finished` are seconds since 1970."""

    key: JobKey
    request: JobRequest
    state: JobState
    created: float
    finished: float | None
    reply: Reply | None


class JobStore:
    """The table. Any thread may call it; `_turn` lets one statement run at a time."""

    def __init__(self, path: Path) -> None:
        """Raises DamagedFile where the file is no table of jobs, StorageFailed where it cannot be made."""
        self._path = path
        self._turn = threading.Lock()
        try:
            path.touch(mode=0o600)
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(_TABLE)
            self._db.execute(f"SELECT {_COLUMNS} FROM jobs LIMIT 1")  # noqa: S608
        except sqlite3.DatabaseError as error:
            raise DamagedFile(path, f"is no table of jobs ({error}); move it away to begin with none") from error
        except OSError as error:
            raise StorageFailed(f"{path.parent.name}/{path.name} could not be made: {error.strerror}") from error

    def get(self, key: JobKey) -> StoredJob | None:
        """The job called so; None where there is none, or none any more."""
        return next(iter(self._select("owner = ? AND id = ?", (key.owner, key.id))), None)

    def unfinished(self) -> list[StoredJob]:
        """What is still to be computed, in the order in which it came."""
        return self._select("state IN ('queued', 'running')", ())

    def add(self, job: StoredJob) -> None:
        """Store a job durably, in the place of one of the same key. Raises StorageFailed."""
        reply = job.reply
        row = (
            *(job.key.owner, job.key.id, job.request.digest, job.request.path, job.request.body),
            *(job.state, job.created, job.finished),
            *((reply.status, reply.content_type, reply.body) if reply else (None, None, None)),
        )
        with self._writing() as db:
            db.execute("DELETE FROM jobs WHERE finished < ?", (time.time() - KEPT_FOR,))
            db.execute(f"INSERT OR REPLACE INTO jobs VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608

    def remove(self, key: JobKey) -> None:
        """Forget a job. Raises StorageFailed."""
        with self._writing() as db:
            db.execute("DELETE FROM jobs WHERE owner = ? AND id = ?", (key.owner, key.id))

    def close(self) -> None:
        """Close the file."""
        with self._turn:
            self._db.close()

    def _select(self, where: str, values: tuple[str, ...]) -> list[StoredJob]:
        with self._turn:
            query = f"SELECT {_COLUMNS} FROM jobs WHERE {where} ORDER BY created"  # noqa: S608
            rows = self._db.execute(query, values).fetchall()
        jobs = [
            StoredJob(JobKey(*row[:2]), JobRequest(*row[2:5]), row[5], row[6], row[7], Reply(*row[8:]) if row[8] else None)
            for row in rows
        ]
        return [job for job in jobs if job.finished is None or job.finished > time.time() - KEPT_FOR]

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._turn, self._db:
                yield self._db
        except sqlite3.DatabaseError as error:
            raise StorageFailed(f"{self._path.parent.name}/{self._path.name} could not be written: {error}") from error
