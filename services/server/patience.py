"""The time that a client may take to read or send too slowly."""

from __future__ import annotations

# A client that moves fewer bytes a second than MIN_RATE uses up its SECONDS, and is then cut off.
MIN_RATE, SECONDS = 1024, 30.0


class Patience:
    """A budget of seconds for one client, spent while it is slow and earned back by bytes. Times are monotonic seconds."""

    def __init__(self, now: float) -> None:
        self._left, self._measured_at = SECONDS, now

    def renew(self, now: float) -> None:
        """Reset the budget: nothing is expected of the client now."""
        self._left, self._measured_at = SECONDS, now

    def measure(self, now: float, n_bytes: int) -> None:
        """Record the bytes that were moved since the last call."""
        passed = now - self._measured_at
        self._left, self._measured_at = min(SECONDS, self._left - passed + n_bytes / MIN_RATE), now

    def spent(self, now: float) -> float:
        """The share of the budget that is used up (1.0: all), if nothing was moved since `measure`."""
        return 1 - (self._left - (now - self._measured_at)) / SECONDS
