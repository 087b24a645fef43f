"""Taking over the files that data/hearth.sqlite replaces: usage.sqlite, jobs.sqlite, key_use.json and tried.json.

The rows of a file are copied in one transaction, which also notes the file's name in `taken_over`; then the file is
removed, then the note. After a kill between these steps the note says that the rows are copied already. Each step holds
SQLite's write lock, so that two processes may do this at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from services.errors import DamagedFile, StorageFailed
from services.storage.json_file import JsonFile, sync_folder
from services.storage.schema import CHARGED
from services.storage.sqlite_file import SqliteFile

log = logging.getLogger(__name__)

# An old database is locked until it is closed, with nothing left in its WAL. That fails while an older server uses it.
_ALONE = ("PRAGMA locking_mode=EXCLUSIVE", "PRAGMA journal_mode=DELETE")
# Seconds that an old database is waited for.
_PATIENCE = 5.0
_COUNTS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "cpu_seconds")
_ADD_USAGE = (
    f"INSERT INTO usage (key, day, {', '.join(_COUNTS)}) VALUES (?, ?, ?, ?, ?, ?, ?) "  # noqa: S608
    f"ON CONFLICT (key, day) DO UPDATE SET {', '.join(f'{name} = {name} + excluded.{name}' for name in _COUNTS)}"
)
_ADD_CHARGED = (
    "INSERT INTO charged (account, day, tokens) VALUES (?, ?, ?) "
    "ON CONFLICT (account, day) DO UPDATE SET tokens = tokens + excluded.tokens"
)
_ADD_TIME = "INSERT INTO last_use (key, time) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET time = max(time, excluded.time)"
_JOB = "owner, id, digest, path, body, state, created, finished, status, content_type, reply"


@dataclass(frozen=True)
class OldFile:
    """An older file's name, and the function that copies its rows, given the database and the file's path."""

    name: str
    copy: Callable[[SqliteFile, Path], None]


def take_over(file: SqliteFile, folder: Path) -> None:
    """Copy the rows of the older files in `folder` into the open database `file`, and remove those files.

    Raises DamagedFile where an older file is no database, StorageFailed where it cannot be used, Unavailable, and sqlite3's
    errors where `file` cannot be.
    """
    noted = {name for (name,) in file.db.execute("SELECT name FROM taken_over")}
    old = [each for each in _OLD if each.name in noted or (folder / each.name).exists()]
    for each in old:
        copy_old(file, folder, each)
        remove_old(file, folder, each)
    if old:
        # Else the WAL stays as large as the copied rows.
        file.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def copy_old(file: SqliteFile, folder: Path, old: OldFile) -> None:
    """Copy a file's rows, unless that is done, and note that it is."""
    with file.transaction():
        is_noted = file.db.execute("SELECT 1 FROM taken_over WHERE name = ?", (old.name,)).fetchone()
        if (folder / old.name).exists() and not is_noted:
            old.copy(file, folder / old.name)
            file.db.execute("INSERT INTO taken_over (name) VALUES (?)", (old.name,))


def remove_old(file: SqliteFile, folder: Path, old: OldFile) -> None:
    """Remove a file whose rows are copied, and then its note."""
    with file.transaction():
        if file.db.execute("SELECT 1 FROM taken_over WHERE name = ?", (old.name,)).fetchone():
            # Beside it are what SQLite, and the lock and the draft that `JsonFile`, may have left.
            for name in (f"{old.name}-wal", f"{old.name}-shm", f".{old.name}.lock", f".{old.name}.new", old.name):
                (folder / name).unlink(missing_ok=True)
            # Without its note a file that a power cut brings back would be copied twice.
            sync_folder(folder)
            file.db.execute("DELETE FROM taken_over WHERE name = ?", (old.name,))
            log.info("%s is part of the database now", old.name)


def _copy_usage(file: SqliteFile, path: Path) -> None:
    with _opened(path, "table of usage") as old:
        if old.columns("usage"):
            file.db.executemany(_ADD_USAGE, old.rows(f"SELECT key, day, {', '.join(_COUNTS)} FROM usage"))  # noqa: S608
        if old.columns("charged"):
            file.db.executemany(_ADD_CHARGED, old.rows("SELECT account, day, tokens FROM charged"))
        # Its user_version was 1 once its accounts were charged.
        if next(old.rows("PRAGMA user_version")) != (0,):
            file.db.execute(f"PRAGMA user_version={CHARGED}")


def _copy_jobs(file: SqliteFile, path: Path) -> None:
    with _opened(path, "table of jobs") as old:
        if columns := old.columns("jobs"):
            # The first files had no session.
            session = "session" if "session" in columns else "''"
            query = f"INSERT OR REPLACE INTO jobs ({_JOB}, session) VALUES ({', '.join('?' * 12)})"  # noqa: S608
            file.db.executemany(query, old.rows(f"SELECT {_JOB}, {session} FROM jobs"))  # noqa: S608


def _copy_key_use(file: SqliteFile, path: Path) -> None:
    file.db.executemany(_ADD_TIME, [(key, time) for key, time in _entries(path) if _is_time(time)])


def _copy_tried(file: SqliteFile, path: Path) -> None:
    rows = [(digest, name) for digest, name in _entries(path) if isinstance(name, str)]
    file.db.executemany("INSERT OR IGNORE INTO probes (digest, file) VALUES (?, ?)", rows)


@contextmanager
def _opened(path: Path, kind: str) -> Iterator[SqliteFile]:
    try:
        old = SqliteFile(path, kind, _ALONE, _PATIENCE)
    except StorageFailed as error:
        raise StorageFailed(f"{error.message}; stop the older server or command that uses it") from error
    try:
        yield old
    finally:
        old.db.close()


def _entries(path: Path) -> list[tuple[str, Any]]:
    """The entries of a JSON file that only saved time: a damaged one is passed over."""
    try:
        return list(JsonFile(path).read().items())
    except DamagedFile as error:
        log.warning("%s", error.message)
        return []


def _is_time(text: Any) -> bool:
    try:
        return datetime.fromisoformat(text).utcoffset() is not None
    except (TypeError, ValueError):
        return False


_OLD = (
    # The first fails where an older server still runs, before anything is taken over.
    OldFile("usage.sqlite", _copy_usage),
    OldFile("jobs.sqlite", _copy_jobs),
    OldFile("key_use.json", _copy_key_use),
    OldFile("tried.json", _copy_tried),
)
