"""The size of the chunks in which prompts are read: small beside streams that wait for them. Pure Python.

A step takes as long as its tokens together, so a chunk of a prompt holds up every stream by the time it takes alone. The
time that one token takes is measured as the engine runs, since it differs between models and machines.
"""

from __future__ import annotations

# From 64 rows of one sequence on, llama.cpp's attention works in tiles (ggml-cpu, GGML_FA_TILE_Q). At a depth of 1,900
# tokens, 65 rows take 355 ms and 33 take 333; 97 take 599 ms and 129 take 705. So chunks are whole tiles.
TILE = 64
# Beside streams one row more is needed: llama.cpp splits off the batch's first rows, one of every sequence.
TILE_BESIDE = TILE + 1
# Seconds by which reading may delay the streams in one step; for the sake of a whole tile twice as long.
MAX_DELAY = 0.6
# Tokens of the smallest and the largest chunk beside streams.
MIN_CHUNK = 16
MAX_CHUNK = 2 * TILE + 1
# Seconds of reading in one step beside no stream, for which a new request may wait; at least LONE_CHUNK tokens are read.
LONE_SECONDS = 1.0
LONE_CHUNK = 2 * TILE
# Seconds for which answers whose prompts came together may wait for each other after their first tokens.
BURST = 2.5
_WEIGHT = 0.2


class Pace:
    """The measured cost of reading. Owned by the engine's thread."""

    def __init__(self) -> None:
        self._seconds_per_token: float | None = None
        self._decoding = 0.0

    def observe(self, n_read: int, n_decoding: int, seconds: float) -> None:
        """Note a step that read `n_read` tokens of prompts beside `n_decoding` others.

        The time of decoding alone is no cost of reading. Steps that read little are passed over.
        """
        if not n_read:
            self._decoding = _mean(self._decoding or seconds, seconds)
        elif n_read >= MIN_CHUNK:
            new = max(seconds - (self._decoding if n_decoding else 0.0), 0.0) / n_read
            self._seconds_per_token = _mean(new if self._seconds_per_token is None else self._seconds_per_token, new)

    def chunk(self, most: int) -> int:
        """Return how many tokens of prompts a step may read beside streams, up to `most`."""
        most = min(most, MAX_CHUNK)
        cost = self._seconds_per_token
        if not cost:
            return min(most, TILE_BESIDE)
        tiles = int(MAX_DELAY / cost - 1) // TILE
        if not tiles and TILE_BESIDE * cost <= 2 * MAX_DELAY:
            tiles = 1
        return min(most, tiles * TILE + 1 if tiles else max(MIN_CHUNK, int(MAX_DELAY / cost)))

    def lone_chunk(self, most: int) -> int:
        """Return how many tokens of prompts a step may read beside no stream, up to `most`."""
        cost = self._seconds_per_token
        tiles = int(LONE_SECONDS / cost) // TILE if cost else 0
        return min(most, max(tiles * TILE, LONE_CHUNK))

    def burst(self) -> int:
        """Return how many tokens of prompts may be read before any of their sequences decodes on; 0: not known yet."""
        return int(BURST / self._seconds_per_token) if self._seconds_per_token else 0


def _mean(old: float, new: float) -> float:
    return old + _WEIGHT * (new - old)
