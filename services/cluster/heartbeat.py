"""Renewing in Redis what ends by itself soon after the process that owns it: heartbeats, locks, tickets and claims."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from services.cluster.redis_client import is_away
from services.errors import Unavailable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Intervals:
    """Seconds between two renewals of each kind."""

    node: float = 2.0
    """Of the heartbeats of API nodes and workers."""
    locks: float = 5.0
    tickets: float = 10.0
    claims: float = 5.0
    models: float = 10.0
    """Between two looks of a worker into its models folder."""
    gone: int = 10
    """Seconds after which a heartbeat that is not renewed ends."""


INTERVALS = Intervals()


class Heartbeat:
    """Calls a function at every interval, the first time at once, on a thread of its own.

    An error is logged, unless the call before failed in the same way (Redis being away is one way), and it is called again.
    """

    def __init__(self, name: str, interval: float, beat: Callable[[], object]) -> None:
        """`name` is that of the thread, and in the log; `interval` is in seconds."""
        self._name = name
        self._interval = interval
        self._beat = beat
        self._stopped = threading.Event()
        self._logged: type[Exception] | None = None
        """The kind of the last failure, until a call succeeds; Redis being away is one kind."""

    def start(self) -> None:
        """Begin to call it; once only."""
        threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def stop(self) -> None:
        """Call it no more; returns at once, while a call may still run."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._beat()
                self._logged = None
            except Exception as error:
                self._log(error)
            self._stopped.wait(self._interval)

    def _log(self, error: Exception) -> None:
        kind = Unavailable if is_away(error) else type(error)
        if kind is self._logged:
            return
        self._logged = kind
        if kind is Unavailable:
            log.warning("%s: cannot be renewed while Redis is away: %s", self._name, error)
        else:
            log.error("%s: failed", self._name, exc_info=error)
