"""Rows of data/hearth.sqlite that belong to keys: what each keeps is counted, and what is deleted leaves no trace."""

from __future__ import annotations

import threading
from pathlib import Path

from services.sessions.table import Kept
from services.storage.database import open_database

# Seconds to wait for another connection that has locked the file: others wait meanwhile.
_PATIENCE = 2.0


class OwnedRows:
    """One table. Any thread may call it; `lock` lets one statement run at a time, and change the counts."""

    def __init__(self, path: Path, table: str, size: str) -> None:
        """`path` is the database, `size` an expression for a row's bytes.

        Raises DamagedFile where the file is no database, StorageFailed where it cannot be used.
        """
        self.lock = threading.Lock()
        self._table, self._size = table, size
        self.file = open_database(path, _PATIENCE)
        self.db = self.file.db
        self.has_traces = False
        """True while the WAL may hold rows that were to leave no trace."""
        with self.file.explained():
            rows = self.db.execute(f"SELECT owner, count(*), sum({size}) FROM {table} GROUP BY owner")  # noqa: S608
            self._kept = {owner: Kept(count, n_bytes) for owner, count, n_bytes in rows}

    def kept(self, owner: str) -> Kept:
        """Return the number and the bytes of an owner's rows."""
        # Without the lock, which may be held for as long as the disk takes: it is one value, whole at any moment.
        return self._kept.get(owner, Kept())

    def close(self) -> None:
        """Close the file."""
        with self.lock:
            self.db.close()

    def count(self, owner: str, count: int, n_bytes: int) -> None:
        """Count so many rows and bytes more of an owner; the caller holds the lock."""
        self._kept[owner] = self._kept.get(owner, Kept()) + Kept(count, n_bytes)

    def delete(self, where: str, *values: str | float) -> int:
        """Delete rows; return their number."""
        query = f"DELETE FROM {self._table} WHERE {where} RETURNING owner, {self._size}"  # noqa: S608
        rows = self.db.execute(query, values).fetchall()
        for owner, n_bytes in rows:
            self.count(owner, -1, -n_bytes)
        return len(rows)

    def empty_wal(self) -> None:
        """Empty the WAL, which may hold deleted rows; while another connection reads it, the next tidying has to."""
        self.has_traces = bool(self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
