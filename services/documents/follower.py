"""The thread that keeps collections like the folders that they follow: new, changed and deleted files."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from services.documents.files import StoredFile
from services.documents.folders import FollowedFile, FollowedFolder
from services.documents.library import Library
from services.documents.parsing.kinds import check_extension
from services.documents.uploads import Upload, Uploads
from services.documents.walk import FileChanged, FoundFile, Walk, open_steady, walk
from services.errors import HearthError, InvalidRequest, NotFound, NotPermitted, StorageFailed, Unavailable

log = logging.getLogger(__name__)

# Seconds between two looks: usually, while something is changing, and at least for each second that looking took.
_PAUSE, _PAUSE_CHANGING, _PAUSE_EACH = 2.0, 1.0, 20.0
# Seconds after which what failed for want of room or of rights is tried again, or for want of time: others compute first.
_AGAIN, _AGAIN_SLOW = 60.0, 3600.0
# Seconds for the files of one folder before those of the next have their turn.
_SLICE = 10.0
_PIECE = 2**20
Stat = tuple[int, int]
"""A file's size and time of change."""


class Stopping(Exception):
    """The server stops."""


@dataclass
class _Memory:
    """What the last look at a folder has left for the next one."""

    pending: Mapping[str, Stat]
    """The files that were new or changed, which are read if they are the same again."""
    missing: frozenset[str]
    """The files that were not there, which are deleted if they are missing again."""


