"""Speculation: a step computes tokens that are likely to come together with the next one, where that is faster.

A draft pays where the tokens that it is expected to gain outweigh what its rows cost. Both are learned as the engine runs:
the chances of a sequence's drafts from each of its tokens (ngrams.py), the costs of batches from the steps' times.
"""

from __future__ import annotations

from services.engine.loop.sequence import Sequence

# The rows of a step with a draft, the last token's included. Each row of logits takes up to a megabyte.
SIZES = (2, 3, 4, 6, 8, 12, 16)
# A step with a draft is expected to be faster by this factor, or none is made.
MARGIN = 1.15
# The cost of a further row, in steps of one row, before any is measured.
_ROW = 0.75
# The most rows of the first draft; then as many as this times the most that are measured.
_FIRST, _GROWTH = 4, 2
# The weight of a new measurement, and by how much of itself each step of one row forgets the others: after some hundred
# steps a size that once seemed slow may be tried again.
_WEIGHT, _FORGETTING = 0.2, 0.0025
# So many steps with drafts after the last one of one row, that one no longer tells how long it would take: by then the
# context may be much longer.
_FRESH = 32


class StepCosts:
    """The measured costs of steps by their rows, in steps of one row. Owned by the engine's thread."""

    def __init__(self) -> None:
        self._single: float | None = None
        """The seconds of a step of one row."""
        self._costs: dict[int, float] = {}
        self._n_since = 0
        """The steps with drafts since the last one of one row."""

    def observe(self, n_rows: int, seconds: float) -> None:
        """Note the time of a step that computed `n_rows` of one sequence that decodes, and nothing else."""
        if n_rows == 1:
            self._observe_single(seconds)
            return
        self._n_since += 1
        if self._single and self._n_since <= _FRESH:
            # A step that something else held up says little.
            cost = min(max(seconds / self._single, 1.0), float(n_rows))
            known = self._costs.get(n_rows, cost)
            self._costs[n_rows] = known + _WEIGHT * (cost - known)

    def cost(self, n_rows: int) -> float:
        """Return the cost of a step of `n_rows`: measured, or estimated from the nearest sizes that are."""
        if n_rows == 1:
            return 1.0
        if n_rows in self._costs:
            return self._costs[n_rows]
        below = max((size for size in self._costs if size < n_rows), default=1)
        above = min((size for size in self._costs if size > n_rows), default=0)
        cost = self._costs.get(below, 1.0)
        if above:
            return cost + (self._costs[above] - cost) * (n_rows - below) / (above - below)
        return cost + (n_rows - below) * ((cost - 1) / (below - 1) if below > 1 else _ROW)

    @property
    def most_rows(self) -> int:
        """The most rows that may be computed: sizes grow step by step, since larger ones may cost more than expected."""
        return _GROWTH * max(self._costs, default=_FIRST // _GROWTH)

    def _observe_single(self, seconds: float) -> None:
        known = self._single or seconds
        self._single = known + _WEIGHT * (min(seconds, 2 * known) - known)
        self._n_since = 0
        for size, cost in self._costs.items():
            self._costs[size] = cost + _FORGETTING * (1 + _ROW * (size - 1) - cost)


class Speculation:
    """Decides on drafts. Owned by the engine's thread."""

    def __init__(self, is_on: bool, n_ctx: int) -> None:
        """`is_on` False: no draft is made."""
        self._is_on = is_on
        self._n_ctx = n_ctx
        self.costs = StepCosts()

    def give_up(self) -> None:
        """Make no more drafts, since the model's state cannot be cut behind them."""
        self._is_on = False

    def draft(self, sequence: Sequence, most: int) -> tuple[int, ...]:
        """Return up to `most` tokens to compute ahead for a sequence that decodes alone; () where that does not pay."""
        ngrams = sequence.ngrams
        if not self._is_on or ngrams is None:
            return ()
        # The answer's last token is never computed.
        most = min(most, sequence.n_left - 1, self._n_ctx - len(sequence.tokens), self.costs.most_rows - 1)
        chances = ngrams.chances(min(most, SIZES[-1] - 1))
        best, best_rate = 0, MARGIN
        expected = 1.0
        for n_rows, chance in enumerate(chances, start=2):
            expected += chance
            if n_rows in SIZES and (rate := expected / self.costs.cost(n_rows)) >= best_rate:
                best, best_rate = n_rows - 1, rate
        return tuple(ngrams.draft(best)) if best else ()
