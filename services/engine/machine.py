"""This machine's cores and memory, and how this process returns freed memory."""

from __future__ import annotations

import ctypes
import math
import os
from pathlib import Path

# glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_ARENAS, _MAPPED_FROM, _KEPT_FREE = 2, 2**18, 2**20


def usable_cores() -> int:
    """Return the number of physical cores this process may run on, within its control group's share (cgroup v2, cpu.max).

    Two threads of one core share its arithmetic units, so the second adds little to matrix products.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = {_siblings(cpu) for cpu in allowed}
    return max(1, min(len(cores), _quota()))


def free_memory() -> int:
    """Return the bytes that may still be taken without swapping, within the control group's limit (cgroup v2)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 2**62
    try:
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        # Cached files are given up when memory is needed.
        return min(free, limit - used + int(stat["active_file"]) + int(stat["inactive_file"]))
    except (OSError, ValueError, KeyError):
        return free


def all_memory() -> int:
    """Return the bytes of this machine's memory, or the control group's limit (cgroup v2); 0 where they are unknown."""
    try:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
    try:
        return min(pages, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    except (OSError, ValueError):
        return pages


def used_memory() -> int:
    """Return the bytes of memory that this process takes (its resident set); 0 where they are unknown."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def bound_heap() -> None:
    """Have glibc return to the system what this process frees. For the start of a process, before it has threads.

    By default, glibc takes ever larger blocks from its heap once one such was freed, and copies of computed states, of
    megabytes each, leave holes there; and threads get heaps of their own, 8 for each core.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_M_ARENA_MAX, _ARENAS)
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_FREE)


def trim_heap() -> None:
    """Have glibc return all free memory to the system, within its heaps too: for when much was freed at once."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _siblings(cpu: int) -> str:
    """Return the name of the core that `cpu` is a thread of."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii").strip()
    except OSError:
        return str(cpu)


def _quota() -> int:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):
        return os.cpu_count() or 1