class Follower:
    """Follows folders, one file at a time, on a thread of its own; `start` and `close` are the server's to call.

    Only that thread, or one that calls `look` in its place, uses the other attributes.
    """

    def __init__(
        self,
        library: Library,
        uploads: Uploads,
        owner_problem: Callable[[str], str | None] = lambda _: None,
        forget_state: Callable[[str, str], None] = lambda *_: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`owner_problem` says why nothing is followed for a key any more, None if all is well.

        `forget_state` forgets the computed state of this owner and name. `clock` returns seconds.
        """
        self._library = library
        self._uploads = uploads
        self._owner_problem = owner_problem
        self._forget_state = forget_state
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._memories: dict[int, _Memory] = {}
        self._again: dict[tuple[int, str], float] = {}
        """By collection and path, when what failed is tried again."""
        self._walking = 0.0
        """Seconds that the last look took for finding what has changed."""
        self._logged = ""
        self._has_traces = False
        """True once the index may hold words of what was replaced."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread, and the file that it is at, and wait for that."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> bool:
        """Go once through all folders; return whether one of them has more to read at once.

        A new or changed file is read at the second look that finds it so, and a missing one deleted at the second that
        misses it. Raises StorageFailed, Unavailable.
        """
        self._walking = 0.0
        folders = self._library.folders.all()
        self._memories = {
            folder.collection.number: memory
            for folder in folders
            if (memory := self._memories.get(folder.collection.number))
        }
        has_more = False
        for folder in folders:
            has_more |= self._look_at(folder)
        return has_more

    def _run(self) -> None:
        while not self._stop.is_set():
            has_more = False
            try:
                has_more = self.look()
            except Stopping:
                return
            except HearthError as error:
                self._log(error)
            except Exception:
                log.exception("folders cannot be followed")
            if not has_more:
                is_changing = any(memory.pending or memory.missing for memory in self._memories.values())
                self._stop.wait(max(_PAUSE_CHANGING if is_changing else _PAUSE, _PAUSE_EACH * self._walking))

    def _log(self, error: HearthError) -> None:
        # Once, not every two seconds.
        if error.message != self._logged:
            self._logged = error.message
            log.warning("folders cannot be followed: %s", error.message)

    def _look_at(self, folder: FollowedFolder) -> bool:
        self._poll()
        try:
            if folder.is_leaving:
                self._library.folders.remove_with_files(folder, self._library.files, self._forget)
                return False
            if problem := self._owner_problem(folder.collection.owner):
                self._library.folders.note_state(folder, problem, folder.disks)
                return False
            return self._follow(folder)
        except NotFound:
            # It is not followed any more.
            return False
        except (StorageFailed, Unavailable) as error:
            self._log(error)
            return False

    def _follow(self, folder: FollowedFolder) -> bool:
        """Bring a collection up to its folder. Returns whether there is more to read at once."""
        folders, began = self._library.folders, self._clock()
        found = walk(folder.path, folder.disks, self._poll)
        folders.note_state(folder, found.unread.get(""), found.disks)
        if "" in found.unread:
            return False
        known = folders.files(folder)
        before = self._memories.get(folder.collection.number) or _Memory({}, frozenset())
        changed = {path: file for path, file in found.files.items() if self._is_due(folder, file, known.get(path))}
        missing = {path: file for path, file in known.items() if path not in found.files and not found.is_unknown(path)}
        pending = {path: (file.size, file.mtime_ns) for path, file in changed.items()}
        self._memories[folder.collection.number] = _Memory(pending, frozenset(missing))
        self._walking += self._clock() - began
        self._note_unreadable(folder, found, changed, known)
        steady = [file for path, file in changed.items() if before.pending.get(path) == pending[path]]
        has_more = self._read_all(folder, steady, known, missing)
        self._delete(folder, [file for path, file in missing.items() if path in before.missing])
        if self._has_traces and not has_more:
            self._library.files.leave_no_trace()
            self._has_traces = False
        return has_more

    def _is_due(self, folder: FollowedFolder, file: FoundFile, known: FollowedFile | None) -> bool:
        """Return whether a file is new or has changed, or is to be tried again now."""
        if known is None or (known.size, known.mtime_ns) != (file.size, file.mtime_ns):
            return True
        return known.digest is None and self._clock() >= self._again.get((folder.collection.number, file.path), 0.0)

    def _note_unreadable(
        self, folder: FollowedFolder, found: Walk, changed: dict[str, FoundFile], known: Mapping[str, FollowedFile]
    ) -> None:
        """Note the places that cannot be looked at, and what by its name cannot be read, which leaves `changed`."""
        noted = []
        for place, reason in found.unread.items():
            if place not in known or (known[place].file is None and known[place].problem != reason):
                noted.append(FollowedFile(place, 0, 0, None, None, reason))
        for path, file in list(changed.items()):
            if problem := _unreadable(file):
                noted.append(FollowedFile(path, file.size, file.mtime_ns, "", None, problem))
                del changed[path]
        self._library.folders.note(folder, noted)

    def _read_all(
        self,
        folder: FollowedFolder,
        files: list[FoundFile],
        known: Mapping[str, FollowedFile],
        missing: dict[str, FollowedFile],
    ) -> bool:
        """Read files, as many as there is time for; return whether some are left. `missing` loses what was renamed."""
        deadline = self._clock() + _SLICE
        for n, file in enumerate(files):
            if n and self._clock() > deadline:
                return True
            self._poll()
            self._read(folder, file, known.get(file.path), missing)
        return False

    def _read(
        self, folder: FollowedFolder, file: FoundFile, known: FollowedFile | None, missing: dict[str, FollowedFile]
    ) -> None:
        """Store a new or changed file, or note why that cannot be done."""
        digest = ""
        try:
            self._uploads.check_size(file.size)
            if known is None or known.digest is None:
                self._uploads.check_room(folder.collection.owner, file.size)
            digest = self._digest(folder, file)
            if known and digest == known.digest:
                self._library.folders.note(folder, [replace(known, size=file.size, mtime_ns=file.mtime_ns)])
            else:
                self._store(folder, file, digest, known, missing)
        except FileChanged:
            # The next look finds it as it is then.
            return
        except InvalidRequest as error:
            if error.code == "too_slow":
                self._put_off(folder, file, known, error.message, _AGAIN_SLOW)
                return
            # What the folder does not hold any more is not found any more.
            if known and (old := self._stored(folder, known)):
                self._remove([old])
            self._note_problem(folder, file, digest, None, error.message)
        except OSError as error:
            self._put_off(folder, file, known, f"it cannot be read: {error.strerror}", _AGAIN)
        except (NotPermitted, StorageFailed, Unavailable) as error:
            self._put_off(folder, file, known, error.message, _AGAIN)

    def _digest(self, folder: FollowedFolder, file: FoundFile) -> str:
        """Return the SHA-256 of a file's content. Raises OSError, FileChanged."""
        digest = hashlib.sha256()
        with open_steady(folder.path, file) as content:
            while piece := content.read(_PIECE):
                self._poll()
                digest.update(piece)
        return digest.hexdigest()

    def _store(
        self,
        folder: FollowedFolder,
        file: FoundFile,
        digest: str,
        known: FollowedFile | None,
        missing: dict[str, FollowedFile],
    ) -> None:
        """Store a file in the place of what it was, or of the missing one that has its content. Raises as `Uploads.add`."""
        folders, collection = self._library.folders, folder.collection
        noted = FollowedFile(file.path, file.size, file.mtime_ns, digest, None)
        name = _shown(file.path)
        # The folder may have been followed before.
        if there := self._library.files.named(collection.number, name, digest):
            old = self._stored(folder, known) if known else None
            folders.note(folder, [replace(noted, file=there.number)])
            self._remove([old] if old else [])
            return
        renamed = next((each for each in missing.values() if each.digest == digest), None) if not known else None
        last = known or renamed
        old = self._stored(folder, last) if last else None

        def poll() -> None:
            self._poll()
            if not folders.is_followed(folder):
                raise NotFound(f"{folder.path} is not followed any more")

        states = self._library.files.readings(old) if old else set()
        upload = Upload(collection.owner, name, collection=collection.name)
        with open_steady(folder.path, file) as content:
            self._uploads.add(upload, content, poll=poll, replaces=old, in_step=folders.noting(folder, noted))
        if old:
            self._has_traces = True
            for owner, state in states:
                self._forget(owner, state)
        if renamed:
            del missing[renamed.path]
            folders.forget(folder, [renamed.path])

    def _put_off(
        self, folder: FollowedFolder, file: FoundFile, known: FollowedFile | None, reason: str, seconds: float
    ) -> None:
        """Note why a file cannot be read now, and try it again later. What is stored of it stays."""
        self._again[folder.collection.number, file.path] = self._clock() + seconds
        self._note_problem(folder, file, None, known.file if known else None, reason)

    def _note_problem(
        self, folder: FollowedFolder, file: FoundFile, digest: str | None, number: int | None, reason: str
    ) -> None:
        reason = reason.removeprefix("file: ")
        noted = FollowedFile(file.path, file.size, file.mtime_ns, digest, number, reason)
        self._library.folders.note(folder, [noted])

    def _delete(self, folder: FollowedFolder, files: list[FollowedFile]) -> None:
        """Delete the stored files of what is not in the folder any more."""
        if files:
            self._remove([old for file in files if (old := self._stored(folder, file))])
            self._library.folders.forget(folder, [file.path for file in files])

    def _remove(self, files: list[StoredFile]) -> None:
        if files:
            for owner, state in self._library.files.remove_all(files):
                self._forget(owner, state)

    def _stored(self, folder: FollowedFolder, file: FollowedFile) -> StoredFile | None:
        """Return the stored file, if it is there still."""
        now = None if file.file is None else self._library.files.numbered([file.file]).get(file.file)
        return now if now and (now.owner, now.name) == (folder.collection.owner, _shown(file.path)) else None

    def _forget(self, owner: str, state: str) -> None:
        # What stays of it goes with the next start.
        with suppress(HearthError):
            self._forget_state(owner, state)

    def _poll(self) -> None:
        if self._stop.is_set():
            raise Stopping


def _shown(path: str) -> str:
    """Return the name of a stored file: its path without control characters."""
    return "".join(character for character in path if character.isprintable())


def _unreadable(file: FoundFile) -> str | None:
    """Return why a file cannot be read, as its name alone tells; None if it may be readable."""
    if not file.is_nameable:
        return "its name is not UTF-8: rename it"
    try:
        check_extension(file.path)
    except InvalidRequest as error:
        return error.message
    return None
