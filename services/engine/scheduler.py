"""What runs next. Pure Python: it knows sequences by their counts of tokens, and no tensor.

Sequences that decode go first, one token each, since their readers are watching. Beside them a step reads a chunk of
prompts, in shares for the owners that have any, so that nobody's long prompt holds up another's short one; of one owner's
prompts the oldest is read first. Slots go to the owner who has fewest, the oldest request first.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass

from services.engine.pace import TILE
from services.engine.sequence import Sequence


@dataclass(frozen=True)
class Work:
    """Compute `count` tokens of a sequence, from its first pending one on."""

    sequence: Sequence
    count: int

    @property
    def completes(self) -> bool:
        """Whether all known tokens are computed afterwards, so that the next one can be sampled."""
        return self.count == self.sequence.n_pending


class Scheduler:
    """The sequences that wait and those that hold a slot. Owned by the engine's thread."""

    def __init__(self, n_slots: int) -> None:
        """`n_slots` sequences may run at once."""
        self._n_slots = n_slots
        self._waiting: list[Sequence] = []
        self._running: list[Sequence] = []

    @property
    def running(self) -> Many[Sequence]:
        """The sequences that hold a slot, oldest first."""
        return tuple(self._running)

    @property
    def waiting(self) -> Many[Sequence]:
        """The sequences that wait for one, oldest first."""
        return tuple(self._waiting)

    @property
    def n_waiting(self) -> int:
        """How many sequences wait for a slot."""
        return len(self._waiting)

    @property
    def n_free(self) -> int:
        """How many slots nobody holds."""
        return self._n_slots - len(self._running)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._running and not self._waiting

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait for its turn."""
        self._waiting.append(sequence)

    def admit(self) -> Sequence | None:
        """Move the next waiting sequence to the running ones, if a slot is free: the oldest of the owner who has fewest."""
        if not self._waiting or not self.n_free:
            return None
        sequence = next(self.line())
        self._waiting.remove(sequence)
        self._running.append(sequence)
        return sequence

    def line(self) -> Iterator[Sequence]:
        """The waiting sequences in the order in which they get slots, if none runs out meanwhile."""
        slots_of = [sequence.request.owner for sequence in self._running]
        waiting = list(self._waiting)
        while waiting:
            sequence = min(waiting, key=lambda each: slots_of.count(each.request.owner))
            waiting.remove(sequence)
            slots_of.append(sequence.request.owner)
            yield sequence

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that has ended, wherever it is."""
        if sequence in self._running:
            self._running.remove(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    def plan(self, budget: int, chunk: int) -> list[Work]:
        """The next step's work; [] when nothing runs.

        One token for each sequence that decodes, and beside them at most `chunk` of prompts; `budget` where none does.
        """
        work = [Work(sequence, 1) for sequence in self._running if sequence.is_decoding]
        return work + self._read(chunk if work else budget)

    def _read(self, left: int) -> list[Work]:
        """Share `left` tokens out between the owners whose prompts are not read yet, a tile each at least."""
        reading: dict[str, list[Sequence]] = {}
        for sequence in self._running:
            if not sequence.is_decoding:
                reading.setdefault(sequence.request.owner, []).append(sequence)
        work = []
        # Those who have been read least come first, so that whoever got nothing in this step is next.
        owners = sorted(reading.values(), key=lambda sequences: sequences[0].n_read)
        for position, sequences in enumerate(owners):
            share = min(left, max(TILE, left // (len(owners) - position)))
            for sequence in sequences:
                if count := min(share, sequence.n_readable):
                    work.append(Work(sequence, count))
                    share, left = share - count, left - count
        return work
