"""What runs next. Pure Python: it knows sequences by their counts of tokens, and no tensor.

Sequences that decode go first, one token each, since their readers are watching. Beside them a step reads a chunk of one
prompt; the accounts (see `GenerationRequest.account`) take turns, so that nobody's long prompt holds up another's short
one, and of one account's prompts the oldest is read first. Slots go to the account that has fewest, and of those that have
as few to the one that has waited longest for one; what nobody waits for goes last.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass

from services.engine.loop.sequence import Sequence

# llama.cpp computes four rows in the time of two or three, so fewer sequences gain nothing by decoding together.
CROWD = 4


@dataclass(frozen=True)
class Chunk:
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
        self._round = 0
        self._turns: dict[str, int] = {}
        self._n_admitted = 0
        self._admitted: dict[str, int] = {}
        """Of each account that runs or waits, when it was last given a slot, by a running number."""

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
        """Move the next waiting sequence to the running ones, if a slot is free."""
        if not self._waiting or not self.n_free:
            return None
        sequence = next(self.line())
        self._waiting.remove(sequence)
        self._running.append(sequence)
        self._n_admitted += 1
        self._admitted[sequence.account] = self._n_admitted
        # Newcomers go before those who were read of late, and not before those who have waited for longer than that.
        self._turns.setdefault(sequence.account, self._round - self._n_slots)
        return sequence

    def line(self) -> Iterator[Sequence]:
        """The waiting sequences in the order in which they get slots, if none runs out meanwhile."""
        slots, owners = (
            Counter(each.account for each in self._running),
            Counter(each.request.owner for each in self._running),
        )
        admitted, waiting = dict(self._admitted), list(self._waiting)

        def order(each: Sequence) -> tuple[bool, int, int, int]:
            # What nobody waits for goes last; within an account, which may be of several keys, those take turns too.
            account = each.account
            return each.request.background, slots[account], admitted.get(account, 0), owners[each.request.owner]

        for number in itertools.count(self._n_admitted + 1):
            if not waiting:
                return
            sequence = min(waiting, key=order)
            waiting.remove(sequence)
            slots[sequence.account] += 1
            owners[sequence.request.owner] += 1
            admitted[sequence.account] = number
            yield sequence

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that has ended, wherever it is."""
        account = sequence.account
        if sequence in self._running:
            self._running.remove(sequence)
            if all(each.account != account for each in self._running):
                del self._turns[account]
        elif sequence in self._waiting:
            self._waiting.remove(sequence)
        if all(each.account != account for each in (*self._running, *self._waiting)):
            self._admitted.pop(account, None)

    def plan(self, budget: int, chunk: int, burst: int = 0) -> list[Chunk]:
        """The next step's work; [] when nothing runs.

        One token for each sequence that decodes, and beside them at most `chunk` of a prompt; `budget` where none does.
        Several whose prompts came together, `burst` tokens in all at most, begin to decode together.
        """
        decoding = [] if self._is_burst(burst) else [sequence for sequence in self._running if sequence.is_decoding]
        work = [Chunk(sequence, 1) for sequence in decoding]
        if reading := self._next_to_read():
            work.append(Chunk(reading, min(reading.n_readable, chunk if work else budget)))
        return work

    def _is_burst(self, most: int) -> bool:
        """Whether reading goes on alone: a crowd's prompts are short, and none that is read has been answered further."""
        return (
            len(self._running) >= CROWD
            and any(not sequence.is_decoding for sequence in self._running)
            and all(sequence.n_generated <= 1 for sequence in self._running)
            and sum(len(sequence.request.tokens) - sequence.n_cached for sequence in self._running) <= most
        )

    def _next_to_read(self) -> Sequence | None:
        """The oldest prompt of the account that has waited longest for a turn."""
        reading = [sequence for sequence in self._running if not sequence.is_decoding]
        if not reading:
            return None
        sequence = min(reading, key=lambda each: self._turns[each.account])
        self._round += 1
        self._turns[sequence.account] = self._round
        return sequence
