"""Whether a thread that computes steps gets on: what a watcher needs to tell a long step from one that hangs."""

from __future__ import annotations

import os
import threading
import time

from services.engine.process.heartbeat import CpuWork, work_of


class StepClock:
    """Entered and left by the thread that steps, and looked at by one other thread, once a heartbeat.

    Looks are counted in the place of seconds, so that a process or a machine that slept is not taken for a hung one. Nor is
    one that waits for a disk: of weights that are mapped, a page may take long to come.
    """

    def __init__(self) -> None:
        self._n_passed = 0
        """Times that it was entered or left: an odd number while a step is under way."""
        self._cpu_clock: int | None = None
        """The clock of its thread's CPU time, where the system has one."""
        self._seen = (0, 0.0)
        self._work: CpuWork | None = None
        self._n_long = self._n_still = 0

    def __enter__(self) -> None:
        if hasattr(time, "pthread_getcpuclockid"):
            # Asked for here: of a thread that has ended it must not be.
            self._cpu_clock = time.pthread_getcpuclockid(threading.get_ident())
        self._n_passed += 1

    def __exit__(self, *_: object) -> None:
        self._n_passed += 1

    def look(self) -> tuple[int, int]:
        """Looks in a row that found the same step under way, and those at which its thread had used no CPU time since."""
        passed, cpu = self._n_passed, self._cpu_seconds()
        is_same = passed % 2 == 1 and passed == self._seen[0]
        self._n_long = self._n_long + 1 if is_same else 0
        is_still = is_same and cpu == self._seen[1] and not self._waits_for_disk()
        self._n_still = self._n_still + 1 if is_still else 0
        self._seen = passed, cpu
        return self._n_long, self._n_still

    def _waits_for_disk(self) -> bool:
        """Whether one of the process's threads does, or has since this was last asked: they compute a step together."""
        before, self._work = self._work, work_of(os.getpid())
        return self._work is not None and self._work.reads_since(before)

    def _cpu_seconds(self) -> float:
        """What the thread has used so far; where the system does not tell, a number that always grows."""
        try:
            return time.monotonic() if self._cpu_clock is None else time.clock_gettime(self._cpu_clock)
        except OSError:
            # It has ended.
            return time.monotonic()
