"""The scheduler of sequences. Pure Python: it knows sequences by their counts of tokens, and no tensor.

Sequences that decode go first, one token each, since their readers are watching. Beside them a step reads a chunk of one
prompt, or several short prompts; the accounts (`GenerationRequest.account`) take turns, so that no long prompt holds up
another account's short one, and of one account's prompts the oldest is read first. Slots go to the account that has
fewest, among equals to the one that has waited longest for one; background requests go last.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass

from services.engine.loop.sequence import Sequence

# llama.cpp computes four rows in the time of two or three, so fewer sequences gain nothing by decoding together.
CROWD = 4
# Returns tokens that may come next in a sequence, at most so many.
Draft = Callable[[Sequence, int], tuple[int, ...]]


@dataclass(frozen=True)
class BatchItem:
    """`count` tokens of a sequence to compute in a step, from its first pending one on, and a draft behind them."""

    sequence: Sequence
    count: int
    draft: tuple[int, ...] = ()

    @property
    def completes(self) -> bool:
        """True if all known tokens are computed afterwards, so that the next one can be sampled."""
        return self.count == self.sequence.n_pending


class Scheduler:
    """The sequences that wait for a slot and those that have one.

    Owned by the engine's thread; others may read the properties.
    """

    def __init__(self, n_slots: int) -> None:
        """`n_slots` sequences may run at once."""
        self._n_slots = n_slots
        self._waiting: list[Sequence] = []
        self._running: list[Sequence] = []
        self._n_chunks = 0
        self._last_chunk: dict[str, int] = {}
        """Of each account that runs, when a chunk of it was read last, by a running number."""
        self._n_admitted = 0
        self._admitted: dict[str, int] = {}
        """Of each account that runs or waits, when it was last admitted, by a running number."""

    @property
    def running(self) -> Many[Sequence]:
        """The sequences that have a slot, oldest first."""
        return tuple(self._running)

    @property
    def waiting(self) -> Many[Sequence]:
        """The sequences that wait for a slot, oldest first."""
        return tuple(self._waiting)

    @property
    def n_waiting(self) -> int:
        """The number of sequences that wait for a slot."""
        return len(self._waiting)

    @property
    def n_free(self) -> int:
        """The number of free slots."""
        return self._n_slots - len(self._running)

    @property
    def is_idle(self) -> bool:
        """True if no sequence runs or waits."""
        return not self._running and not self._waiting

    def add(self, sequence: Sequence) -> None:
        """Add a sequence to the queue."""
        self._waiting.append(sequence)

    def admit(self) -> Sequence | None:
        """Move the next waiting sequence to the running ones, if a slot is free, and return it."""
        if not self._waiting or not self.n_free:
            return None
        sequence = next(self.queue())
        self._waiting.remove(sequence)
        self._running.append(sequence)
        self._n_admitted += 1
        self._admitted[sequence.account] = self._n_admitted
        # A new account goes before those that were read of late, and not before those that have waited for longer.
        self._last_chunk.setdefault(sequence.account, self._n_chunks - self._n_slots)
        return sequence

    def queue(self) -> Iterator[Sequence]:
        """Yield the waiting sequences in the order of their admission, if no running one ends meanwhile."""
        if not self._waiting:
            return
        slots, owners = (
            Counter(each.account for each in self._running),
            Counter(each.request.owner for each in self._running),
        )
        admitted, waiting = dict(self._admitted), list(self._waiting)

        def order(each: Sequence) -> tuple[bool, int, int, int]:
            # Within an account, which may have several keys, those take turns too.
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
        """Remove a sequence that has ended, running or waiting; one that is neither is ignored."""
        account = sequence.account
        if sequence in self._running:
            self._running.remove(sequence)
            if all(each.account != account for each in self._running):
                del self._last_chunk[account]
        elif sequence in self._waiting:
            self._waiting.remove(sequence)
        if all(each.account != account for each in (*self._running, *self._waiting)):
            self._admitted.pop(account, None)

    def plan(self, budget: int, chunk: int, burst: int = 0, draft: Draft = lambda sequence, most: ()) -> list[BatchItem]:
        """Return the next step's batch; [] when nothing runs.

        One token for each sequence that decodes, and beside them at most `chunk` of a prompt; `budget` where none does.
        Other prompts are read in the same step if all that is left of them fits into `chunk` too. Several whose prompts
        came together, of at most `burst` tokens in all, begin to decode together. One that decodes alone has the tokens
        computed ahead that `draft` returns for it.
        """
        decoding = [] if self._is_burst(burst) else [sequence for sequence in self._running if sequence.is_decoding]
        batch = [BatchItem(sequence, 1) for sequence in decoding]
        most = chunk if batch else budget
        for sequence in self._to_read():
            is_first = len(batch) == len(decoding)
            if not is_first and not sequence.n_pending == sequence.n_readable <= most:
                break
            item = BatchItem(sequence, min(sequence.n_readable, most))
            batch.append(item)
            self._note_chunk(sequence.account)
            most = min(most, chunk) - item.count
        if len(batch) == len(decoding) == 1 and batch[0].completes:
            # Beside others its rows would hold these up.
            batch = [BatchItem(decoding[0], 1, draft(decoding[0], budget - 1))]
        return batch

    def _is_burst(self, most: int) -> bool:
        """Return whether to read before decoding: many short prompts, and no answer has more than its first token."""
        return (
            len(self._running) >= CROWD
            and any(not sequence.is_decoding for sequence in self._running)
            and all(sequence.n_generated <= 1 for sequence in self._running)
            and sum(len(sequence.request.tokens) - sequence.n_cached for sequence in self._running) <= most
        )

    def _to_read(self) -> Iterator[Sequence]:
        """Yield the prompts that are not read yet: always the oldest of the account whose last chunk is longest ago."""
        reading = [sequence for sequence in self._running if not sequence.is_decoding]
        while reading:
            sequence = min(reading, key=lambda each: self._last_chunk[each.account])
            reading.remove(sequence)
            yield sequence

    def _note_chunk(self, account: str) -> None:
        self._n_chunks += 1
        self._last_chunk[account] = self._n_chunks
