"""Admission: how many requests are answered at once, shared by account. An account with many gives way to one with few.

An account is a key, or the key at the root of the chain of keys by which it was minted: minting keys makes no share larger.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from services.errors import Unavailable

Poll = Callable[[], None]
"""Called at least every quarter of a second while waiting; raises to give up."""

# Seconds between two looks while waiting, and after which a refused client may ask again.
_LOOK, _RETRY_AFTER = 0.1, 2


class Slot:
    """One request's right to be answered, shared by its answers; `_lock` protects the shares.

    Owned by the thread that answers; admission, on any thread, may ask for it back.
    """

    def __init__(self, account: str, leave: Callable[[Slot], None] = lambda _: None, n_answers: int = 1) -> None:
        """`leave` is called once all shares are left."""
        self.account = account
        self.n_answers = n_answers
        self.has_begun = False
        """Whether its answer is being computed or sent, so that the slot is not taken away any more."""
        self.must_leave = False
        """Whether it has to give way unless it has begun."""
        self._leave = leave
        self._n_shares = 1
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Mark the answer as begun."""
        self.has_begun = True

    def give_way(self) -> None:
        """Have the request end, unless it has begun."""
        self.must_leave = True

    def check(self) -> None:
        """Raise Unavailable where the request has to give way; called while it waits."""
        if self.must_leave and not self.has_begun:
            what = "another key had no answer under way, and this key many: this one has given way before it began"
            raise too_busy(what)

    def join(self) -> None:
        """Add a share: one more `leave` is due."""
        with self._lock:
            self._n_shares += 1

    def leave(self) -> None:
        """Give up a share; with the last one another request may be answered."""
        with self._lock:
            self._n_shares -= 1
            is_over = self._n_shares == 0
        if is_over:
            self._leave(self)


class Admission:
    """The slots for requests that are answered. Any thread may call it; `_changed` protects everything.

    An account may take all slots while nobody else asks. Where none is free, a request of an account that has fewer than
    another waits, and the newest request of the account that has most ends, if it has not begun. Others are refused. Where
    as many wait as may, the newest of the account that has and wants most makes room for one that would have fewer.
    """

    def __init__(self, max_open: int, max_waiting: int) -> None:
        """`max_open` requests are answered at once; at most `max_waiting` wait for one of these to end."""
        self._max_open = max_open
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._slots: list[Slot] = []
        self._waiting: list[Slot] = []
        self._served: Counter[str] = Counter()
        """Requests of any kind that the server's threads are serving, by account."""

    @property
    def n_open(self) -> int:
        """The number of requests that are being answered, or wait for that."""
        return len(self._slots) + len(self._waiting)

    @contextmanager
    def slot(self, account: str, poll: Poll, n_answers: int = 1) -> Iterator[Slot]:
        """Hold a slot for a request of `n_answers` answers, for as long as one of those that joined it does.

        `poll` is called while waiting, and raises to give up. Raises Unavailable where the account has its share.
        """
        slot = self.enter(account, poll, n_answers)
        try:
            yield slot
        finally:
            slot.leave()

    def enter(self, account: str, poll: Poll, n_answers: int = 1) -> Slot:
        """Return a slot as `slot` does; its `leave` is due."""
        slot = Slot(account, self._free, n_answers)
        with self._changed:
            self._check_answers(account, n_answers)
            if not self._waiting and len(self._slots) < self._max_open:
                self._slots.append(slot)
                return slot
            self._check_wait(account)
            self._waiting.append(slot)
        try:
            while not self._has_entered(slot):
                slot.check()
                poll()
        finally:
            with self._changed:
                if slot in self._waiting:
                    self._waiting.remove(slot)
                    self._changed.notify_all()
        return slot

    def arrive(self, account: str) -> None:
        """Count a request of any kind that a thread begins to serve.

        Raises Unavailable where the account has as many in flight as are answered at once: other threads are for others.
        """
        with self._changed:
            if self._served[account] >= self._max_open:
                raise too_busy(f"{self._max_open} requests of this key are under way")
            self._served[account] += 1

    def depart(self, account: str) -> None:
        """Count a request that arrived as over."""
        with self._changed:
            self._served[account] -= 1
            if not self._served[account]:
                del self._served[account]

    def _has_entered(self, slot: Slot) -> bool:
        """Take a slot if this request is next, else make room and wait a little; return whether it has one."""
        with self._changed:
            if slot.must_leave:
                return False
            if len(self._slots) < self._max_open and self._next() is slot:
                self._waiting.remove(slot)
                self._slots.append(slot)
                self._changed.notify_all()
                return True
            self._make_room()
            self._changed.wait(_LOOK)
            return False

    def _next(self) -> Slot:
        """Return the oldest waiting request of the account that has fewest slots."""
        held = self._held()
        return min(self._waiting, key=lambda each: held[each.account])

    def _held(self) -> Counter[str]:
        return Counter(each.account for each in self._slots if each.has_begun or not each.must_leave)

    def _check_answers(self, account: str, n_answers: int) -> None:
        """Raise Unavailable where many answers at once would be more than an account's share, and than what is free."""
        if n_answers == 1:
            return
        answers: Counter[str] = Counter()
        for each in self._slots:
            answers[each.account] += each.n_answers
        share = self._max_open // len({*answers, account})
        room = max(share, self._max_open - sum(answers.values()) + answers[account])
        if answers[account] and answers[account] + n_answers > room:
            raise too_busy("too many answers are under way")

    def _check_wait(self, account: str) -> None:
        """Raise Unavailable where an account has most already, or where as many wait as may and none of these has more."""
        held = self._held()
        wanted = held + Counter(each.account for each in self._waiting)
        if wanted[account] >= max(held.values(), default=0):
            raise too_busy("too many answers are under way")
        if len(self._waiting) < self._max_waiting:
            return
        # The newest of those whose account has most.
        last = max(reversed(self._waiting), key=lambda each: wanted[each.account])
        if wanted[last.account] < wanted[account] + 2:
            raise too_busy("too many answers are under way")
        last.give_way()
        self._waiting.remove(last)
        self._changed.notify_all()

    def _make_room(self) -> None:
        """Ask back as many slots as requests wait, from accounts that still have more than the waiting ones would then."""
        held = self._held()
        n_leaving = sum(each.must_leave and not each.has_begun for each in self._slots)
        missing = len(self._waiting) - (self._max_open - len(self._slots)) - n_leaving
        least = held[self._next().account] + 1
        for slot in reversed(self._slots):
            if missing <= 0:
                return
            if held[slot.account] == max(held.values()) > least and not (slot.has_begun or slot.must_leave):
                slot.give_way()
                held[slot.account] -= 1
                missing -= 1

    def _free(self, slot: Slot) -> None:
        with self._changed:
            self._slots.remove(slot)
            self._changed.notify_all()


def too_busy(what: str) -> Unavailable:
    """Return the error for a request that there is no room for, since `what`; it may be sent again soon."""
    return Unavailable(f"{what}; try again soon", code="too_busy", retry_after=_RETRY_AFTER)
