"""Checksums of model files: workers that have the same file, wherever it lies, share computed states."""

from __future__ import annotations

import hashlib
import logging
import threading
from pathlib import Path

from services.errors import HearthError
from services.models.files import CheckedModel
from services.models.split import part_paths
from services.storage.json_file import JsonFile, Stamp

log = logging.getLogger(__name__)

# Bytes that are read at once.
_CHUNK = 2**20


class Checksums:
    """The files' SHA-256, each computed once and stored in a file. Any thread may call it; `_lock` lets one compute."""

    def __init__(self, path: Path) -> None:
        self._file = JsonFile(path)
        self._lock = threading.Lock()
        self._known: dict[str, Stamp] = {}

    def stamp(self, model: CheckedModel) -> Stamp:
        """Return 21 bytes of a model's checksum, as three numbers. The first call reads the model. Raises OSError."""
        name = f"{model.path} {model.stamp}"
        with self._lock:
            if name not in self._known:
                self._known[name] = self._stored(name) or self._computed(name, model.path)
            return self._known[name]

    def _stored(self, name: str) -> Stamp | None:
        try:
            digest = self._file.read().get(name)
        except HearthError as error:
            log.warning("%s", error.message)
            return None
        return _stamp(str(digest)) if digest else None

    def _computed(self, name: str, path: Path) -> Stamp:
        digest = hashlib.sha256()
        for part in part_paths(path):
            with part.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        try:
            with self._file.edit() as data:
                data[name] = digest.hexdigest()
        except HearthError as error:
            log.warning("%s", error.message)
        return _stamp(digest.hexdigest())


def _stamp(digest: str) -> Stamp:
    data = bytes.fromhex(digest)
    return int.from_bytes(data[:7], "big"), int.from_bytes(data[7:14], "big"), int.from_bytes(data[14:21], "big")
