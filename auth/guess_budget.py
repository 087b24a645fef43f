"""The budget of wrong keys that each address may have checked, and the order of keys that were refused and came again."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from math import ceil

from services.errors import RateLimitExceeded

# Wrong keys a minute of one address that are checked as they come.
GUESSES = 10
# Seconds between checks of an address that has none left, for keys that come again after `Retry-After`.
SLOW = 1.0
# Seconds for which a key that came again keeps its place in the order.
_COMES_BACK = 5.0
# Keys of one address that keep their order; refused keys that are remembered; addresses.
_MOST_RETURNED = 100
_MOST_REFUSED = 5_000
_MOST_SOURCES = 10_000


@dataclass
class _Source:
    left: float = GUESSES
    at: float = 0.0
    """The time at which `left` was computed (seconds)."""
    slow: float = float("-inf")
    """The time of the last check beyond the budget."""
    returned: dict[bytes, float] = field(default_factory=dict)
    """Keys that came again, in their order, and the times at which they last came."""


class GuessBudget:
    """The budgets, by address. Its owner lets one thread at a time use it; times are in seconds.

    Only wrong keys cost something. A right key behind an address where others guess is checked soon: keys that come again
    are checked in their order, which a caller who tries another key each time is never in.
    """

    def __init__(self) -> None:
        self._sources: OrderedDict[str, _Source] = OrderedDict()
        self._refused: OrderedDict[tuple[str, bytes], float] = OrderedDict()
        """The time at which a key was first refused."""

    def ask(self, source: str, key: bytes, now: float, takes: bool) -> None:
        """Raise RateLimitExceeded where a key (a mark of it) that came from `source` is not to be checked now.

        `takes`: it is checked now, rather than queued for it.
        """
        known = self._of(source, now)
        known.returned = {each: asked for each, asked in known.returned.items() if now - asked < _COMES_BACK}
        refused = self._refused.get((source, key))
        is_back = refused is not None and now - refused >= SLOW / 2
        if is_back and (key in known.returned or len(known.returned) < _MOST_RETURNED):
            known.returned[key] = now
        position = list(known.returned).index(key) if key in known.returned else len(known.returned)
        may_now = position + 1 <= known.left
        if not may_now and not (key in known.returned and position == 0 and now - known.slow >= SLOW):
            self._refused[source, key] = now if refused is None else refused
            self._refused.move_to_end((source, key))
            if len(self._refused) > _MOST_REFUSED:
                self._refused.popitem(last=False)
            raise _later(ceil(max(known.slow + SLOW - now, SLOW) + position * SLOW))
        if takes:
            known.returned.pop(key, None)
            self._refused.pop((source, key), None)
            known.slow = known.slow if may_now else now

    def spend(self, source: str, now: float) -> None:
        """Take one from the budget: a key that came from `source` was wrong."""
        known = self._of(source, now)
        known.left = max(known.left - 1, 0.0)

    def guesses(self, source: str, now: float) -> bool:
        """Return whether so many wrong keys came from `source` that they are hardly errors in typing."""
        return self._of(source, now).left < GUESSES / 2

    def _of(self, source: str, now: float) -> _Source:
        known = self._sources.setdefault(source, _Source(at=now))
        self._sources.move_to_end(source)
        if len(self._sources) > _MOST_SOURCES:
            self._sources.popitem(last=False)
        known.left = min(known.left + (now - known.at) * GUESSES / 60, GUESSES)
        known.at = now
        return known


def _later(retry_after: int) -> RateLimitExceeded:
    what = (
        f"too many wrong keys came from this address; if yours is right, try again in {retry_after} s: it is checked then"
    )
    return RateLimitExceeded(what, param="Authorization", code="too_many_guesses", retry_after=retry_after)
