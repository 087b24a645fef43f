"""How much of a prompt a step may read while others' streams wait for it. Pure Python.

A step takes as long as its tokens together, so a chunk of a prompt holds up every stream by the time it takes alone. The
time that one token takes is measured as the engine runs, since it differs between models and machines.
"""

from __future__ import annotations

# How long, in seconds, reading may hold up the streams in one step. On two cores and a model of 0.4 B weights this makes
# chunks of about fifty tokens; reading is then 5 % slower than in chunks of 128, with streams that never pause noticeably.
HOLD_UP = 0.15
LEAST = 16
_WEIGHT = 0.2


class Pace:
    """The measured cost of reading. Owned by the engine's thread."""

    def __init__(self) -> None:
        self._seconds_per_token: float | None = None

    def observe(self, n_tokens: int, seconds: float) -> None:
        """Take note of a step that read `n_tokens` of prompts; small ones say little and are passed over."""
        if n_tokens < LEAST:
            return
        new = seconds / n_tokens
        old = self._seconds_per_token
        self._seconds_per_token = new if old is None else old + _WEIGHT * (new - old)

    def chunk(self, most: int) -> int:
        """How many tokens of prompts a step may read beside streams, up to `most`."""
        if self._seconds_per_token is None:
            return min(LEAST, most)
        return max(min(LEAST, most), min(most, int(HOLD_UP / self._seconds_per_token)))
