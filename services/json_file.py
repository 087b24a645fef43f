"""A JSON file that several threads and processes may change and a power cut may not break.

The file holds one object. It is replaced whole: the new text is written beside it, synced, and renamed over it, so a
reader sees the old file or the new one. Writers take turns by a lock file, which other processes honour too.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from services.errors import DamagedFile, StorageFailed

JsonObject = dict[str, Any]
Check = Callable[[JsonObject], None]


class Misfit(ValueError):
    """Raised by a file's check: the entry `key` is not what it should be, and why."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(reason)
        self.key = key


class JsonFile:
    """One JSON object on disk, and the copy of it in memory.

    Owned by its store; any thread may call it. `_turn` protects the copy and serializes this process's writers; the
    lock file beside the data serializes processes. `check` gets each object read from disk and raises Misfit.
    Objects that `read` and `edit` give are shared: replace their entries, never change one in place.
    """

    def __init__(self, path: Path, check: Check | None = None, *, private: bool = False) -> None:
        self.path = path
        self._check = check
        self._mode = 0o600 if private else 0o644
        self._turn = threading.RLock()
        self._seen: tuple[int, int, int] | None = None
        self._data: JsonObject = {}

    def read(self) -> JsonObject:
        """The object as it stands on disk; {} where there is no file. Parsed again only after the file has changed.

        Raises DamagedFile with the line at fault.
        """
        with self._turn:
            stamp = self._stamp()
            if stamp != self._seen:
                self._data = self._parse() if stamp else {}
                self._seen = stamp
            return self._data

    @contextmanager
    def edit(self) -> Iterator[JsonObject]:
        """Give a shallow copy of the object to change, and store it durably on leaving.

        Nothing is stored where the block raises or leaves the object as it was.
        Raises DamagedFile where the file cannot be read, StorageFailed where it cannot be written.
        """
        with self._turn, self._alone():
            before = self.read()
            data = dict(before)
            yield data
            if data != before:
                self._write(data)
                self._data, self._seen = data, self._stamp()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock file, which keeps other processes from writing."""
        try:
            lock = os.open(self.path.with_name(f".{self.path.name}.lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _stamp(self) -> tuple[int, int, int] | None:
        """What changes whenever the file does: every write of ours is a new inode."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _parse(self) -> JsonObject:
        try:
            text = self.path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DamagedFile(self.path, f"not UTF-8 text (byte {error.start})") from error
        except OSError as error:
            raise DamagedFile(self.path, f"cannot be read: {error.strerror}") from error
        try:
            data = parse_json(text, object_pairs_hook=_once_each)
        except json.JSONDecodeError as error:
            raise DamagedFile(self.path, error.msg, line=error.lineno, column=error.colno) from error
        except Misfit as error:
            raise DamagedFile(self.path, str(error), line=_last_line_of(text, error.key)) from error
        except (ValueError, RecursionError) as error:
            raise DamagedFile(self.path, str(error)) from error
        if not isinstance(data, dict):
            raise DamagedFile(self.path, "should hold one JSON object: { … }", line=1)
        if self._check:
            try:
                self._check(data)
            except Misfit as error:
                raise DamagedFile(self.path, str(error), line=_line_of_entry(text, error.key)) from error
        return data

    def _write(self, data: JsonObject) -> None:
        """Write beside the file, sync, rename over it, and sync the folder, so that the new name lasts too."""
        draft = self.path.with_name(f".{self.path.name}.new")
        try:
            with os.fdopen(os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, self._mode), "w", encoding="utf-8") as out:
                json.dump(data, out, ensure_ascii=False, indent=2)
                out.write("\n")
                out.flush()
                os.fsync(out.fileno())
            draft.replace(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> StorageFailed:
        return StorageFailed(f"{self.path.parent.name}/{self.path.name} cannot be written: {error.strerror}")


def parse_json(text: str, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """`json.loads`, as strict as RFC 8259: no NaN or Infinity, and no \\u escape that is half a character.

    Raises ValueError (JSONDecodeError where the place is known) or RecursionError.
    """
    data = json.loads(text, object_pairs_hook=object_pairs_hook, parse_constant=_refuse_constant)
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(data, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a \\u escape in it is half a character (a lone surrogate)") from None
    return data


def _once_each(pairs: list[tuple[str, Any]]) -> JsonObject:
    """An object whose names differ: of two equal ones JSON would drop the first without a word."""
    data = dict(pairs)
    if len(data) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Misfit(twice, f'"{twice}" stands there twice')
    return data


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _last_line_of(text: str, key: str) -> int | None:
    at = text.rfind(json.dumps(key, ensure_ascii=False))
    return text.count("\n", 0, at) + 1 if at >= 0 else None


def _line_of_entry(text: str, key: str) -> int | None:
    """The line on which the outermost object's entry `key` begins."""
    decoder = json.JSONDecoder()
    at = text.index("{") + 1
    while True:
        while text[at] in " \t\r\n,":
            at += 1
        if text[at] == "}":
            return None
        name, end = decoder.raw_decode(text, at)
        if name == key:
            return text.count("\n", 0, at) + 1
        at = text.index(":", end) + 1
        while text[at] in " \t\r\n":
            at += 1
        at = decoder.raw_decode(text, at)[1]
