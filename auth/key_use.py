"""When each key was last used: in memory, and now and then in a file, so that a restart knows it too."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Container
from datetime import datetime, timezone
from pathlib import Path

from services.errors import DamagedFile, HearthError
from services.storage.json_file import JsonFile, JsonObject, OpenTable, SchemaError

log = logging.getLogger(__name__)

# Seconds between a use and its time in the file: no request waits for the disk.
WRITE_AFTER = 20.0


class KeyUse:
    """The times, by the keys' ids. Any thread may call it; `_lock` protects them, and a thread of its own writes."""

    def __init__(self, path: Path, known: Callable[[], Container[str]], open_table: OpenTable = JsonFile) -> None:
        """`known` gives the ids of the keys that there are: only theirs are kept in the file."""
        self._file = open_table(path, _check, private=True)
        self._known = known
        self._lock = threading.Lock()
        self._used: dict[str, str] = {}
        self._closing = threading.Event()
        self._writer: threading.Thread | None = None

    def of(self, id_: str) -> str | None:
        """The time of the key's last use, in ISO 8601, by any server on this file; None where it is not known."""
        stored = None
        with contextlib.suppress(HearthError):
            stored = self._file.read().get(id_)
        return max(filter(None, (stored, self._used.get(id_))), default=None)

    def note(self, id_: str) -> None:
        """The key is used now."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        with self._lock:
            self._used[id_] = now
            if not self._writer and not self._closing.is_set():
                self._writer = threading.Thread(target=self._write_soon, name="key use", daemon=True)
                self._writer.start()

    def close(self) -> None:
        """Write what is not in the file yet."""
        self._closing.set()
        if self._writer:
            self._writer.join()

    def _write_soon(self) -> None:
        """The writer's thread: once for each while in which keys are used."""
        self._closing.wait(WRITE_AFTER)
        with self._lock:
            if not self._closing.is_set():
                self._writer = None
            used = dict(self._used)
        try:
            known = self._known()
            try:
                self._write(used, known)
            except DamagedFile as error:
                log.warning("when keys were last used is written anew: %s", error.message)
                self._file.clear()
                self._write(used, known)
        except (HearthError, OSError) as error:
            log.warning("when keys were last used is kept in memory only: %s", error)

    def _write(self, used: dict[str, str], known: Container[str]) -> None:
        with self._file.edit() as data:
            for id_ in {*data, *used}:
                if id_ in known:
                    data[id_] = max(filter(None, (data.get(id_), used.get(id_))))
                else:
                    data.pop(id_, None)


def _check(data: JsonObject) -> None:
    for id_, when in data.items():
        try:
            good = datetime.fromisoformat(when).utcoffset() is not None
        except (TypeError, ValueError):
            good = False
        if not good:
            raise SchemaError((id_,), f'"{id_}" should be a time')
