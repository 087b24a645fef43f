"""An append-only file of JSON records, a line each: the changes that are not yet folded into the file that people read.

An appended record is durable. A power cut may tear the last line, which was never acknowledged, and is passed over.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from services.errors import DamagedFile
from services.storage.json_file import sync_folder

Record = dict[str, Any]


class Journal:
    """The records in the file. Its owner locks it, against other processes too, for each call.

    `_end` is the size up to which this process has read it, `_inode` the file's number then.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n_records = 0
        """The number of its lines, as last read."""
        self._end = 0
        self._inode: int | None = None
        self._draft = path.with_name(f".{path.name}.new")

    @property
    def is_empty(self) -> bool:
        """Whether it held no record, as last read."""
        return self._end == 0

    @property
    def position(self) -> tuple[int | None, int]:
        """The file's number, and the size up to which it was read."""
        return self._inode, self._end

    def is_the_same(self) -> bool:
        """Return whether it is the file that was read before, and no shorter."""
        inode, size = self._look()
        return inode == self._inode and size >= self._end

    def has_more(self) -> bool:
        """Return whether it has grown since it was read; a torn line counts too."""
        return self._look()[1] > self._end

    def read_new(self) -> list[Record]:
        """Return the records since the last call, other processes' too. Raises DamagedFile with the line, OSError."""
        _, size = self._look()
        if size <= self._end:
            return []
        with self.path.open("rb") as file:
            file.seek(self._end)
            lines = file.read().splitlines(keepends=True)
        records = []
        for number, line in enumerate(lines):
            try:
                records.append(_parse(line))
            except ValueError as error:
                if number < len(lines) - 1:
                    raise DamagedFile(
                        self.path, f"a record is broken: {error}", line=self.n_records + number + 1
                    ) from error
                del lines[number]
        self._end += sum(map(len, lines))
        self.n_records += len(lines)
        return records

    def read_all(self) -> list[Record]:
        """Return all records. Raises as `read_new` does."""
        self._inode, _ = self._look()
        self._end = self.n_records = 0
        return self.read_new()

    def append(self, record: Record) -> None:
        """Add a record, durably, or raise OSError without a trace of it."""
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        is_new = self._inode is None
        file = os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            if is_new:
                # First: where this fails, no record stands in the file that was not acknowledged.
                sync_folder(self.path.parent)
            # Cut off what a power cut, or a full disk, left of an earlier record.
            os.ftruncate(file, self._end)
            try:
                _write_all(file, line, self._end)
                os.fdatasync(file)
            except OSError:
                os.ftruncate(file, self._end)
                raise
            self._inode = os.fstat(file).st_ino
        finally:
            os.close(file)
        self._end += len(line)
        self.n_records += 1

    def cut(self, end: int) -> None:
        """Remove the records up to byte `end`, which are stored elsewhere now. Raises OSError."""
        if end >= self._end:
            self.path.unlink(missing_ok=True)
            self._inode, self._end, self.n_records = None, 0, 0
            return
        with self.path.open("rb") as file:
            file.seek(end)
            rest = file.read(self._end - end)
        with os.fdopen(os.open(self._draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as out:
            out.write(rest)
            out.flush()
            os.fsync(out.fileno())
        self._draft.replace(self.path)
        sync_folder(self.path.parent)
        self._inode, self._end, self.n_records = self.path.stat().st_ino, len(rest), rest.count(b"\n")

    def drop_draft(self) -> None:
        """Remove the draft that a kill has left of a `cut`."""
        self._draft.unlink(missing_ok=True)

    def _look(self) -> tuple[int | None, int]:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None, 0
        return found.st_ino, found.st_size


def _parse(line: bytes) -> Record:
    if not line.endswith(b"\n"):
        raise ValueError("it has no end")
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("it is no object")
    return record


def _write_all(file: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written
