"""Computed states that are on no slot: in RAM, and those of stored sessions on disk too, each within a cap of bytes.

Of each conversation the newest state counts: on its slot, else in RAM, else on disk. The least recently used is evicted
first. A thread of its own writes to disk the states that have rested a while, and those that RAM is about to evict, which
stay in RAM until then, up to `OVER` bytes too many; beyond that they are lost, since they can be computed again.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from pathlib import Path

from services.backend.status import Room, Tier
from services.backend.types import EVERYBODY
from services.engine.kv.file import Saved
from services.engine.kv.folder import StateFolder
from services.engine.kv.state import CUT_ANYWHERE, FILE_PART, CutRule, State, StateKey, best_match
from services.engine.machine import free_memory

# The share of the free memory that states may take by default: 1 / RAM_SHARE.
RAM_SHARE = 4
# A state is written once it has rested for as long as writing at so many bytes a second takes, so that disks last.
REST_BYTES_PER_SECOND = 10e6
REST_SECONDS = 2.0
# Bytes beyond the cap that states may take in RAM for the moment, on their way to disk or to a slot.
OVER = 2**25


class StateStore:
    """All states that are on no slot, of all models.

    Any thread may call it. `_lock` protects the tables; the folder protects itself, and is never called while holding
    `_lock`, since it calls back.
    """

    def __init__(
        self, folder: Path | None = None, ram_bytes: int | None = None, disk_bytes: int = 0, shared: bool = False
    ) -> None:
        """`folder` keeps states on disk, and may be shared by other processes; None keeps none there.

        `ram_bytes` None: a share of the free memory.
        """
        self._folder = StateFolder(folder, disk_bytes, shared) if folder else None
        self._ram_bytes = ram_bytes
        self._lock = threading.Condition()
        self._files: dict[str, str] = {}
        self._ram: OrderedDict[StateKey, State] = OrderedDict()
        self._ram_used = 0
        self._weights = 0
        self._unsaved: OrderedDict[StateKey, State] = OrderedDict()
        self._on_slot: dict[StateKey, int] = {}
        """Of each state on a slot, the bytes of its checkpoints, which are in RAM."""
        self._fetched: set[StateKey] = set()
        """States in RAM that were read from disk."""
        self._closing = False
        self._writer: threading.Thread | None = None

    def start(self) -> StateStore:
        """Begin to write states to disk, where they are kept there; return the store itself."""
        if self.keeps_files:
            self._writer = threading.Thread(target=self._write_rested, name="state writer", daemon=True)
            self._writer.start()
        return self

    @property
    def keeps_files(self) -> bool:
        """True if states are kept on disk."""
        return self._folder is not None and self._folder.is_usable

    @property
    def can_save(self) -> bool:
        """True if states are kept on disk, and none is queued for writing."""
        return self.keeps_files and not self._unsaved

    def rooms(self) -> tuple[Room, Room]:
        """The bytes that the states take, and may take: in RAM, and on disk."""
        on_disk = self._folder.room if self._folder and self._folder.is_usable else Room(0, 0)
        with self._lock:
            queued = sum(state.n_bytes for key, state in self._unsaved.items() if key not in self._ram)
            return Room(self._ram_used + self._checkpoints_used + queued, self._ram_cap()), on_disk

    def set_weights(self, n_bytes: int) -> None:
        """Note the bytes of the weights of loaded models: mapped files, which the system counts as free memory."""
        self._weights = n_bytes

    def bind(self, model: str, file: Path) -> None:
        """Note that `model` is the fingerprint of `file`, and remove the states of the file's earlier contents.

        States of the same file, loaded with other settings, stay: it may be loaded so again.
        """
        self._files[model] = str(file)

        def is_outdated(saved: Saved) -> bool:
            return saved.header.file == str(file) and saved.header.model[:FILE_PART] != model[:FILE_PART]

        # In a shared folder they may belong to another process, and be good.
        if self._folder and not self._folder.is_shared:
            self._folder.remove_where(is_outdated)

    def find(
        self, model: str, owner: str, tokens: bytes, beyond: int = 0, *, rule: CutRule = CUT_ANYWHERE, spare: int = 0
    ) -> tuple[State | None, int]:
        """Return the state in RAM from which the most of `tokens` (packed) can be gone on with, and how many these are.

        (None, 0) unless that is more than `beyond`. `rule` and `spare` are as in `best_match`.
        """
        with self._lock:
            mine = [s for key, s in self._ram.items() if key.model == model and key.owner in (owner, EVERYBODY)]
            best, n_kept = best_match(mine, tokens, beyond, rule, spare)
            if best:
                self._ram.move_to_end(best.key)
        return best, n_kept

    def fetch(self, model: str, owner: str, tokens: bytes, *, rule: CutRule = CUT_ANYWHERE, spare: int = 0) -> None:
        """Read the state on disk that serves `tokens` best into RAM, unless one in RAM serves them as well."""
        _, n_kept = self.find(model, owner, tokens, rule=rule, spare=spare)
        if self._folder and (state := self._folder.fetch(model, owner, tokens, n_kept, rule, spare, self._is_newer)):
            with self._lock:
                if not self._is_newer(state.key):
                    self._add(state, fetched=True)
            if state.key not in self._folder:
                # Forgotten meanwhile.
                self.drop(state.key)

    def tier_of(self, key: StateKey) -> Tier:
        """Return where a state in RAM came from last."""
        return "disk" if key in self._fetched else "ram"

    def has(self, key: StateKey) -> bool:
        """Return whether the state is in RAM."""
        with self._lock:
            return key in self._ram

    def put(self, state: State, saved: bool = False) -> None:
        """Add a state to RAM that leaves its slot; `saved`: it is on disk, or queued for writing."""
        with self._lock:
            self._on_slot.pop(state.key, None)
            unsaved = not saved or state.key in self._unsaved
            self._add(state)
            if unsaved and not state.key.is_temporary and self.keeps_files:
                self._unsaved[state.key] = state
                self._lock.notify_all()

    def queue_write(self, state: State) -> None:
        """Queue a state for writing that stays on its slot."""
        with self._lock:
            self._unsaved[state.key] = state
            self._lock.notify_all()

    def mark_on_slot(self, key: StateKey, checkpoint_bytes: int = 0) -> None:
        """Note that the conversation's state is on a slot now, with its checkpoints, and drop the one in RAM."""
        with self._lock:
            self._drop(key)
            self._on_slot[key] = checkpoint_bytes

    def count_checkpoints(self, key: StateKey, n_bytes: int) -> None:
        """Note that the checkpoints of a state on a slot take `n_bytes` now, and evict what RAM has no room for."""
        with self._lock:
            self._on_slot[key] = n_bytes
            self._make_room()

    def checkpoint_room(self, key: StateKey, n_slots: int, n_bytes: int) -> int:
        """Return the bytes that the checkpoints of a state on one of `n_slots` slots may take, `n_bytes` those of one.

        The slots share half of the RAM equally, but two checkpoints may take what the others leave of it.
        """
        with self._lock:
            most = self._ram_cap() // 2
            others = self._checkpoints_used - self._on_slot.get(key, 0)
        return max(most // n_slots, min(2 * n_bytes, most - others))

    def mark_off_slot(self, key: StateKey) -> None:
        """Note that it is on no slot any more, and nowhere else but perhaps, older, on disk."""
        with self._lock:
            self._on_slot.pop(key, None)

    def drop(self, key: StateKey) -> None:
        """Drop a state in RAM, since another conversation continues it, or it cannot be used."""
        with self._lock:
            self._drop(key)

    def save(self, state: State) -> None:
        """Write a state to disk now, on this thread, if it belongs there. One that cannot be written is lost."""
        if self._folder:
            self._folder.write(state, self._files.get(state.key.model, ""))

    def forget(self, owner: str, session: str) -> None:
        """Remove the states of a conversation, of all models, in RAM and on disk. None may be on a slot any more."""
        self._drop_session(owner, session)
        if self._folder:
            self._folder.remove_where(lambda saved: saved.header.key[1:] == (owner, session))
            # One may have been read from the disk meanwhile.
            self._drop_session(owner, session)

    def retain(self, sessions: set[tuple[str, str]]) -> None:
        """Remove the files of all but these (owner, session): others were deleted by hand, or before a crash."""
        if self._folder:
            self._folder.remove_where(lambda saved: saved.header.key[1:] not in sessions)

    def close(self, seconds: float = 5.0) -> None:
        """Write the states that are not on disk yet, the last used first, for `seconds` at most, and stop."""
        deadline = time.monotonic() + seconds
        with self._lock:
            self._closing = True
            self._lock.notify_all()
            unsaved = list(reversed(self._unsaved.values()))
        if self._writer:
            # It is a daemon, and a file that it leaves half written is a draft.
            self._writer.join(timeout=seconds)
        for state in unsaved:
            if time.monotonic() < deadline:
                self._save_unsaved(state)

    def _is_newer(self, key: StateKey) -> bool:
        """Return whether the state is on a slot or in RAM, so that the one on disk is older or the same."""
        with self._lock:
            return key in self._on_slot or key in self._ram

    def _add(self, state: State, fetched: bool = False) -> None:
        """Add a state to RAM, and evict others that it leaves no room for."""
        self._drop(state.key)
        self._ram[state.key] = state
        self._ram_used += state.n_bytes
        if fetched:
            self._fetched.add(state.key)
        self._make_room()

    def _make_room(self) -> None:
        """Evict the states that RAM has no room for, those on disk first; the last one stays, unless it is large.

        One that was fetched for a request stays whatever its size.
        """
        cap = self._ram_cap() - self._checkpoints_used
        last = next(reversed(self._ram), None)
        for key in list(self._ram):
            if self._ram_used > cap and key not in self._unsaved and key != last:
                self._drop(key)
        for key in list(self._ram):
            if self._ram_used > cap + OVER and (key != last or key not in self._fetched):
                self._drop(key)

    def _drop(self, key: StateKey) -> None:
        self._fetched.discard(key)
        self._unsaved.pop(key, None)
        if state := self._ram.pop(key, None):
            self._ram_used -= state.n_bytes

    def _drop_session(self, owner: str, session: str) -> None:
        with self._lock:
            for key in [key for key in (*self._ram, *self._unsaved) if key[1:] == (owner, session)]:
                self._drop(key)

    @property
    def _checkpoints_used(self) -> int:
        """The bytes of the checkpoints of states on slots."""
        return sum(self._on_slot.values())

    def _ram_cap(self) -> int:
        if self._ram_bytes is not None:
            return self._ram_bytes
        return max(free_memory() + self._ram_used + self._checkpoints_used - self._weights, 0) // RAM_SHARE

    def _write_rested(self) -> None:
        """The writer's thread."""
        while True:
            with self._lock:
                while not self._closing and not (state := self._rested()):
                    self._lock.wait(0.5 if self._unsaved else None)
                if self._closing:
                    return
            assert state
            self._save_unsaved(state)

    def _rested(self) -> State | None:
        """Return the state to write next: the one longest unused, if it has rested or RAM is about to evict it."""
        state = next(iter(self._unsaved.values()), None)
        if state and (
            has_rested(state.n_bytes, state.used) or 4 * (self._ram_used + self._checkpoints_used) > 3 * self._ram_cap()
        ):
            return state
        return None

    def _save_unsaved(self, state: State) -> None:
        """Write a state unless it was forgotten, or a newer one has come, by the time that the disk is free."""

        def is_wanted() -> bool:
            with self._lock:
                if self._unsaved.get(state.key) is not state:
                    return False
                del self._unsaved[state.key]
                return True

        if self._folder:
            self._folder.write(state, self._files.get(state.key.model, ""), is_wanted)
        with self._lock:
            self._make_room()


def has_rested(n_bytes: float, used: float) -> bool:
    """Return whether a state that was last used at `used` (time.monotonic) is to be written now."""
    return time.monotonic() - used > max(REST_SECONDS, n_bytes / REST_BYTES_PER_SECOND)
