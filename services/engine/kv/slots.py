"""The slots and the computed states on them. Pure Python: `KvCache` does the copying.

A conversation's state is loaded onto a slot when it has work, and evicted to RAM when another conversation needs the slot.
A prompt goes on from the state with the longest common prefix. States are shared within one owner only, and the beginnings
of templates with all, so that the time and the counts of an answer tell nobody what another owner has written.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Protocol

from services.backend.status import Tier
from services.backend.types import EVERYBODY, TEMPORARY
from services.engine.kv.state import (
    MIN_SHARED,
    Buffer,
    CutRule,
    State,
    StateKey,
    common_prefix,
    count,
    is_worth_copying,
    pack,
)
from services.engine.kv.store import StateStore, has_rested


class KvCache(Protocol):
    """The KV cache of a context, slot by slot."""

    cut_rule: CutRule
    """The rule for prefixes of a snapshot that can be continued."""

    def can_keep(self, slot: int, n_tokens: int) -> bool:
        """Return whether a slot can be cut to its first `n_tokens`, at most all that it holds, and continued."""
        ...

    def keep(self, slot: int, n_tokens: int) -> int:
        """Cut a slot down to its first `n_tokens`; return how many it kept: all of them, or none."""
        ...

    def snapshot(self, slot: int) -> Buffer:
        """Return a copy of the slot's contents."""
        ...

    def restore(self, slot: int, data: Buffer) -> bool:
        """Replace the slot's contents by a snapshot; return False where llama.cpp refuses it."""
        ...


@dataclass(eq=False)
class _Slot:
    number: int
    key: StateKey
    tokens: bytes = b""
    busy: bool = False
    saved: bool = True
    used: float = 0.0


