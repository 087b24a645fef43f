"""The pace of a parser's process while others are answered."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.documents.parsing.pace import Pace
from services.documents.parsing.parser import parse

_WORKS = "print('on', flush=True)\nwhile True: pass"


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", _WORKS], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        yield process
        process.kill()


def seconds_of(process: subprocess.Popen[bytes]) -> float:
    """The processor time that a process has had."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_a_process_stands_still_for_most_of_the_time_while_others_are_answered(worker: subprocess.Popen[bytes]) -> None:
    is_busy = True
    pace = Pace(worker, lambda: is_busy)
    before, end = seconds_of(worker), time.monotonic() + 2.5
    while time.monotonic() < end:
        time.sleep(pace.go_on())
    assert seconds_of(worker) - before < 0.6
    assert pace.paused > 0.9
    is_busy = False
    before = seconds_of(worker)
    pace.go_on()
    while seconds_of(worker) - before < 0.1:
        assert time.monotonic() < end + 20
        time.sleep(0.05)


def test_a_file_is_read_while_others_are_answered(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("# Title\n\nWords.")
    assert parse(path, "a.md", is_busy=lambda: True).text == "# Title\n\nWords."


def test_a_process_that_has_ended_is_left_alone() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        pace = Pace(process, lambda: True)
        for _ in range(3):
            time.sleep(pace.go_on())
