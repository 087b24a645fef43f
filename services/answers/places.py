"""A place for a request: whoever waits for anything gives up once its caller has left, its key is gone or its time over."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from auth.rate_limits import Meter
from services.answers.admission import Admission, Poll, Slot
from services.answers.stream import Deadline
from services.errors import HearthError, NotAuthenticated

log = logging.getLogger(__name__)

# Seconds after which a request that waits looks again whether its key is still good.
_LOOK_AFTER = 0.5


class Places:
    """Gives places by key. Any thread may call it."""

    def __init__(self, meter: Meter, admission: Admission, max_seconds: float) -> None:
        """A request may wait `max_seconds` for its place, and as long for what it asks for."""
        self.admission = admission
        self._meter = meter
        self._max_seconds = max_seconds
        self._here = threading.local()

    @property
    def is_background(self) -> bool:
        """Whether nobody waits for what this thread opens."""
        return getattr(self._here, "patient", False)

    def account(self, owner: str) -> str:
        """Whose share of the server a key takes: the key by which, in the end, it was minted. Raises NotAuthenticated."""
        accounts = self._meter.accounts(owner)
        return accounts[-1].id if accounts else owner

    @contextmanager
    def needing_none(self, background: bool = False) -> Iterator[None]:
        """What this thread opens meanwhile takes no place: whoever waits for it has taken one, if it is not
        `background`.
        """
        self._here.needs_none, self._here.background = True, background
        try:
            yield
        finally:
            self._here.needs_none = self._here.background = False

    def deadline(self, owner: str, poll: Poll) -> Deadline:
        """What a request of a key that has no place is to wait by; see `place`."""
        return Deadline(self._watching(owner, poll), self._max_seconds, Slot(self.account(owner)))

    @contextmanager
    def place(self, owner: str, poll: Poll, n_answers: int = 1) -> Iterator[Deadline]:
        """A place for a key's request of so many answers; whatever it waits for calls the deadline's `poll`.

        Raises as `Admission.enter` does, what `poll` raises, and NotAuthenticated for a revoked key.
        """
        deadline = self.deadline(owner, poll)
        if getattr(self._here, "needs_none", False):
            yield deadline
            return
        slot = self.admission.enter(deadline.slot.account, deadline.poll, n_answers)
        try:
            yield deadline.anew(slot)
        finally:
            slot.leave()

    @contextmanager
    def metered(self, owner: str, poll: Poll) -> Iterator[Deadline]:
        """A place for work that is no answer, counted against the key's requests. Raises RateLimitExceeded too."""
        self._meter.charge_request(owner)
        with self.place(owner, poll) as deadline:
            yield deadline

    def _watching(self, owner: str, poll: Poll) -> Poll:
        """`poll`, which also raises NotAuthenticated soon after the key was revoked or has expired.

        Where the keys cannot be read, what was known of them counts.
        """
        looked = time.monotonic()

        def watch() -> None:
            nonlocal looked
            poll()
            if time.monotonic() - looked < _LOOK_AFTER:
                return
            looked = time.monotonic()
            try:
                self._meter.accounts(owner)
            except NotAuthenticated:
                raise
            except HearthError as error:
                log.warning("the key of a request that waits cannot be checked: %s", error.message)

        return watch
