"""Who is answered at once, and who works hard at once: both are shared by key, and whoever has much gives way.

An account is a key, or the key at the root of the chain of keys by which it was minted: minting keys makes no share larger.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from services.errors import Unavailable

Poll = Callable[[], None]

# Seconds between looks while waiting, and of heavy work after which another account's may go on.
_LOOK, _SLICE = 0.1, 0.1
_RETRY_AFTER = 2


class Slot:
    """One request's right to be answered, which its answers share. Owned by the thread that answers it."""

    def __init__(self, account: str, leave: Callable[[Slot], None] = lambda _: None, n_answers: int = 1) -> None:
        self.account = account
        self.n_answers = n_answers
        self.has_begun = False
        """Whether its answer is being computed or sent, so that it is not taken away any more."""
        self.must_leave = False
        """Whether it is to give way, if it has not begun."""
        self._leave = leave
        self._n_shares = 1
        self._lock = threading.Lock()

    def begin(self) -> None:
        """The answer has begun."""
        self.has_begun = True

    def check(self) -> None:
        """Raise Unavailable where the request has to give way; called while it waits."""
        if self.must_leave and not self.has_begun:
            what = "another key had no answer under way, and this key many: this one has given way before it began"
            raise Unavailable(f"{what}; try again soon", code="too_busy", retry_after=_RETRY_AFTER)

    def join(self) -> None:
        """One more has to leave."""
        with self._lock:
            self._n_shares += 1

    def leave(self) -> None:
        """One of those that share it is done; with the last one another request may be answered."""
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
        """`max_open` requests are answered at once; at most `max_waiting` wait for one of the others to end."""
        self._max_open = max_open
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._slots: list[Slot] = []
        self._waiting: list[Slot] = []
        self._served: Counter[str] = Counter()
        """How many requests of each account a server's threads are at, of whatever kind."""

    @property
    def n_open(self) -> int:
        """How many requests are being answered, or wait for that."""
        return len(self._slots) + len(self._waiting)

    def enter(self, account: str, poll: Poll, n_answers: int = 1) -> Slot:
        """Take a slot for a request of so many answers; its `leave` is due.

        `poll` is called while waiting, and raises to give up. Raises Unavailable where the account has its share.
        """
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
        """A thread begins to serve a request of an account. The other threads are left to others, whatever is asked for.

        Raises Unavailable where the account has as many requests under way as are answered at once.
        """
        with self._changed:
            if self._served[account] >= self._max_open:
                raise _busy(f"{self._max_open} requests of this key are under way")
            self._served[account] += 1

    def depart(self, account: str) -> None:
        """The request that has arrived is over."""
        with self._changed:
            self._served[account] -= 1
            if not self._served[account]:
                del self._served[account]

    def _has_entered(self, slot: Slot) -> bool:
        """Take the slot if it is this request's turn, else make room and wait a little."""
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
        """Of those that wait the one whose account has fewest, the oldest first."""
        held = self._held()
        return min(self._waiting, key=lambda each: held[each.account])

    def _held(self) -> Counter[str]:
        return Counter(each.account for each in self._slots if each.has_begun or not each.must_leave)

    def _check_answers(self, account: str, n_answers: int) -> None:
        """Raises Unavailable where many answers at once would be more than an account's share, and than what is free."""
        if n_answers == 1:
            return
        answers: Counter[str] = Counter()
        for each in self._slots:
            answers[each.account] += each.n_answers
        share = self._max_open // len({*answers, account})
        room = max(share, self._max_open - sum(answers.values()) + answers[account])
        if answers[account] and answers[account] + n_answers > room:
            raise _busy("too many answers are under way")

    def _check_wait(self, account: str) -> None:
        """Raises Unavailable where an account has most already, or where as many wait as may and none of these has more."""
        held = self._held()
        wanted = held + Counter(each.account for each in self._waiting)
        if wanted[account] >= max(held.values(), default=0):
            raise _busy("too many answers are under way")
        if len(self._waiting) < self._max_waiting:
            return
        # The newest of those whose account has most.
        last = max(reversed(self._waiting), key=lambda each: wanted[each.account])
        if wanted[last.account] < wanted[account] + 2:
            raise _busy("too many answers are under way")
        last.must_leave = True
        self._waiting.remove(last)
        self._changed.notify_all()

    def _make_room(self) -> None:
        """Have as many requests leave as wait, of accounts that still have more than those that wait would have then."""
        held = self._held()
        n_leaving = sum(each.must_leave and not each.has_begun for each in self._slots)
        missing = len(self._waiting) - (self._max_open - len(self._slots)) - n_leaving
        least = held[self._next().account] + 1
        for slot in reversed(self._slots):
            if missing <= 0:
                return
            if held[slot.account] == max(held.values()) > least and not (slot.has_begun or slot.must_leave):
                slot.must_leave = True
                held[slot.account] -= 1
                missing -= 1

    def _free(self, slot: Slot) -> None:
        with self._changed:
            self._slots.remove(slot)
            self._changed.notify_all()


class Turns:
    """Heavy work: one piece at a time, of one account after the other. Any thread may call it; `_changed` protects all."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._numbers = itertools.count(1)
        self._waiting: list[tuple[str, int]] = []
        self._at_work: tuple[str, int] | None = None
        self._last: dict[str, int] = {}
        """When each account that waits, or is at work, had its last turn, by a running number."""

    @contextmanager
    def turn(self, account: str, poll: Poll) -> Iterator[Poll]:
        """Work alone. What it gives is to be called now and then: another account's work may go on then.

        That, and waiting, calls `poll`, which raises to give up.
        """
        me = self._begin(account, poll)
        began, is_over = time.monotonic(), False

        def pause() -> None:
            nonlocal began, me
            poll()
            if not is_over and time.monotonic() - began > _SLICE:
                if any(each != account for each, _ in list(self._waiting)):
                    self._end(me)
                    me = self._begin(account, poll)
                began = time.monotonic()

        try:
            yield pause
        finally:
            is_over = True
            self._end(me)

    @contextmanager
    def spare(self, account: str, poll: Poll) -> Iterator[Poll]:
        """The same for what can be left undone. Raises Unavailable, now or later on, once anybody else wants to work."""
        me = account, next(self._numbers)
        with self._changed:
            if self._at_work or self._waiting:
                raise _busy("others are at work")
            self._at_work = me

        def pause() -> None:
            poll()
            if self._waiting:
                raise _busy("others want to work")

        try:
            yield pause
        finally:
            self._end(me)

    def _begin(self, account: str, poll: Poll) -> tuple[str, int]:
        me = account, next(self._numbers)
        with self._changed:
            self._waiting.append(me)
        try:
            while not self._has_begun(me):
                poll()
        except BaseException:
            with self._changed:
                self._waiting.remove(me)
                self._changed.notify_all()
            raise
        return me

    def _has_begun(self, me: tuple[str, int]) -> bool:
        with self._changed:
            if self._at_work is None and min(self._waiting, key=self._order) == me:
                self._waiting.remove(me)
                self._at_work = me
                self._last[me[0]] = next(self._numbers)
                return True
            self._changed.wait(_LOOK)
            return False

    def _order(self, one: tuple[str, int]) -> tuple[int, int]:
        account, number = one
        return self._last.get(account, 0), number

    def _end(self, me: tuple[str, int]) -> None:
        with self._changed:
            if self._at_work == me:
                self._at_work = None
                if not self._waiting:
                    self._last.clear()
                self._changed.notify_all()


def _busy(what: str) -> Unavailable:
    return Unavailable(f"{what}; try again soon", code="too_busy", retry_after=_RETRY_AFTER)
