"""The audit log, data/audit.jsonl: a JSON object a line, with ids of keys, but never keys, prompts or answers."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock

from auth.addresses import source_of
from auth.identity import MASTER
from services.logs import redacted
from services.storage.json_file import give_to_owner

log = logging.getLogger(__name__)

# A file of so many bytes is renamed to audit.1.jsonl, that to audit.2.jsonl, and so on; the last of them is deleted.
ROTATE_AT = 5_000_000
KEPT = 5
# Lines a minute of refusals, and of each kind of failure, of one key with the keys that it minted, or of one address where
# the key is not known: nobody can wash away others' lines. The rest are counted. A successful action always has a line.
LINES = 30
# Lines a minute of all addresses together whose key is not known: an attacker may have any number of addresses.
_LINES_OF_UNKNOWN = 600
# Keys and addresses whose lines that were left out are counted.
_MOST_UNTOLD = 10_000
_MINUTE = 60.0
# Seconds to wait for another program that holds the lock; then a line is left out, and the log says so.
_PATIENCE = 1.0
_REFUSED = "refused"


class AuditLog:
    """The audit log. Any thread may call it; `_lock` protects the counts of lines, and a lock file the file itself."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file_lock = FileLock(path.with_name(f".{path.name}.lock"), _PATIENCE, mode=0o600)
        self._lock = threading.Lock()
        self._minute = time.monotonic()
        self._lines: Counter[tuple[str, str]] = Counter()
        """This minute's lines by key or address and kind; `_untold` counts those left out in the minutes before."""
        self._untold: Counter[tuple[str, str]] = Counter()
        self._n_unknown = 0

    def note(self, did: str, key: str | None, account: str = "", **what: Any) -> None:
        """Write a line about the action `did` of a key (its id; None: unknown), or count it where there are too many.

        `account` is the id of the first key in the chain by which it was minted. `status` and `address` in `what` are those
        of the request. Where the disk is full, the server's log has an error.
        """
        is_known = key is not None and not key.startswith("guest-")
        who = (account or key or "") if is_known else source_of(what.get("address"))
        is_done = _is_done(did, what)
        kind = who, did if is_done else f"{did} failed"
        # A successful action of a request, which has a status, is limited already (`Meter.charge_action`).
        is_told = is_known and ((is_done and "status" in what) or (who == MASTER and did != _REFUSED))
        if who and not is_told and not self._has_room(kind, is_known):
            return
        with self._lock:
            untold = self._untold.pop(kind, None)
        line = {"time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"), "did": did, "key": key}
        more = {"account": account if account not in ("", key) else None, "untold_before": untold, **what}
        # A key may have been typed into another field, such as a model's name.
        told = redacted(json.dumps({**line, **{k: v for k, v in more.items() if v is not None}}, ensure_ascii=False))
        try:
            with open(self._file_lock.lock_file, "a", opener=_private):
                # The lock file exists, and belongs to the folder's owner, before it is locked.
                pass
            with self._file_lock:
                self._rotate()
                with open(self._path, "a", encoding="utf-8", opener=_private) as file:
                    file.write(told + "\n")
        except OSError as error:
            # The error of a lock that another program holds has no errno.
            log.error("data/%s cannot be written: %s", self._path.name, error.strerror or error)

    def note_refusal(self, key: str | None, account: str = "", **what: Any) -> None:
        """Write a line about a refused request, or count it."""
        self.note(_REFUSED, key, account, **what)

    def _has_room(self, kind: tuple[str, str], is_known: bool) -> bool:
        """Count a line of this kind; return whether it may be written."""
        with self._lock:
            if time.monotonic() - self._minute > _MINUTE:
                if len(self._untold) > _MOST_UNTOLD:
                    self._untold.clear()
                self._untold.update({kind: n - LINES for kind, n in self._lines.items() if n > LINES})
                self._lines.clear()
                self._minute, self._n_unknown = time.monotonic(), 0
            self._lines[kind] += 1
            if self._lines[kind] > LINES:
                return False
            self._n_unknown += not is_known
            return is_known or self._n_unknown <= _LINES_OF_UNKNOWN

    def _rotate(self) -> None:
        if not self._path.exists() or self._path.stat().st_size < ROTATE_AT:
            return
        oldest = self._numbered(KEPT)
        # Refusals and failures are deleted with the oldest file; successful actions are kept, of every key alike.
        kept = _shared([line for line in _lines(oldest) if _was_done(line)], ROTATE_AT)
        for n in range(KEPT - 1, 0, -1):
            older = self._numbered(n)
            if older.exists():
                older.replace(self._numbered(n + 1))
        if kept:
            with open(oldest, "a", encoding="utf-8", opener=_private) as file:
                file.writelines(kept)
        self._path.replace(self._numbered(1))

    def _numbered(self, n: int) -> Path:
        return self._path.with_name(f"{self._path.stem}.{n}{self._path.suffix}")


def _shared(lines: list[str], room: int) -> list[str]:
    """Return lines of `room` characters at most, in their order: the last of each key, in equal shares."""
    of_key: dict[str, list[int]] = {}
    for number, line in enumerate(lines):
        told = _read(line)
        of_key.setdefault(str(told.get("account") or told.get("key")), []).append(number)
    sizes = {key: sum(len(lines[n]) for n in numbers) for key, numbers in of_key.items()}
    kept: set[int] = set()
    # A key of few lines keeps them all, and leaves the rest of its share to the others.
    for n_left, key in zip(range(len(sizes), 0, -1), sorted(sizes, key=lambda key: sizes[key]), strict=True):
        share = room // n_left
        for number in reversed(of_key[key]):
            if len(lines[number]) > share:
                break
            share -= len(lines[number])
            room -= len(lines[number])
            kept.add(number)
    return [line for number, line in enumerate(lines) if number in kept]


def _was_done(line: str) -> bool:
    told = _read(line)
    return _is_done(told.get("did"), told)


def _is_done(did: object, what: Mapping[str, Any]) -> bool:
    """Return whether an action succeeded: it was neither refused nor failed."""
    return did != _REFUSED and what.get("status", 200) < 400


def _read(line: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except (TypeError, ValueError):
        # A power cut has torn the line.
        return {}


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []


def _private(path: str, flags: int) -> int:
    file = os.open(path, flags, 0o600)
    give_to_owner(file, Path(path))
    return file
