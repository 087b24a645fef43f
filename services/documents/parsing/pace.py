"""The pace of a parser's process: it stands still for most of the time in which others are answered.

A low priority is not enough: llama.cpp's threads wait for each other, and lose half of their speed beside a process that
takes what they leave.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable

# Seconds between two looks, and for which the process runs and stands still while others are answered.
_LOOK, _RUNS, _STANDS = 0.1, 0.05, 1.0


class Pace:
    """Stops a process and lets it go on. Owned by the thread that reads what it writes."""

    def __init__(self, process: subprocess.Popen[bytes], is_busy: Callable[[], bool]) -> None:
        """`is_busy` returns whether others are answered."""
        self._process = process
        self._is_busy = is_busy
        self._stands = False
        self._since = time.monotonic()
        self.paused = 0.0
        """Seconds for which it has stood still."""

    def go_on(self) -> float:
        """Stop the process, or let it run; return after how many seconds to call this again."""
        now = time.monotonic()
        if not self._is_busy():
            self._let_run(True, now)
            return _LOOK
        if now - self._since >= (_STANDS if self._stands else _RUNS):
            self._let_run(self._stands, now)
        return _LOOK if self._stands else _RUNS

    def _let_run(self, runs: bool, now: float) -> None:
        if runs != self._stands:
            return
        if self._stands:
            self.paused += now - self._since
        self._stands, self._since = not runs, now
        # One that has ended already is left alone.
        self._process.send_signal(signal.SIGCONT if runs else signal.SIGSTOP)
