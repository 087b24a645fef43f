"""A description of the machine, without its name, and of the versions."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

from benchmarks.harness.servers import ROOT, THREADS


def describe_machine() -> str:
    """Return one sentence: processor, cores, memory, system, versions."""
    processor = _field("/proc/cpuinfo", "model name") or platform.machine()
    memory = int(_field("/proc/meminfo", "MemTotal").split()[0]) / 2**20
    return (
        f"{processor}, {THREADS} cores, {memory:.0f} GB of memory, "
        f"{platform.system()} on {platform.machine()}, Python {platform.python_version()}, "
        f"llama-cpp-python {version('llama-cpp-python')}, Hearth {_hearth_version()}."
    )


def _field(file: str, name: str) -> str:
    """Return the first value called `name` in one of the kernel's files; "" if there is none."""
    for line in Path(file).read_text(encoding="utf-8").splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return ""


def _hearth_version() -> str:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return text.partition('\nversion = "')[2].partition('"')[0]
