"""The deadline of a request that waits: its time is up, its client left, its key is revoked, or others need its slot."""

from __future__ import annotations

import logging
import time

from auth.rate_limits import Meter
from services.answers.admission import Poll, Slot
from services.backend.protocols import Generation
from services.errors import HearthError, NotAuthenticated, Unavailable

log = logging.getLogger(__name__)

# Seconds between two looks at whether the key of a waiting request is still good.
_KEY_CHECK_INTERVAL = 0.5


class Deadline:
    """The time that one answer may take. Owned by the thread that waits for the answer."""

    def __init__(self, poll: Poll, seconds: float, slot: Slot) -> None:
        """`slot` is what the answer may have to give up as long as it has not begun."""
        self._poll = poll
        self._seconds = seconds
        self.slot = slot
        self._ends = time.monotonic() + seconds
        self._generation: Generation | None = None
        self._checks: list[Poll] = []

    def anew(self, slot: Slot | None = None) -> Deadline:
        """Return a deadline for the same client that begins now; `slot` takes the place of this one's."""
        return Deadline(self._poll, self._seconds, slot or self.slot)

    def watch(self, check: Poll) -> None:
        """Call `check` too while waiting; it raises to give up."""
        self._checks.append(check)

    def attach(self, generation: Generation) -> None:
        """Stop this generation when the time is over."""
        self._generation = generation

    def poll(self) -> None:
        """Check all reasons to give up. When the time is over, an answer that has begun is stopped and keeps its text.

        Raises Unavailable where there is no text yet, and as `check` does.
        """
        has_text = self._generation is not None and self._generation.spent.completion_tokens > 0
        # In a slot of the engine it has begun, though it says nothing yet.
        if has_text or (self._generation is not None and self._generation.queue_position == 0):
            self.slot.begin()
        self.check()
        if time.monotonic() < self._ends:
            return
        if self._generation is None or not has_text:
            what = f"there was no answer within {self._seconds:g} seconds"
            raise Unavailable(what, code="timeout", retry_after=10)
        self._generation.stop()

    def check(self) -> None:
        """Raise what the client's poll and the watched checks raise, and Unavailable where the slot must be given up."""
        self._poll()
        for check in self._checks:
            check()
        self.slot.check()


def while_key_is_good(meter: Meter, key: str, poll: Poll) -> Poll:
    """Return `poll` extended: it also raises NotAuthenticated soon after the key (an id) was revoked or has expired.

    While the keys cannot be read, the last known state counts.
    """
    checked = time.monotonic()

    def check() -> None:
        nonlocal checked
        poll()
        if time.monotonic() - checked < _KEY_CHECK_INTERVAL:
            return
        checked = time.monotonic()
        try:
            meter.accounts(key)
        except NotAuthenticated:
            raise
        except HearthError as error:
            log.warning("the key of a request that waits cannot be checked: %s", error.message)

    return check
