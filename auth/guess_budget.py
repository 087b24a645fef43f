"""How many wrong keys one address may have checked, and in which order those go that were told to come again."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from math import ceil

from services.errors import RateLimitExceeded

# Wrong keys a minute of one address that are checked as they come.
GUESSES = 10
# Seconds between checks of an address that has none left, for keys that come again when they were told to.
SLOW = 1.0
# Seconds for which a key that came again keeps its turn.
_COMES_BACK = 5.0
# Keys of one address that have a turn; keys that are known to have been told; addresses.
_MOST_TURNS = 100
_MOST_TOLD = 5_000
_MOST_SOURCES = 10_000


@dataclass
class _Source:
    left: float = GUESSES
    at: float = 0.0
    """When `left` was right (seconds)."""
    slow: float = float("-inf")
    """When a key was last checked that there was nothing left for."""
    turns: dict[bytes, float] = field(default_factory=dict)
    """Keys that came again, in the order in which they did, and when they last asked."""


class GuessBudget:
    """The budgets, by address. Its owner sees to it that one thread at a time uses it; times are in seconds.

    Only wrong keys cost something. A right key behind an address where others guess is checked soon: turns are given to
    keys that come again, the first of them first, and whoever tries another key each time has none.
    """

    def __init__(self) -> None:
        self._sources: OrderedDict[str, _Source] = OrderedDict()
        self._told: OrderedDict[tuple[str, bytes], float] = OrderedDict()
        """When a key was first told to come again."""

    def ask(self, source: str, key: bytes, now: float, takes: bool) -> None:
        """Raise RateLimitExceeded where a key (a mark of it) that came from `source` is not to be checked now.

        `takes`: it is checked now, rather than put in line for it.
        """
        known = self._of(source, now)
        known.turns = {each: asked for each, asked in known.turns.items() if now - asked < _COMES_BACK}
        told = self._told.get((source, key))
        is_back = told is not None and now - told >= SLOW / 2
        if is_back and (key in known.turns or len(known.turns) < _MOST_TURNS):
            known.turns[key] = now
        position = list(known.turns).index(key) if key in known.turns else len(known.turns)
        may_now = position + 1 <= known.left
        if not may_now and not (key in known.turns and position == 0 and now - known.slow >= SLOW):
            self._told[source, key] = now if told is None else told
            self._told.move_to_end((source, key))
            if len(self._told) > _MOST_TOLD:
                self._told.popitem(last=False)
            raise _later(ceil(max(known.slow + SLOW - now, SLOW) + position * SLOW))
        if takes:
            known.turns.pop(key, None)
            self._told.pop((source, key), None)
            known.slow = known.slow if may_now else now

    def spend(self, source: str, now: float) -> None:
        """A key that came from there was wrong."""
        known = self._of(source, now)
        known.left = max(known.left - 1, 0.0)

    def guesses(self, source: str, now: float) -> bool:
        """Whether so many wrong keys have come from there that it is hardly for errors in typing."""
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
