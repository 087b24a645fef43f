"""The slots and the computed states on them. Pure Python: `KvCache` does the copying.

A conversation's state is loaded onto a slot when it has work, and evicted to RAM when another conversation needs the slot.
A prompt goes on from the state of which it can use the most tokens: the common prefix, or where a model's states cannot be
cut anywhere, what their last checkpoint before its end stands behind. States are shared within one owner only, and the
beginnings of templates with all, so that the time and the counts of an answer tell nobody what another owner has written.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Protocol

from services.backend.status import Tier
from services.backend.types import EVERYBODY, TEMPORARY, draft_of
from services.engine.kv.checkpoints import NEAR, Buffer, Checkpoint, data_bytes, thinned
from services.engine.kv.state import (
    MIN_SHARED,
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

    def snapshot(self, slot: int, partial: bool = False) -> Buffer:
        """Return a copy of the slot's contents, or of the part alone that cannot be cut anywhere."""
        ...

    def restore(self, slot: int, data: Buffer, partial: bool = False) -> bool:
        """Replace the slot's contents, or that part, by a snapshot; return False where llama.cpp refuses it."""
        ...


@dataclass(eq=False)
class _Slot:
    number: int
    key: StateKey
    tokens: bytes = b""
    busy: bool = False
    saved: bool = True
    used: float = 0.0
    checkpoints: tuple[Checkpoint, ...] = ()

    @property
    def positions(self) -> list[int]:
        """The numbers of tokens that its checkpoints stand behind, ascending."""
        return [each.n_tokens for each in self.checkpoints]


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
        """Reserve a free slot, with the state from which the most of `tokens` can be gone on with.

        Returns the slot and how many tokens it holds already; at least `spare` are to be computed, since logits need one.
        Raises LookupError where every slot is busy.
        """
        free = [slot for slot in self._slots if not slot.busy]
        if not free:
            raise LookupError("every slot is busy")
        prompt, rule = pack(tokens), self._cache.cut_rule
        own = next((slot for slot in free if session and slot.key[1:] == (owner, session)), None)
        draft = self._draft_key(owner, session)
        source, n_kept = self._best(free, own, draft, prompt, len(tokens) - spare)
        in_place = source is not None and _may_continue(source, own, draft, n_kept)
        # A smaller state does as well where a slot would have to be copied.
        beyond = n_kept if in_place else n_kept - 1
        state, n_stored = self._store.find(self._model, owner, prompt, beyond, rule=rule, spare=spare)
        self.tier = self._store.tier_of(state.key) if state else "context" if source else "none"
        if state:
            slot, n_kept = self._load(own or _longest_unused(free), own, state.data, state.checkpoints, n_stored)
            if not n_kept:
                # llama.cpp has refused it, and would again.
                self._store.drop(state.key)
            elif state.key.is_temporary and state.key.owner == owner and 2 * n_stored >= count(state.tokens):
                self._store.drop(state.key)
        elif source and in_place:
            slot = source
            if own and own is not slot:
                # The draft takes the place of the state that it goes on from.
                self._empty(own)
        else:
            data, checkpoints = (self._cache.snapshot(source.number), source.checkpoints) if source else (None, ())
            slot, n_kept = self._load(own or _longest_unused(free), own, data, checkpoints, n_kept)
        if slot is not own:
            self._store.mark_off_slot(slot.key)
            slot.key = StateKey(self._model, owner, session) if session else self._temporary(owner)
        self._store.mark_on_slot(slot.key)
        slot.busy, slot.tokens = True, b""
        return slot.number, self.cut(slot.number, n_kept)

    def cut(self, number: int, n_tokens: int) -> int:
        """Cut a busy slot to its first `n_tokens`, by a checkpoint if need be; return how many it keeps of these."""
        slot = self._slots[number]
        if n_tokens and not self._cache.can_keep(number, n_tokens):
            n_tokens = self._go_back(slot, n_tokens)
        n_tokens = self._cache.keep(number, n_tokens)
        if slot.checkpoints:
            slot.checkpoints = tuple(each for each in slot.checkpoints if each.n_tokens <= n_tokens)
            self._store.count_checkpoints(slot.key, data_bytes(slot.checkpoints))
        return n_tokens

    def _go_back(self, slot: _Slot, most: int) -> int:
        """Restore the checkpoint that keeps the most of the first `most` tokens; return how many these are."""
        cut = self._cache.cut_rule.cut
        for each in sorted(slot.checkpoints, key=lambda each: -cut(each.n_tokens, most)):
            n_tokens = cut(each.n_tokens, most)
            if not n_tokens or not self._cache.restore(slot.number, each.data, partial=True):
                break
            # One that was made where a window had just been cut holds a cell less than the rule says.
            if self._cache.can_keep(slot.number, n_tokens):
                return n_tokens
        return 0

    def checkpoint(self, number: int, n_tokens: int, passing: bool = False) -> None:
        """Make a checkpoint of a busy slot, which holds `n_tokens`, unless the last one is close or none are needed.

        A `passing` one is dropped when the next is made, and needed where a batch that is interrupted spoils the state.
        """
        slot, rule = self._slots[number], self._cache.cut_rule
        last = max((each.n_tokens for each in slot.checkpoints if passing or not each.passing), default=0)
        is_needed = not rule.anywhere if passing else rule.has_partial
        if not is_needed or n_tokens - last < (1 if passing else NEAR):
            return
        made = Checkpoint(n_tokens, self._cache.snapshot(number, partial=True), passing)
        room = self._store.checkpoint_room(slot.key, len(self._slots), len(made.data))
        if len(made.data) > room:
            return
        # While all fits into a window, the newest one can be cut to where the older ones stand.
        has_all = rule.cut(n_tokens, 1) == 1
        others = [each for each in slot.checkpoints if not each.passing and not has_all]
        slot.checkpoints = thinned([*others, made], room)
        self._store.count_checkpoints(slot.key, data_bytes(slot.checkpoints))

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
            n_bytes = self._bytes_per_token * count(slot.tokens) + data_bytes(slot.checkpoints)
            if not slot.busy and not slot.saved and has_rested(n_bytes, slot.used):
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

    def drop_draft(self, owner: str, session: str) -> None:
        """Drop what was computed of a draft, since its session has gone on."""
        key = self._draft_key(owner, session)
        self.forget(owner, key.session)
        self._store.drop(key)

    def clear(self) -> None:
        """Empty every slot; none is busy any more."""
        for slot in self._slots:
            self._empty(slot)
            slot.busy = False

    def contents(self) -> list[tuple[bool, int]]:
        """Return for each slot whether it is busy, and how many tokens it holds if it is not."""
        return [(slot.busy, count(slot.tokens)) for slot in self._slots]

    def _best(
        self, free: list[_Slot], own: _Slot | None, draft: StateKey, prompt: bytes, most: int
    ) -> tuple[_Slot | None, int]:
        """Return the free slot that keeps the most of the prompt's first `most` tokens, and how many these are.

        Another than the conversation's own must keep so much more that copying it is worthwhile. `draft` is the key of the
        conversation's draft.
        """
        best, n_kept = own, self._kept(own, min(common_prefix(own.tokens, prompt), most)) if own else 0
        for slot in free:
            if slot is not own and slot.key.owner in (draft.owner, EVERYBODY):
                beyond = n_kept + (MIN_SHARED - 1 if own and best is own else 0)
                shared = min(common_prefix(slot.tokens, prompt, beyond), most)
                kept = self._served(slot, own, draft, shared) if shared > beyond else 0
                if kept > beyond:
                    best, n_kept = slot, kept
        return best, n_kept

    def _kept(self, slot: _Slot, n_tokens: int) -> int:
        """Return how many of its first `n_tokens` a slot can be cut to and continued from."""
        if self._cache.can_keep(slot.number, n_tokens):
            return n_tokens
        rule = self._cache.cut_rule
        return rule.cut(rule.nearest(slot.positions, n_tokens), n_tokens)

    def _served(self, slot: _Slot, own: _Slot | None, draft: StateKey, n_shared: int) -> int:
        """Return how many of the `n_shared` first tokens the slot, or else a copy of it that is worth it, serves."""
        kept = self._kept(slot, n_shared)
        if _may_continue(slot, own, draft, kept):
            return kept
        # A copy may hold less than the slot.
        kept = self._cache.cut_rule.reach(count(slot.tokens), slot.positions, n_shared)
        return kept if is_worth_copying(kept, slot.tokens) else 0

    def _load(
        self, slot: _Slot, own: _Slot | None, data: Buffer | None, checkpoints: tuple[Checkpoint, ...], n_tokens: int
    ) -> tuple[_Slot, int]:
        """Load a snapshot and its checkpoints onto a slot; return the slot, and how many tokens of it can be used.

        The slot's state is evicted to RAM, unless it is of the same conversation.
        """
        if slot.tokens and slot is not own:
            self._store.put(self._state_of(slot), slot.saved)
        self._cache.keep(slot.number, 0)
        is_restored = data is not None and self._cache.restore(slot.number, data)
        slot.checkpoints = checkpoints if is_restored else ()
        return slot, n_tokens if is_restored else 0

    def _state_of(self, slot: _Slot) -> State:
        return State(slot.key, slot.tokens, self._cache.snapshot(slot.number), slot.used, slot.checkpoints)

    def _empty(self, slot: _Slot) -> None:
        self._store.mark_off_slot(slot.key)
        self._cache.keep(slot.number, 0)
        slot.key, slot.tokens, slot.saved, slot.used = self._temporary(), b"", True, 0.0
        slot.checkpoints = ()

    def _temporary(self, owner: str = EVERYBODY) -> StateKey:
        """Return the key of a new conversation that is no stored session."""
        return StateKey(self._model, owner, f"{TEMPORARY}{next(self._numbers)}")

    def _draft_key(self, owner: str, session: str) -> StateKey:
        return StateKey(self._model, owner, draft_of(session))

    def _head_key(self, tokens: Many[int]) -> StateKey:
        return StateKey(self._model, EVERYBODY, f"{TEMPORARY}head {hashlib.sha256(pack(tokens)).hexdigest()}")


def _may_continue(slot: _Slot, own: _Slot | None, draft: StateKey, n_kept: int) -> bool:
    """Return whether to continue in the slot itself: the conversation's own, or a temporary one of which half is kept.

    Where it has one of its own, that is its draft's.
    """
    is_open = slot.key == draft or (own is None and slot.key.is_temporary)
    return slot is own or (is_open and 2 * n_kept >= count(slot.tokens))


def _longest_unused(free: list[_Slot]) -> _Slot:
    return min(free, key=lambda slot: (slot.used, slot.number))
