"""How the server stops: on a signal, without a word lost, and whatever hangs."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)

# Seconds in which everything is closed, the engine's process included, or the server leaves without.
CLOSE_SECONDS = 30.0


class Shutdown:
    """How the server stops: it takes nothing new, lets answers under way end, closes everything, and leaves.

    Its methods are for the main thread; a thread of its own waits and closes, so that the server goes on meanwhile.
    """

    def __init__(
        self, refuse: Callable[[], None], n_open: Callable[[], int], seconds: float, closers: Sequence[Callable[[], None]]
    ) -> None:
        self._refuse = refuse
        self._n_open = n_open
        self._seconds = seconds
        self._closers = closers
        self._begun = False
        self._closed = False
        self._at = ""
        """What is being closed."""

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT, and leave by SystemExit. In a thread of somebody's, signals are theirs."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {name: signal.signal(name, self._stop) for name in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            # A notebook goes on after its server has been interrupted.
            for name, handler in before.items():
                signal.signal(name, handler)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if self._closed:
            with contextlib.suppress(OSError):
                print("Hearth stops.", flush=True)
            raise SystemExit(0)
        if self._begun:
            # Whatever was answered is on the disk already.
            os._exit(128 + number)
        self._begun = True
        self._refuse()
        if count := self._n_open():
            with contextlib.suppress(OSError):
                what = "1 answer" if count == 1 else f"{count} answers"
                limit = f"for {self._seconds} s at most; Ctrl+C again stops it at once"
                print(f"Hearth ends {what} first, {limit}.", flush=True)
        threading.Thread(target=self._close, name="stop", daemon=True).start()

    def _close(self) -> None:
        deadline = time.monotonic() + self._seconds
        while self._n_open() and time.monotonic() < deadline:
            time.sleep(0.02)
        last = threading.Timer(CLOSE_SECONDS, self._leave)
        last.daemon = True
        last.start()
        for close in self._closers:
            self._at = getattr(close, "__qualname__", repr(close))
            try:
                close()
            except Exception:
                # The others have something to keep too.
                log.exception("%s failed", self._at)
        self._at, self._closed = "the end", True
        # Only a signal gets the main thread out of its loop.
        os.kill(os.getpid(), signal.SIGTERM)

    def _leave(self) -> None:
        """End the process, where closing it hangs. What was answered is on the disk already."""
        log.error("%s was not done in %g s: the server leaves all the same", self._at, CLOSE_SECONDS)
        os._exit(1)
