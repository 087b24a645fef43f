"""Which computed state lies on which slot. Pure Python: `Memory` does the copying.

A slot is a desk and a state the folder: it is laid on a desk when its conversation has work, and put back into RAM when
another needs the desk. A prompt goes on from the state that has most of its beginning in common. States are shared within
one owner only, and the beginnings of templates with all, so that nobody learns from the time or the counts what another
has written.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Protocol

from services.backend.status import Tier
from services.backend.types import EVERYBODY, PASSING
from services.engine.kv.state import MIN_SHARED, Buffer, CutRule, State, StateKey, common_prefix, count, is_worth, pack
from services.engine.kv.store import StateStore, has_rested


class Memory(Protocol):
    """The KV cache, slot by slot."""

    cut_rule: CutRule
    """Which beginnings of a snapshot can be gone on with."""

    def can_keep(self, slot: int, n_tokens: int) -> bool:
        """Whether a slot can be cut to its first `n_tokens`, fewer or as many as it holds, and gone on with."""
        ...

    def keep(self, slot: int, n_tokens: int) -> int:
        """Cut a slot down to its first `n_tokens`; return how many it kept: all of them, or none."""
        ...

    def snapshot(self, slot: int) -> Buffer:
        """A copy of what the slot holds."""
        ...

    def restore(self, slot: int, data: Buffer) -> bool:
        """Lay a snapshot on a slot, in the place of what it holds; False where llama.cpp refuses."""
        ...


@dataclass(eq=False)
class _Slot:
    number: int
    key: StateKey
    tokens: bytes = b""
    busy: bool = False
    saved: bool = True
    used: float = 0.0


class SlotCache:
    """The slots' contents. Owned by the engine's thread."""

    def __init__(self, memory: Memory, store: StateStore, model: str, n_slots: int, bytes_per_token: float = 0) -> None:
        """`model` is the fingerprint that states are bound to; `bytes_per_token` is about what a token takes in one."""
        self._bytes_per_token = bytes_per_token
        self._memory = memory
        self._store = store
        self._model = model
        self._numbers = itertools.count()
        self.tier: Tier = "none"
        """Where what the last `open` laid out was."""
        self._slots = [_Slot(number, self._nobody()) for number in range(n_slots)]

    def open(self, tokens: Many[int], owner: str, session: str = "", *, spare: int = 1) -> tuple[int, int]:
        """Lay out the state that goes farthest with `tokens`, on a free slot that is busy from now on.

        Returns the slot and how many tokens it holds already; `spare` are to be computed at least, since logits need one.
        Raises LookupError where every slot is busy.
        """
        free = [slot for slot in self._slots if not slot.busy]
        if not free:
            raise LookupError("every slot is busy")
        prompt, rule = pack(tokens), self._memory.cut_rule
        own = next((slot for slot in free if session and slot.key[1:] == (owner, session)), None)
        source, n_shared = self._best(free, own, owner, prompt, len(tokens) - spare)
        goes_on = source is not None and _may_take_over(source, own, n_shared)
        # A smaller state does as well where a slot would have to be copied.
        beyond = n_shared if goes_on else n_shared - 1
        state, n_stored = self._store.find(self._model, owner, prompt, beyond, rule=rule, spare=spare)
        self.tier = self._store.tier_of(state.key) if state else "context" if source else "none"
        if state:
            slot, n_shared = self._lay(own or _longest_unused(free), own, state.data, n_stored)
            if not n_shared:
                # It was refused, and would be again.
                self._store.drop(state.key)
            elif state.key.is_passing and state.key.owner == owner and 2 * n_stored >= count(state.tokens):
                self._store.drop(state.key)
        elif source and goes_on:
            slot = source
        else:
            data = self._memory.snapshot(source.number) if source else None
            slot, n_shared = self._lay(own or _longest_unused(free), own, data, n_shared)
        if slot is not own:
            self._store.take_away(slot.key)
            slot.key = StateKey(self._model, owner, session) if session else self._nobody(owner)
        self._store.lay_out(slot.key)
        slot.busy, slot.tokens = True, b""
        return slot.number, self._memory.keep(slot.number, min(n_shared, len(tokens) - spare))

    def release(self, number: int, tokens: Many[int]) -> None:
        """Give a slot back, which now holds `tokens`."""
        slot = self._slots[number]
        slot.busy, slot.tokens, slot.saved, slot.used = False, pack(tokens), slot.key.is_passing, time.monotonic()

    def knows_head(self, tokens: Many[int]) -> bool:
        """Whether the beginning of a template is in RAM."""
        return self._store.has(self._head_key(tokens))

    def share_head(self, number: int, tokens: Many[int]) -> None:
        """Keep what the slot holds, which are a template's first `tokens`, for everybody."""
        data = self._memory.snapshot(number)
        self._store.put(State(self._head_key(tokens), pack(tokens), data, time.monotonic()))

    @property
    def has_unsaved(self) -> bool:
        """Whether states lie on slots that are to be written once they have rested."""
        # Whether or not one is being written: the thread that asks would sleep on once that is done.
        return self._store.keeps_files and any(not slot.busy and not slot.saved for slot in self._slots)

    def save_rested(self) -> None:
        """Have the first state that has rested on its slot written to disk."""
        for slot in self._slots if self._store.can_save else ():
            if not slot.busy and not slot.saved and has_rested(self._bytes_per_token * count(slot.tokens), slot.used):
                self._store.hand_over(self._state_of(slot))
                slot.saved = True
                return

    def save_all(self, seconds: float) -> None:
        """Write what is on no disk yet, the last used first, for `seconds` at most."""
        deadline = time.monotonic() + (seconds if self._store.keeps_files else 0)
        for slot in sorted(self._slots, key=lambda slot: -slot.used):
            if not slot.busy and not slot.saved and time.monotonic() < deadline:
                self._store.save(self._state_of(slot))
                slot.saved = True

    def leave(self) -> None:
        """Hand what lies on the slots to the store, the last used at the end, since the engine ends."""
        for slot in sorted(self._slots, key=lambda slot: slot.used):
            if slot.tokens and not slot.busy:
                self._store.put(self._state_of(slot), slot.saved)
            self._store.take_away(slot.key)

    def forget(self, owner: str, session: str) -> None:
        """Empty the slot of a conversation."""
        for slot in self._slots:
            if slot.key[1:] == (owner, session) and not slot.busy:
                self._empty(slot)

    def clear(self) -> None:
        """Empty every slot; none is busy any more."""
        for slot in self._slots:
            self._empty(slot)
            slot.busy = False

    def contents(self) -> list[tuple[bool, int]]:
        """For each slot whether it is busy, and how many tokens lie there if it is not."""
        return [(slot.busy, count(slot.tokens)) for slot in self._slots]

    def _best(self, free: list[_Slot], own: _Slot | None, owner: str, prompt: bytes, most: int) -> tuple[_Slot | None, int]:
        """The free slot that goes farthest with the prompt and is worth it, and how far; `most` of that will be kept.

        Another than the conversation's own must go farther by as much as is worth the copying.
        """
        best, n_shared = own, common_prefix(own.tokens, prompt) if own else 0
        if own and not self._memory.can_keep(own.number, min(n_shared, most)):
            n_shared = 0
        for slot in free:
            if slot is not own and slot.key.owner in (owner, EVERYBODY):
                beyond = n_shared + (MIN_SHARED - 1 if own and best is own else 0)
                shared = common_prefix(slot.tokens, prompt, beyond)
                if shared and self._serves(slot, own, shared, min(shared, most)):
                    best, n_shared = slot, shared
        return best, n_shared

    def _serves(self, slot: _Slot, own: _Slot | None, n_shared: int, n_kept: int) -> bool:
        """Whether the slot, or else a copy of it, can be gone on with, cut to `n_kept`, and is worth that."""
        if _may_take_over(slot, own, n_shared):
            return self._memory.can_keep(slot.number, n_kept)
        # A copy may hold less than the slot.
        return is_worth(n_shared, slot.tokens) and self._memory.cut_rule.allows(count(slot.tokens), n_kept)

    def _lay(self, slot: _Slot, own: _Slot | None, data: Buffer | None, n_tokens: int) -> tuple[_Slot, int]:
        """Lay a snapshot on a slot; give the slot, and how many tokens of the snapshot are of use.

        What lies there goes to RAM, unless it is of the same conversation.
        """
        if slot.tokens and slot is not own:
            self._store.put(self._state_of(slot), slot.saved)
        self._memory.keep(slot.number, 0)
        return slot, n_tokens if data is not None and self._memory.restore(slot.number, data) else 0

    def _state_of(self, slot: _Slot) -> State:
        return State(slot.key, slot.tokens, self._memory.snapshot(slot.number), slot.used)

    def _empty(self, slot: _Slot) -> None:
        self._store.take_away(slot.key)
        self._memory.keep(slot.number, 0)
        slot.key, slot.tokens, slot.saved, slot.used = self._nobody(), b"", True, 0.0

    def _nobody(self, owner: str = EVERYBODY) -> StateKey:
        """A conversation without a name."""
        return StateKey(self._model, owner, f"{PASSING}{next(self._numbers)}")

    def _head_key(self, tokens: Many[int]) -> StateKey:
        return StateKey(self._model, EVERYBODY, f"{PASSING}head {hashlib.sha256(pack(tokens)).hexdigest()}")


def _may_take_over(slot: _Slot, own: _Slot | None, n_shared: int) -> bool:
    """Whether to go on in the slot itself: in the conversation's own, else in nobody's that keeps half of what it has."""
    return slot is own or (own is None and slot.key.is_passing and 2 * n_shared >= count(slot.tokens))


def _longest_unused(free: list[_Slot]) -> _Slot:
    return min(free, key=lambda slot: (slot.used, slot.number))
