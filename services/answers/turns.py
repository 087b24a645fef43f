"""Turns at heavy work: writing and tokenizing long prompts takes a core, which accounts get one after the other."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from services.answers.admission import Poll, too_busy

# Seconds between two looks while waiting, and of heavy work after which another account's may go on.
_LOOK, _SLICE = 0.1, 0.1


class Turns:
    """Heavy work: one piece at a time, of one account after the other. Any thread may call it; `_changed` protects all."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._numbers = itertools.count(1)
        self._waiting: list[tuple[str, int]] = []
        self._at_work: tuple[str, int] | None = None
        self._last: dict[str, int] = {}
        """When each account that waits or is at work had its last turn, as a running number."""

    @contextmanager
    def turn(self, account: str, poll: Poll) -> Iterator[Poll]:
        """Work alone; call the yielded function now and then, in which another account's work may go on.

        It calls `poll`, as waiting does, which raises to give up.
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
        """Work alone at what can be left undone. Raises Unavailable, now or later on, once anybody else wants to work."""
        me = account, next(self._numbers)
        with self._changed:
            if self._at_work or self._waiting:
                raise too_busy("others are at work")
            self._at_work = me

        def pause() -> None:
            poll()
            if self._waiting:
                raise too_busy("others want to work")

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
