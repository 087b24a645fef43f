"""How many threads may compute at once on this machine."""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable_cores() -> int:
    """The physical cores this process may run on, and no more than its control group's share (cgroup v2, cpu.max).

    Two threads of one core share its arithmetic units, so the second adds little to matrix products.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = {_siblings(cpu) for cpu in allowed}
    return max(1, min(len(cores), _quota()))


def _siblings(cpu: int) -> str:
    """The name of the core that `cpu` is a thread of."""
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
