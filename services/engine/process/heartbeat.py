"""When a process is taken for hung: judged once a beat, by what it answers and by whether it works at all.

Beats are counted, and no clock is read: where the server or the whole machine was stopped, nobody was silent meanwhile.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

# Seconds between two beats.
BEAT = 1.0
# Seconds of silence after which nobody is told any more that it is ready, where half the timeout is not less.
SILENT = 2.0
# Seconds that a process may take to start, while it works; and that one operation may take that ends at last.
START_SECONDS, LONGEST_STEP = 120.0, 600.0
# A process that reads its own pages back from a disk, or gets no CPU, is slow: its silence counts for less.
SLOW = 0.2


class CpuWork(NamedTuple):
    """What a process has done so far: clock ticks of CPU time, and pages that had to come from a disk.

    And whether it waits for one just now, and for how many nanoseconds its main thread has waited for a CPU so far.
    """

    cpu: int
    page_reads: int
    waits_for_disk: bool = False
    starved: int = 0

    def reads_since(self, before: CpuWork | None) -> bool:
        """Whether it has read pages from a disk since, or waits for one."""
        return self.waits_for_disk or (before is not None and self.page_reads > before.page_reads)


def work_of(pid: int) -> CpuWork | None:
    """What a process has done; None where the system does not tell."""
    if not (fields := _stat(Path(f"/proc/{pid}"))):
        return None
    try:
        waits = any(_stat(task)[:1] == ["D"] for task in Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        waits = False
    return CpuWork(int(fields[11]) + int(fields[12]), int(fields[9]), waits, _starved(pid))


def _starved(pid: int) -> int:
    """Format: the kernel's Documentation/scheduler/sched-stats.rst, /proc/PID/schedstat."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        return 0


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal or a debugger, or has ended and nobody took note yet."""
    return _stat(Path(f"/proc/{pid}"))[:1] in (["T"], ["t"], ["Z"], ["X"])


def _stat(folder: Path) -> list[str]:
    """What the system tells of a process or a thread, its state first, or nothing. Format: proc(5), /proc/PID/stat."""
    try:
        # The name in parentheses may hold spaces.
        return (folder / "stat").read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return []


class Heartbeat:
    """How long a process has not answered. Owned by the thread that beats; others may read `silence`, and `is_silent`."""

    def __init__(self, timeout: float) -> None:
        """`timeout` is the seconds of silence that are too long; 0: none are."""
        self.silence = 0.0
        """Seconds since the last answer, as far as they count."""
        self._timeout = timeout
        self._starting = 0.0
        self._work: CpuWork | None = None

    @property
    def is_silent(self) -> bool:
        """Whether it has not answered for so long that nothing is to be expected of it."""
        return self.silence >= (min(SILENT, self._timeout / 2) or SILENT)

    def start(self, work: CpuWork | None) -> str:
        """A beat of a process that has not said yet that it is ready; why it is taken for hung, or nothing.

        Whether it imports or waits for a slow disk, it works: one that does nothing hangs.
        """
        self._starting += BEAT
        is_idle = work is not None and work == self._work and not work.waits_for_disk
        self.silence = self.silence + BEAT if is_idle else 0.0
        self._work = work
        if self._timeout and (self.silence >= self._timeout or self._starting >= max(START_SECONDS, self._timeout)):
            return f"it was not ready after {self._starting:g} s"
        return ""

    def answered(self, n_long: int, n_still: int) -> str:
        """A beat whose ping was answered with what `StepClock.look` found; why it is taken for hung, or nothing."""
        self.silence = 0.0
        if self._timeout and BEAT * n_still >= self._timeout:
            return f"a step of its engine stood still for {BEAT * n_still:g} s"
        if self._timeout and BEAT * n_long >= max(LONGEST_STEP, self._timeout):
            return f"a step of its engine did not end in {BEAT * n_long:g} s"
        return ""

    def missed(self, work: CpuWork | None) -> str:
        """A beat whose ping was not answered; why the process is taken for hung, or nothing."""
        is_slow = work is not None and work.reads_since(self._work)
        if work and self._work and work.starved - self._work.starved > BEAT / 2 * 1e9:
            # Others have the CPUs.
            is_slow = True
        self.silence += BEAT * SLOW if is_slow else BEAT
        self._work = work
        if self._timeout and self.silence >= self._timeout:
            return f"it did not answer for {self.silence:g} s"
        return ""
