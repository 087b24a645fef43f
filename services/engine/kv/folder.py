"""The computed states on disk: a folder of files within a cap of bytes, the least recently used evicted first."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from services.backend.status import Room
from services.engine.kv.file import SUFFIX, DamagedState, Saved, read_saved, read_state, write_state
from services.engine.kv.state import CutRule, State, StateKey, best_match
from services.storage.json_file import Stamp, stamp_of

log = logging.getLogger(__name__)

# The free bytes that stay on a disk.
FREE_DISK = 2**29
# Seconds after which nobody writes a draft any more.
_OLD_DRAFT = 3600.0


class StateFolder:
    """The files, and the list of them in memory.

    Any thread may call it. `_lock` protects the list, `_writing` lets one thread at a time write, and `_reading` read.
    Other processes may write to a shared folder, which is scanned again before each search.
    """

    def __init__(self, folder: Path, n_bytes: int, shared: bool = False) -> None:
        """List the states of earlier runs, and remove files that are not whole. With no bytes to use, remove everything.

        From a `shared` folder only states beyond the cap are removed.
        """
        self._folder = folder
        self._n_bytes = n_bytes
        self.is_shared = shared
        self._stamps: dict[str, Stamp] = {}
        self._lock = threading.RLock()
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._listed: OrderedDict[StateKey, Saved] = OrderedDict()
        self._used = 0
        self.is_usable = n_bytes > 0
        try:
            self._find_files()
        except OSError as error:
            log.warning("the computed states on disk cannot be used: %s", error)
            self.is_usable = False

    @property
    def n_used(self) -> int:
        """The bytes of all files."""
        return self._used

    @property
    def room(self) -> Room:
        """The bytes of all files, and their limit."""
        return Room(self._used, self._n_bytes)

    def __contains__(self, key: StateKey) -> bool:
        return key in self._listed

    def fetch(
        self,
        model: str,
        owner: str,
        tokens: bytes,
        beyond: int,
        rule: CutRule,
        spare: int,
        skip: Callable[[StateKey], bool],
    ) -> State | None:
        """Read the owner's state from which the most of `tokens` can be gone on with, more than `beyond`.

        States for whose keys `skip` returns True are passed over. `rule` and `spare` are as in `best_match`. A file that
        turns out not to be whole is removed.
        """
        # One at a time: a state that several callers need at once is read once, if `skip` knows it then.
        with self._reading:
            if self.is_shared:
                self._rescan()
            with self._lock:
                mine = [saved for key, saved in self._listed.items() if key[:2] == (model, owner) and not skip(key)]
                saved, _ = best_match(mine, tokens, beyond, rule, spare)
            if saved is None:
                return None
            try:
                state = read_state(saved, time.monotonic())
                os.utime(saved.path)
            except (OSError, DamagedState) as error:
                log.warning("the state %s is not used: %s", saved.path.name, error)
                self._remove(saved)
                return None
            with self._lock:
                if self._listed.get(state.key) is not saved:
                    return None
                self._listed.move_to_end(state.key)
            return state

    def write(self, state: State, file: str, is_wanted: Callable[[], bool] = lambda: True) -> None:
        """Write a state of the model `file`, if it `is_wanted` once no other is written. One that cannot be is lost."""
        with self._writing:
            if not is_wanted() or not self.is_usable or state.key.is_temporary or state.n_bytes > self._n_bytes:
                return
            try:
                if self.is_shared:
                    self._rescan()
                self._make_room(state.n_bytes)
                if shutil.disk_usage(self._folder).free - state.n_bytes < FREE_DISK:
                    raise OSError("the disk is almost full")
                saved = write_state(self._folder, state, file)
                self._stamps[saved.path.name] = stamp_of(saved.path.stat())
                self._list(saved)
            except OSError as error:
                log.warning("a computed state cannot be kept on disk: %s", error)

    def remove_where(self, unwanted: Callable[[Saved], bool]) -> None:
        """Remove the files that are `unwanted`, once the write under way is done."""
        if self.is_shared:
            self._rescan()
        with self._writing, self._lock:
            for saved in list(self._listed.values()):
                if unwanted(saved):
                    self._remove(saved)

    def _find_files(self) -> None:
        if self.is_shared:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for draft in self._folder.glob("*.new"):
                # Left by a process that was killed; a younger one may be being written.
                with contextlib.suppress(OSError):
                    if time.time() - draft.stat().st_mtime > _OLD_DRAFT:
                        draft.unlink()
            self._rescan()
            return
        if not self.is_usable:
            for path in self._folder.glob(f"*{SUFFIX}"):
                path.unlink()
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for draft in self._folder.glob("*.new"):
            draft.unlink()
        for _, path in sorted((path.stat().st_mtime, path) for path in self._folder.glob(f"*{SUFFIX}")):
            try:
                self._list(read_saved(path))
            except (OSError, DamagedState) as error:
                log.warning("the state %s is removed: %s", path.name, error)
                path.unlink()
        self._make_room(0)

    def _rescan(self) -> None:
        """Update the list by the files that other processes have written and removed, passing over unfinished ones."""
        try:
            found = {
                entry.name: stamp_of(entry.stat()) for entry in os.scandir(self._folder) if entry.name.endswith(SUFFIX)
            }
        except OSError as error:
            log.warning("the shared folder of computed states cannot be read: %s", error)
            return
        with self._lock:
            gone = [saved for saved in self._listed.values() if saved.path.name not in found]
            for saved in gone:
                del self._listed[saved.header.key]
                self._used -= saved.size
            new = sorted((stamp, name) for name, stamp in found.items() if self._stamps.get(name) != stamp)
            self._stamps = found
        for _, name in new:
            with contextlib.suppress(OSError, DamagedState):
                self._list(read_saved(self._folder / name))

    def _list(self, saved: Saved) -> None:
        with self._lock:
            if old := self._listed.pop(saved.header.key, None):
                self._used -= old.size
            self._listed[saved.header.key] = saved
            self._used += saved.size

    def _make_room(self, n_bytes: int) -> None:
        with self._lock:
            while self._listed and self._used + n_bytes > self._n_bytes:
                self._remove(next(iter(self._listed.values())))

    def _remove(self, saved: Saved) -> None:
        """Unlist the file and delete it, unless a newer one has taken its place."""
        with self._lock:
            if self._listed.get(saved.header.key) is saved:
                del self._listed[saved.header.key]
                self._used -= saved.size
                with contextlib.suppress(OSError):
                    # Another process may have put a newer one there.
                    if not self.is_shared or stamp_of(saved.path.stat()) == self._stamps.get(saved.path.name):
                        saved.path.unlink()
