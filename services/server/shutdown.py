"""Stopping the server on a signal: answers in flight end first, and nothing that hangs can prevent it."""

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

# Seconds for closing everything, the engine's process included, before the process exits all the same.
CLOSE_SECONDS = 30.0


class Shutdown:
    """Stops the server: refuse new requests, wait for the answers in flight, close everything, exit.

    The main thread calls its methods; a thread of its own waits and closes, while the server goes on serving.
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
        """The name of the part that is being closed."""

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT, and exit by SystemExit. In another thread than the main one, do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {name: signal.signal(name, self._stop) for name in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            # A notebook goes on after its server was interrupted.
            for name, handler in before.items():
                signal.signal(name, handler)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if self._closed:
            with contextlib.suppress(OSError):
                print("Hearth stops.", flush=True)
            raise SystemExit(0)
        if self._begun:
            # All completed answers are on disk already.
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
                # The other parts still have data to save.
                log.exception("%s failed", self._at)
        self._at, self._closed = "the end", True
        # Only a signal interrupts the main thread's loop.
        os.kill(os.getpid(), signal.SIGTERM)

    def _leave(self) -> None:
        """Exit although closing hangs. All completed answers are on disk already."""
        log.error("%s was not done in %g s: the server leaves all the same", self._at, CLOSE_SECONDS)
        os._exit(1)
