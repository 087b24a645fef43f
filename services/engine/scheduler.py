"""What runs next. Pure Python: it knows sequences by their counts of tokens, and no tensor.

Each step computes at most `budget` tokens. Sequences that decode go first, one token each, since their readers are
watching; what is left of the budget reads prompts, the oldest first. Sequences wait for a free slot in the order they came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Many
from dataclasses import dataclass

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

    def __init__(self, n_slots: int, budget: int) -> None:
        """`n_slots` sequences may run at once; a step computes `budget` tokens at most, and n_slots at least."""
        self._n_slots = n_slots
        self._budget = max(budget, n_slots)
        self._waiting: deque[Sequence] = deque()
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
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._running and not self._waiting

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait for its turn."""
        self._waiting.append(sequence)

    def admit(self) -> Sequence | None:
        """Move the next waiting sequence to the running ones, if a slot is free."""
        if not self._waiting or len(self._running) >= self._n_slots:
            return None
        sequence = self._waiting.popleft()
        self._running.append(sequence)
        return sequence

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that has ended, wherever it is."""
        if sequence in self._running:
            self._running.remove(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    def plan(self) -> list[Work]:
        """The next step's work; [] when nothing runs."""
        work = [Work(sequence, 1) for sequence in self._running if sequence.is_decoding]
        left = self._budget - len(work)
        for sequence in self._running:
            if not sequence.is_decoding and left > 0:
                work.append(Work(sequence, min(left, sequence.n_pending)))
                left -= work[-1].count
        return work
