"""The server's own database, data/hearth.sqlite. Each store opens a connection of its own to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.storage.schema import MADE, NEWEST, TABLES
from services.storage.sqlite_file import SqliteFile
from services.storage.takeover import take_over

NAME = "hearth.sqlite"
# Seconds that opening waits for another connection's lock.
_OPENING = 5.0
_SET_UP = (
    # Takes effect before the first table is made: room is given back to the disk in pieces.
    "PRAGMA auto_vacuum=INCREMENTAL",
    "PRAGMA journal_mode=WAL",
    # Committed changes outlive a power cut.
    "PRAGMA synchronous=FULL",
    # Deleted rows are overwritten.
    "PRAGMA secure_delete=ON",
)


def open_database(path: Path, patience: float = _OPENING) -> SqliteFile:
    """Open the database, made where there is none, and take over the older files beside it.

    From then on a statement waits `patience` seconds for another connection's lock. Raises DamagedFile, StorageFailed,
    Unavailable.
    """
    file = SqliteFile(path, "database of Hearth", _SET_UP, _OPENING)
    try:
        with file.explained():
            if not file.columns(NEWEST):
                with file.transaction():
                    for statement in TABLES:
                        file.db.execute(statement)
                    # Another process may have made the tables meanwhile, and more.
                    if file.db.execute("PRAGMA user_version").fetchone()[0] < MADE:
                        file.db.execute(f"PRAGMA user_version={MADE}")
            take_over(file, path.parent)
            file.db.execute(f"PRAGMA busy_timeout={round(1000 * patience)}")
    except BaseException:
        file.db.close()
        raise
    return file


@contextmanager
def database(path: Path) -> Iterator[SqliteFile]:
    """Use the database for a moment. Raises as `open_database` does."""
    file = open_database(path)
    try:
        with file.explained():
            yield file
    finally:
        file.db.close()
