"""Telling a long step from one that hangs."""

from __future__ import annotations

import os
import threading
import time

from services.engine.process_stat import CpuWork, work_of


class StepClock:
    """Entered and left by the thread that steps, and observed by one other thread, once a ping.

    Observations are counted instead of seconds, so that a process or a machine that slept does not count as hung. Nor
    does one that waits for a disk: of weights that are mapped, a page may take long to come.
    """

    def __init__(self) -> None:
        self._n_passed = 0
        """Times that it was entered or left: an odd number while a step is under way."""
        self._cpu_clock: int | None = None
        """The clock of its thread's CPU time, where the system has one."""
        self._last = (0, 0.0)
        self._work: CpuWork | None = None
        self._n_same = self._n_still = 0

    def __enter__(self) -> None:
        if hasattr(time, "pthread_getcpuclockid"):
            # By the thread itself: for a thread that has ended, the call is undefined.
            self._cpu_clock = time.pthread_getcpuclockid(threading.get_ident())
        self._n_passed += 1

    def __exit__(self, *_: object) -> None:
        self._n_passed += 1

    def observe(self) -> tuple[int, int]:
        """Return how many observations in a row found the same step, and at how many its thread had used no CPU time."""
        passed, cpu = self._n_passed, self._cpu_seconds()
        is_same = passed % 2 == 1 and passed == self._last[0]
        self._n_same = self._n_same + 1 if is_same else 0
        is_still = is_same and cpu == self._last[1] and not self._waits_for_disk()
        self._n_still = self._n_still + 1 if is_still else 0
        self._last = passed, cpu
        return self._n_same, self._n_still

    def _waits_for_disk(self) -> bool:
        """Return whether a thread of the process does, or has since the last call: they compute a step together."""
        before, self._work = self._work, work_of(os.getpid())
        return self._work is not None and self._work.reads_since(before)

    def _cpu_seconds(self) -> float:
        """The CPU time of the thread so far; where the system does not tell, a number that always grows."""
        try:
            return time.monotonic() if self._cpu_clock is None else time.clock_gettime(self._cpu_clock)
        except OSError:
            # It has ended.
            return time.monotonic()
