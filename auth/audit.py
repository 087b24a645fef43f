"""Who did what, in data/audit.jsonl: a JSON object a line. It has ids of keys, never keys, and no words of anybody's."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock

from services.json_file import give_to_owner

log = logging.getLogger(__name__)

# A file that has grown to so many bytes becomes audit.1.jsonl, and so on; the last of them goes.
ROTATE_AT = 5_000_000
KEPT = 5
# Refusals a minute that have a line each, so that nobody washes away by them what others did; the rest are counted.
REFUSALS = 30


class AuditLog:
    """The log. Any thread may call it; `_turn` protects the count of refusals, and a lock file keeps processes apart."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = FileLock(path.with_name(f".{path.name}.lock"), mode=0o600)
        self._turn = threading.Lock()
        self._minute = 0.0
        self._n_refused = 0

    def note(self, did: str, key: str | None, **what: Any) -> None:
        """`key` is the id of who did it; None: nobody that is known. What the disk does not take is said in the log."""
        line = {"time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"), "did": did, "key": key}
        told = json.dumps(
            {**line, **{name: value for name, value in what.items() if value is not None}}, ensure_ascii=False
        )
        try:
            with open(self._lock.lock_file, "a", opener=_private):
                # It is there, and its owner's, before it is locked.
                pass
            with self._lock:
                self._rotate()
                with open(self._path, "a", encoding="utf-8", opener=_private) as file:
                    file.write(told + "\n")
        except OSError as error:
            log.error("data/%s cannot be written: %s", self._path.name, error.strerror)

    def note_refusal(self, key: str | None, **what: Any) -> None:
        """A request was refused."""
        with self._turn:
            if time.monotonic() - self._minute > 60:
                untold, self._n_refused, self._minute = max(self._n_refused - REFUSALS, 0), 0, time.monotonic()
            else:
                untold = 0
            self._n_refused += 1
            if self._n_refused > REFUSALS:
                return
        self.note("refused", key, untold_before=untold or None, **what)

    def _rotate(self) -> None:
        if not self._path.exists() or self._path.stat().st_size < ROTATE_AT:
            return
        oldest = self._numbered(KEPT)
        # Refusals go with the oldest file; what was done is kept in the next.
        kept = [line for line in _lines(oldest) if '"did": "refused"' not in line]
        for n in range(KEPT - 1, 0, -1):
            older = self._numbered(n)
            if older.exists():
                older.replace(self._numbered(n + 1))
        if kept and sum(map(len, kept)) < ROTATE_AT:
            with open(oldest, "a", encoding="utf-8", opener=_private) as file:
                file.writelines(kept)
        self._path.replace(self._numbered(1))

    def _numbered(self, n: int) -> Path:
        return self._path.with_name(f"{self._path.stem}.{n}{self._path.suffix}")


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []


def _private(path: str, flags: int) -> int:
    file = os.open(path, flags, 0o600)
    give_to_owner(file, Path(path))
    return file