class Slots:
    """The slots and the states on them. Owned by the engine's thread."""

    def __init__(self, cache: KvCache, store: StateStore, model: str, n_slots: int, bytes_per_token: float = 0) -> None:
        """`model` is the fingerprint that states are bound to; `bytes_per_token` is about what a token takes in a state."""
        self._bytes_per_token = bytes_per_token
        self._cache = cache
        self._store = store
        self._model = model
        self._numbers = itertools.count()
        self.tier: Tier = "none"
        """The tier that the state of the last `reserve` came from."""
        self._slots = [_Slot(number, self._temporary()) for number in range(n_slots)]

    def reserve(self, tokens: Many[int], owner: str, session: str = "", *, spare: int = 1) -> tuple[int, int]:
        """Reserve a free slot, with the state that has the longest prefix in common with `tokens`.

        Returns the slot and how many tokens it holds already; at least `spare` are to be computed, since logits need one.
        Raises LookupError where every slot is busy.
        """
        free = [slot for slot in self._slots if not slot.busy]
        if not free:
            raise LookupError("every slot is busy")
        prompt, rule = pack(tokens), self._cache.cut_rule
        own = next((slot for slot in free if session and slot.key[1:] == (owner, session)), None)
        source, n_shared = self._best(free, own, owner, prompt, len(tokens) - spare)
        in_place = source is not None and _may_continue(source, own, n_shared)
        # A smaller state does as well where a slot would have to be copied.
        beyond = n_shared if in_place else n_shared - 1
        state, n_stored = self._store.find(self._model, owner, prompt, beyond, rule=rule, spare=spare)
        self.tier = self._store.tier_of(state.key) if state else "context" if source else "none"
        if state:
            slot, n_shared = self._load(own or _longest_unused(free), own, state.data, n_stored)
            if not n_shared:
                # llama.cpp has refused it, and would again.
                self._store.drop(state.key)
            elif state.key.is_temporary and state.key.owner == owner and 2 * n_stored >= count(state.tokens):
                self._store.drop(state.key)
        elif source and in_place:
            slot = source
        else:
            data = self._cache.snapshot(source.number) if source else None
            slot, n_shared = self._load(own or _longest_unused(free), own, data, n_shared)
        if slot is not own:
            self._store.mark_off_slot(slot.key)
            slot.key = StateKey(self._model, owner, session) if session else self._temporary(owner)
        self._store.mark_on_slot(slot.key)
        slot.busy, slot.tokens = True, b""
        return slot.number, self._cache.keep(slot.number, min(n_shared, len(tokens) - spare))

    def release(self, number: int, tokens: Many[int]) -> None:
        """Free a reserved slot, which now holds `tokens`."""
        slot = self._slots[number]
        slot.busy, slot.tokens, slot.saved, slot.used = False, pack(tokens), slot.key.is_temporary, time.monotonic()

    def knows_head(self, tokens: Many[int]) -> bool:
        """Return whether the beginning of a template is in RAM."""
        return self._store.has(self._head_key(tokens))

    def share_head(self, number: int, tokens: Many[int]) -> None:
        """Copy the slot's state, of a template's first `tokens`, for everybody."""
        data = self._cache.snapshot(number)
        self._store.put(State(self._head_key(tokens), pack(tokens), data, time.monotonic()))

    @property
    def has_unsaved(self) -> bool:
        """True while slots hold states that are to be written once they have rested."""
        # Whether or not one is being written: the engine's thread would sleep on once that is done.
        return self._store.keeps_files and any(not slot.busy and not slot.saved for slot in self._slots)

    def save_rested(self) -> None:
        """Queue the first state that has rested on its slot for writing."""
        for slot in self._slots if self._store.can_save else ():
            if not slot.busy and not slot.saved and has_rested(self._bytes_per_token * count(slot.tokens), slot.used):
                self._store.queue_write(self._state_of(slot))
                slot.saved = True
                return

    def save_all(self, seconds: float) -> None:
        """Write the states that are not on disk yet, the last used first, for `seconds` at most."""
        deadline = time.monotonic() + (seconds if self._store.keeps_files else 0)
        for slot in sorted(self._slots, key=lambda slot: -slot.used):
            if not slot.busy and not slot.saved and time.monotonic() < deadline:
                self._store.save(self._state_of(slot))
                slot.saved = True

    def evict_all(self) -> None:
        """Move the states of all slots to the store, the last used at the end, since the engine ends."""
        for slot in sorted(self._slots, key=lambda slot: slot.used):
            if slot.tokens and not slot.busy:
                self._store.put(self._state_of(slot), slot.saved)
            self._store.mark_off_slot(slot.key)

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
        """Return for each slot whether it is busy, and how many tokens it holds if it is not."""
        return [(slot.busy, count(slot.tokens)) for slot in self._slots]

    def _best(self, free: list[_Slot], own: _Slot | None, owner: str, prompt: bytes, most: int) -> tuple[_Slot | None, int]:
        """Return the free slot with the longest prefix in common with the prompt, and its length; `most` of it are kept.

        Another than the conversation's own must have so much more in common that copying it is worthwhile.
        """
        best, n_shared = own, common_prefix(own.tokens, prompt) if own else 0
        if own and not self._cache.can_keep(own.number, min(n_shared, most)):
            n_shared = 0
        for slot in free:
            if slot is not own and slot.key.owner in (owner, EVERYBODY):
                beyond = n_shared + (MIN_SHARED - 1 if own and best is own else 0)
                shared = common_prefix(slot.tokens, prompt, beyond)
                if shared and self._serves(slot, own, shared, min(shared, most)):
                    best, n_shared = slot, shared
        return best, n_shared

    def _serves(self, slot: _Slot, own: _Slot | None, n_shared: int, n_kept: int) -> bool:
        """Return whether the slot, or else a copy of it, can be continued from `n_kept` tokens, and is worth that."""
        if _may_continue(slot, own, n_shared):
            return self._cache.can_keep(slot.number, n_kept)
        # A copy may hold less than the slot.
        return is_worth_copying(n_shared, slot.tokens) and self._cache.cut_rule.allows(count(slot.tokens), n_kept)

    def _load(self, slot: _Slot, own: _Slot | None, data: Buffer | None, n_tokens: int) -> tuple[_Slot, int]:
        """Load a snapshot onto a slot; return the slot, and how many tokens of the snapshot can be used.

        The slot's state is evicted to RAM, unless it is of the same conversation.
        """
        if slot.tokens and slot is not own:
            self._store.put(self._state_of(slot), slot.saved)
        self._cache.keep(slot.number, 0)
        return slot, n_tokens if data is not None and self._cache.restore(slot.number, data) else 0

    def _state_of(self, slot: _Slot) -> State:
        return State(slot.key, slot.tokens, self._cache.snapshot(slot.number), slot.used)

    def _empty(self, slot: _Slot) -> None:
        self._store.mark_off_slot(slot.key)
        self._cache.keep(slot.number, 0)
        slot.key, slot.tokens, slot.saved, slot.used = self._temporary(), b"", True, 0.0

    def _temporary(self, owner: str = EVERYBODY) -> StateKey:
        """Return the key of a new conversation that is no stored session."""
        return StateKey(self._model, owner, f"{TEMPORARY}{next(self._numbers)}")

    def _head_key(self, tokens: Many[int]) -> StateKey:
        return StateKey(self._model, EVERYBODY, f"{TEMPORARY}head {hashlib.sha256(pack(tokens)).hexdigest()}")


def _may_continue(slot: _Slot, own: _Slot | None, n_shared: int) -> bool:
    """Return whether to continue in the slot itself: the conversation's own, or a temporary one of which half is kept."""
    return slot is own or (own is None and slot.key.is_temporary and 2 * n_shared >= count(slot.tokens))


def _longest_unused(free: list[_Slot]) -> _Slot:
    return min(free, key=lambda slot: (slot.used, slot.number))
