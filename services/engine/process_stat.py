"""The kernel's account of a process: its CPU time, its page reads, and whether it waits or is stopped."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class CpuWork(NamedTuple):
    """The work of a process so far: clock ticks of CPU time, and pages that had to come from a disk.

    And whether it waits for one just now, and for how many nanoseconds its main thread has waited for a CPU so far.
    """

    cpu: int
    page_reads: int
    waits_for_disk: bool = False
    starved: int = 0

    def reads_since(self, before: CpuWork | None) -> bool:
        """Return whether it has read pages from a disk since, or waits for one."""
        return self.waits_for_disk or (before is not None and self.page_reads > before.page_reads)


def work_of(pid: int) -> CpuWork | None:
    """Return the work of a process so far; None where the system does not tell."""
    if not (fields := _stat(Path(f"/proc/{pid}"))):
        return None
    try:
        waits = any(_stat(task)[:1] == ["D"] for task in Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        waits = False
    return CpuWork(int(fields[11]) + int(fields[12]), int(fields[9]), waits, _starved(pid))


def is_stopped(pid: int) -> bool:
    """Return whether a process is stopped by a signal or a debugger, or has ended. False where there is no /proc."""
    state = _stat(Path(f"/proc/{pid}"))[:1]
    return state in (["T"], ["t"], ["Z"], ["X"]) or (not state and Path("/proc/self/stat").exists())


def _starved(pid: int) -> int:
    """Format: the kernel's Documentation/scheduler/sched-stats.rst, /proc/PID/schedstat."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        return 0


def _stat(folder: Path) -> list[str]:
    """The fields of a process or a thread, from its state on; [] if there is none. Format: proc(5), /proc/PID/stat."""
    try:
        # The name in parentheses may hold spaces.
        return (folder / "stat").read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return []
