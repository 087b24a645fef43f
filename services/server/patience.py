"""How long the server waits for a client that reads, or sends, too slowly."""

from __future__ import annotations

# Who moves fewer bytes a second than this uses up so many seconds of patience, and is then cut off.
MIN_RATE, SECONDS = 1024, 30.0


class Patience:
    """What is left of the patience with one client. Seconds are the monotonic clock's."""

    def __init__(self, now: float) -> None:
        self._left, self._measured_at = SECONDS, now

    def renew(self, now: float) -> None:
        """Begin anew: nothing is expected of the client yet."""
        self._left, self._measured_at = SECONDS, now

    def measure(self, now: float, n_bytes: int) -> None:
        """Note how many bytes were moved since it was measured last."""
        passed = now - self._measured_at
        self._left, self._measured_at = min(SECONDS, self._left - passed + n_bytes / MIN_RATE), now

    def spent(self, now: float) -> float:
        """Which part of it is used up, 1.0 being all, if nothing was moved since it was measured."""
        return 1 - (self._left - (now - self._measured_at)) / SECONDS
