"""Computed state: which tokens each slot's KV cache holds, and for whom. Pure Python.

A prompt that begins as a slot's tokens do need not be computed up to there. State is reused within one owner only, so that
nobody learns from the time or the counts what another has written.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass, field


@dataclass
class _Slot:
    owner: str = ""
    tokens: list[int] = field(default_factory=list)
    busy: bool = False
    used: int = 0


class SlotCache:
    """The slots' contents. Owned by the engine's thread."""

    def __init__(self, n_slots: int) -> None:
        self._slots = [_Slot() for _ in range(n_slots)]
        self._clock = 0

    def take(self, tokens: Many[int], owner: str) -> tuple[int, int]:
        """Take the free slot whose tokens `tokens` go on from, else the one longest unused.

        To go on from a slot is to keep half of it at least: else a prompt that shares but the template's head would
        overwrite a conversation while another slot lies empty.
        Returns the slot's number and how many tokens it keeps: one less than all at most, since the last must be computed
        for its logits. Raises LookupError where every slot is busy.
        """
        free = [(number, slot) for number, slot in enumerate(self._slots) if not slot.busy]
        if not free:
            raise LookupError("every slot is busy")
        shared = {number: self._shared(slot, tokens, owner) for number, slot in free}
        going_on = [number for number, slot in free if 2 * shared[number] >= len(slot.tokens) > 0]
        number = max(going_on, key=shared.__getitem__) if going_on else min(free, key=lambda item: item[1].used)[0]
        slot = self._slots[number]
        slot.busy, slot.owner, slot.tokens = True, owner, []
        return number, shared[number]

    def release(self, number: int, tokens: Many[int]) -> None:
        """Give a slot back, whose KV cache now holds `tokens`."""
        slot = self._slots[number]
        self._clock += 1
        slot.busy, slot.tokens, slot.used = False, list(tokens), self._clock

    def clear(self) -> None:
        """Forget everything: the KV cache was emptied, and no slot is busy."""
        self._slots = [_Slot() for _ in self._slots]

    def _shared(self, slot: _Slot, tokens: Many[int], owner: str) -> int:
        if slot.owner != owner:
            return 0
        same = next((i for i, (a, b) in enumerate(zip(slot.tokens, tokens, strict=False)) if a != b), None)
        length = min(len(slot.tokens), len(tokens)) if same is None else same
        return min(length, len(tokens) - 1)
