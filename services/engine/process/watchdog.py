"""When a process counts as hung: judged once a ping, by its answers and by whether it works at all.

Pings are counted, and no clock is read: where the server or the whole machine was stopped, nobody was silent meanwhile.
"""

from __future__ import annotations

from services.engine.process_stat import CpuWork

# Seconds between two pings.
PING_SECONDS = 1.0
# Seconds of silence after which it is not reported as ready any more, where half the timeout is not less.
SILENT = 2.0
# Seconds that a process may take to start, while it works; and that one operation may take that ends at last.
START_SECONDS, LONGEST_STEP = 120.0, 600.0
# A process that reads its own pages back from a disk, or gets no CPU, is slow: its silence counts for less.
SLOW = 0.2


class Watchdog:
    """Counts how long a process has not answered.

    Owned by the thread that pings; others may read `silence` and `is_silent`. Each method judges one ping, and returns why
    the process counts as hung, or "".
    """

    def __init__(self, timeout: float) -> None:
        """`timeout` is the seconds of silence that are too long; 0: none are."""
        self.silence = 0.0
        """Seconds since the last answer, as far as they count."""
        self._timeout = timeout
        self._starting = 0.0
        self._work: CpuWork | None = None

    @property
    def is_silent(self) -> bool:
        """True if it has not answered for so long that no answer is expected soon."""
        return self.silence >= (min(SILENT, self._timeout / 2) or SILENT)

    def starting(self, work: CpuWork | None) -> str:
        """Judge a process that is not ready yet: one that imports or waits for a slow disk works, an idle one hangs."""
        self._starting += PING_SECONDS
        is_idle = work is not None and work == self._work and not work.waits_for_disk
        self.silence = self.silence + PING_SECONDS if is_idle else 0.0
        self._work = work
        if self._timeout and (self.silence >= self._timeout or self._starting >= max(START_SECONDS, self._timeout)):
            return f"it was not ready after {self._starting:g} s"
        return ""

    def answered(self, n_same: int, n_still: int) -> str:
        """Judge a process that has answered its ping with what `StepClock.observe` returned."""
        self.silence = 0.0
        if self._timeout and PING_SECONDS * n_still >= self._timeout:
            return f"a step of its engine stood still for {PING_SECONDS * n_still:g} s"
        if self._timeout and PING_SECONDS * n_same >= max(LONGEST_STEP, self._timeout):
            return f"a step of its engine did not end in {PING_SECONDS * n_same:g} s"
        return ""

    def missed(self, work: CpuWork | None) -> str:
        """Judge a process that has not answered its ping yet."""
        is_slow = work is not None and work.reads_since(self._work)
        if work and self._work and work.starved - self._work.starved > PING_SECONDS / 2 * 1e9:
            # Others have the CPUs.
            is_slow = True
        self.silence += PING_SECONDS * SLOW if is_slow else PING_SECONDS
        self._work = work
        if self._timeout and self.silence >= self._timeout:
            return f"it did not answer for {self.silence:g} s"
        return ""
