"""Uploads: a file that arrives becomes a stored one, parsed, cut into chunks and indexed; or leaves nothing."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from services.documents.files import InStep, StoredFile
from services.documents.library import Library
from services.documents.parsing.document import ParsedDocument
from services.documents.parsing.parser import parse
from services.errors import NotFound, TooLarge, Unavailable, Unprocessable

_PIECE = 2**20
Progress = Callable[[str, int, int], None]
"""Called with what is done ("reading" or "indexing"), how much of it, and of how much."""
Poll = Callable[[], None]


@dataclass(frozen=True)
class Upload:
    """A file that arrives: whose it is, and what its sender calls it."""

    owner: str
    name: str
    purpose: str = ""
    collection: str | None = None
    """The name of the owner's collection into which it goes, which is made where there is none."""


class Uploads:
    """Stores files. Any thread may call it; `_lock` keeps collections from being made twice."""

    def __init__(
        self,
        library: Library,
        check_room: Callable[[str, int], None],
        characters_per_token: Callable[[Sequence[str]], float | None],
        most_bytes: int,
        is_busy: Callable[[], bool] = lambda: False,
    ) -> None:
        """`check_room` raises NotPermitted where a key may not keep so many bytes more.

        `characters_per_token` and `is_busy` are as in `parse`. A file may have `most_bytes`.
        """
        self._library = library
        self._check_room = check_room
        self._characters_per_token = characters_per_token
        self._most_bytes = most_bytes
        self._is_busy = is_busy
        self._lock = threading.Lock()

    def add(
        self,
        upload: Upload,
        content: IO[bytes],
        progress: Progress = lambda *_: None,
        poll: Poll = lambda: None,
        replaces: StoredFile | None = None,
        in_step: InStep = lambda *_: None,
    ) -> StoredFile:
        """Store what `content` has to read, in place of another file if one is given; `in_step` is as in `Files.add`.

        `poll` is called meanwhile, and raises to give up. Raises InvalidRequest, TooLarge, UnsupportedType or Unprocessable
        for a file that cannot be read, NotPermitted, StorageFailed, Unavailable; then nothing is stored.
        """
        files = self._library.files
        arrived = files.new_path()
        try:
            size, digest = self._receive(content, arrived, poll)
            self.check_room(upload.owner, size)
            document = self._parse(arrived, upload.name, progress, poll)
            progress("indexing", 0, len(document.chunks))
            poll()
            # Last: another upload may have come between.
            self.check_room(upload.owner, size + len(document.text.encode("utf-8", "replace")))
            collection = self._collection(upload.owner, upload.collection) if upload.collection else None
            of = upload.owner, upload.name
            return files.add(*of, arrived, digest, document, upload.purpose, collection, replaces, in_step)
        finally:
            arrived.unlink(missing_ok=True)

    def check_size(self, size: int) -> None:
        """Raise TooLarge for a file of more bytes than one may have."""
        if size > self._most_bytes:
            what = f"file: it is larger than {self._most_bytes // 2**20} MiB ({self._most_bytes:,} bytes)"
            raise TooLarge(what, param="file")

    def check_room(self, owner: str, n_bytes: int) -> None:
        """Raise NotPermitted where a key may not keep so many bytes more."""
        self._check_room(owner, n_bytes)

    def _receive(self, content: IO[bytes], arrived: Path, poll: Poll) -> tuple[int, str]:
        """Write the content to a file; return its size and its SHA-256."""
        size, digest = 0, hashlib.sha256()
        with arrived.open("wb") as file:
            while piece := content.read(_PIECE):
                poll()
                size += len(piece)
                self.check_size(size)
                digest.update(piece)
                file.write(piece)
        if not size:
            raise Unprocessable("file: it is empty", param="file", code="empty_file")
        return size, digest.hexdigest()

    def _parse(self, arrived: Path, name: str, progress: Progress, poll: Poll) -> ParsedDocument:
        """Parse a file. Raises what `parse` and `poll` raise."""
        given_up: list[Exception] = []

        def is_cancelled() -> bool:
            try:
                poll()
            except Exception as error:
                given_up.append(error)
            return bool(given_up)

        try:
            return parse(
                arrived,
                name,
                on_progress=lambda done, of: progress("reading", done, of),
                is_cancelled=is_cancelled,
                characters_per_token=self._characters_per_token,
                is_busy=self._is_busy,
            )
        except Unavailable:
            if given_up:
                raise given_up[0] from None
            raise

    def _collection(self, owner: str, name: str) -> int:
        collections = self._library.collections
        with self._lock:
            try:
                return collections.get(owner, name).number
            except NotFound:
                return collections.add(owner, name, []).number
