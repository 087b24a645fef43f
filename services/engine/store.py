"""Computed states that lie on no slot: in RAM, and those of stored sessions on disk too, each within a cap of bytes.

Of each conversation the newest state counts: on its slot, else in RAM, else on disk. What is used least leaves first. A
thread of its own writes to disk what has rested a while, and what RAM is about to let go; what it cannot keep up with is
lost, since it can be computed again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from collections import OrderedDict
from pathlib import Path

from services.backend import EVERYBODY
from services.engine.machine import free_memory
from services.engine.state import State, StateKey, common_prefix, count
from services.engine.state_file import SUFFIX, DamagedState, Saved, read_saved, read_state, write_state

log = logging.getLogger(__name__)

# Fewer common tokens than these are not worth the copying.
MIN_SHARED = 16
# The share of the free memory that states may take, unless told otherwise: 1 / RAM_SHARE.
RAM_SHARE = 4
# A state is written once it has rested for as long as this many bytes a second take, so that disks last.
REST_BYTES_PER_SECOND = 10e6
REST_SECONDS = 2.0
# Disks are never filled beyond this many free bytes.
FREE_DISK = 2**29


class StateStore:
    """All states that lie on no slot, of all models.

    Any thread may call it. `_turn` protects the tables; `_disk_turn` lets one thread at a time write files.
    """

    def __init__(self, folder: Path | None = None, ram_bytes: int | None = None, disk_bytes: int = 0) -> None:
        """States are kept in `folder`, if there is one. `ram_bytes` None: a share of the free memory."""
        self._folder = folder if disk_bytes > 0 else None
        self._ram_bytes = ram_bytes
        self._disk_bytes = disk_bytes
        self._turn = threading.Condition()
        self._disk_turn = threading.Lock()
        self._files: dict[str, str] = {}
        self._ram: OrderedDict[StateKey, State] = OrderedDict()
        self._ram_used = 0
        self._unsaved: OrderedDict[StateKey, State] = OrderedDict()
        self._disk: OrderedDict[StateKey, Saved] = OrderedDict()
        self._disk_used = 0
        self._on_slot: set[StateKey] = set()
        self._closing = False
        self._writer: threading.Thread | None = None
        if self._folder:
            self._find_files(self._folder)
            self._writer = threading.Thread(target=self._write_rested, name="state writer", daemon=True)
            self._writer.start()

    def bind(self, model: str, file: Path) -> None:
        """Take note that `model` is the fingerprint of `file`, and remove the file's states of other fingerprints."""
        with self._turn:
            self._files[model] = str(file)
            foreign = [s for s in self._disk.values() if s.header.file == str(file) and s.header.model != model]
        for saved in foreign:
            self._remove(saved)

    def find(self, model: str, owner: str, tokens: bytes, beyond: int = 0) -> tuple[State | None, int]:
        """The state in RAM that has most of `tokens` (packed) in common, and how many: more than `beyond`, else none."""
        best, beyond = None, max(beyond, MIN_SHARED - 1)
        with self._turn:
            for key, state in self._ram.items():
                if key.model != model or key.owner not in (owner, EVERYBODY):
                    continue
                if (shared := common_prefix(state.tokens, tokens, beyond)) and is_worth(shared, state.tokens):
                    best, beyond = state, shared
            if best:
                self._ram.move_to_end(best.key)
        return best, beyond if best else 0

    def fetch(self, model: str, owner: str, tokens: bytes) -> None:
        """Bring into RAM the state on disk that has most of `tokens` in common, unless one in RAM has as many."""
        beyond = max(self.find(model, owner, tokens)[1], MIN_SHARED - 1)
        best = None
        with self._turn:
            for key, saved in self._disk.items():
                if key[:2] != (model, owner) or key in self._on_slot or key in self._ram:
                    continue
                if (shared := common_prefix(saved.tokens, tokens, beyond)) and is_worth(shared, saved.tokens):
                    best, beyond = saved, shared
        if best is None:
            return
        try:
            state = read_state(best, time.monotonic())
            os.utime(best.path)
        except (OSError, DamagedState) as error:
            log.warning("the state %s is left out: %s", best.path.name, error)
            self._remove(best)
            return
        with self._turn:
            if self._disk.get(state.key) is best and state.key not in self._on_slot:
                self._disk.move_to_end(state.key)
                self._keep(state)

    def has(self, key: StateKey) -> bool:
        """Whether the state is in RAM."""
        with self._turn:
            return key in self._ram

    def put(self, state: State, saved: bool = False) -> None:
        """Take a state from its slot into RAM; `saved`: it is on disk, or handed over to be."""
        with self._turn:
            self._on_slot.discard(state.key)
            wanted = not saved or state.key in self._unsaved
            self._keep(state)
            if wanted and not state.key.is_passing and self._folder:
                self._unsaved[state.key] = state
                self._turn.notify_all()

    @property
    def can_save(self) -> bool:
        """Whether states are kept on disk, and none waits to be written."""
        return self._folder is not None and not self._unsaved

    def hand_over(self, state: State) -> None:
        """Have a state written that stays on its slot."""
        with self._turn:
            self._unsaved[state.key] = state
            self._turn.notify_all()

    def lay_out(self, key: StateKey) -> None:
        """Take note that the conversation's state now lies on a slot."""
        with self._turn:
            self._drop(key)
            self._on_slot.add(key)

    def take_away(self, key: StateKey) -> None:
        """Take note that it lies there no more, and is nowhere else but perhaps, older, on disk."""
        with self._turn:
            self._on_slot.discard(key)

    def drop(self, key: StateKey) -> None:
        """Let go of a state in RAM, since another conversation goes on with it."""
        with self._turn:
            self._drop(key)

    def save(self, state: State) -> None:
        """Write a state to disk now, on this thread, if it belongs there. What cannot be written is lost."""
        with self._disk_turn:
            self._write(state)

    def forget(self, owner: str, session: str) -> None:
        """Remove the states of a conversation, of all models, in RAM and on disk. None may lie on a slot any more."""
        with self._disk_turn:
            with self._turn:
                named = [key for key in (*self._ram, *self._unsaved) if (key.owner, key.session) == (owner, session)]
                for key in named:
                    self._drop(key)
                listed = [saved for key, saved in self._disk.items() if (key.owner, key.session) == (owner, session)]
            for saved in listed:
                self._remove(saved)

    def close(self, seconds: float = 5.0) -> None:
        """Write what is not on disk yet, the last used first, for `seconds` at most, and stop."""
        with self._turn:
            self._closing = True
            self._turn.notify_all()
            unsaved = list(reversed(self._unsaved.values()))
        if self._writer:
            self._writer.join()
        deadline = time.monotonic() + seconds
        for state in unsaved:
            if time.monotonic() < deadline:
                self.save(state)

    def _find_files(self, folder: Path) -> None:
        """List what an earlier run has left, oldest first, and remove what is no whole state."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for draft in folder.glob("*.new"):
                draft.unlink()
            found = sorted((path.stat().st_mtime, path) for path in folder.glob(f"*{SUFFIX}"))
        except OSError as error:
            log.warning("the computed states on disk cannot be used: %s", error)
            self._folder = None
            return
        for _, path in found:
            try:
                self._list(read_saved(path))
            except (OSError, DamagedState) as error:
                log.warning("the state %s is removed: %s", path.name, error)
                with contextlib.suppress(OSError):
                    path.unlink()
        self._make_room(0)

    def _keep(self, state: State) -> None:
        """Put it into RAM, and let go of what that has no room for; the last one always stays."""
        self._drop(state.key)
        self._ram[state.key] = state
        self._ram_used += state.n_bytes
        while self._ram_used > self._ram_cap() and len(self._ram) > 1:
            self._drop(next(iter(self._ram)))

    def _drop(self, key: StateKey) -> None:
        self._unsaved.pop(key, None)
        if state := self._ram.pop(key, None):
            self._ram_used -= state.n_bytes

    def _ram_cap(self) -> int:
        return (free_memory() + self._ram_used) // RAM_SHARE if self._ram_bytes is None else self._ram_bytes

    def _list(self, saved: Saved) -> None:
        key = saved.header.key
        if old := self._disk.pop(key, None):
            self._disk_used -= old.size
        self._disk[key] = saved
        self._disk_used += saved.size

    def _make_room(self, n_bytes: int) -> None:
        """Remove the files longest unused until `n_bytes` more are within the cap."""
        while True:
            with self._turn:
                if self._disk_used + n_bytes <= self._disk_bytes or not self._disk:
                    return
                oldest = next(iter(self._disk.values()))
            self._remove(oldest)

    def _remove(self, saved: Saved) -> None:
        """Unlist the file and delete it, unless a newer one has taken its place."""
        with self._turn:
            if self._disk.get(saved.header.key) is saved:
                del self._disk[saved.header.key]
                self._disk_used -= saved.size
                with contextlib.suppress(OSError):
                    saved.path.unlink()

    def _write(self, state: State) -> None:
        """Holding `_disk_turn`: make room, write, list."""
        if not self._folder or state.key.is_passing or state.n_bytes > self._disk_bytes:
            return
        try:
            self._make_room(state.n_bytes)
            if shutil.disk_usage(self._folder).free - state.n_bytes < FREE_DISK:
                raise OSError("the disk is almost full")
            saved = write_state(self._folder, state, self._files.get(state.key.model, ""))
        except OSError as error:
            log.warning("a computed state cannot be kept on disk: %s", error)
            return
        with self._turn:
            self._list(saved)

    def _write_rested(self) -> None:
        """The writer's thread."""
        while True:
            with self._turn:
                while not self._closing and not self._rested():
                    self._turn.wait(0.5 if self._unsaved else None)
                if self._closing:
                    return
            with self._disk_turn:
                with self._turn:
                    if state := self._rested():
                        del self._unsaved[state.key]
                if state:
                    self._write(state)

    def _rested(self) -> State | None:
        """The state to write next: the one longest unused, if it has rested or RAM is about to let it go."""
        state = next(iter(self._unsaved.values()), None)
        if state and (has_rested(state.n_bytes, state.used) or 4 * self._ram_used > 3 * self._ram_cap()):
            return state
        return None


def has_rested(n_bytes: float, used: float) -> bool:
    """Whether a state that was last worked on at `used` (time.monotonic) is worth writing."""
    return time.monotonic() - used > max(REST_SECONDS, n_bytes / REST_BYTES_PER_SECOND)


def is_worth(shared: int, tokens: bytes) -> bool:
    """Whether so much of a state is in common that copying all of it is worth the while."""
    return shared >= MIN_SHARED and 16 * shared >= count(tokens)
