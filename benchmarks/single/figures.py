"""The figures of the table: the source of each, its target, and whether it is met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.single.bench import OURS, THEIRS, Pair

AT_LEAST, AT_MOST = "≥", "≤"
RATIO, VALUE, DIFFERENCE = "ratio", "value", "difference"


@dataclass(frozen=True)
class Figure:
    """One line of the table: number `key` of workload `row`, times `scale` in `unit`.

    What has to reach `reach` is the ratio ours/theirs, our value alone, or ours less theirs; None where nothing has to.
    """

    row: str
    key: str
    what: str
    unit: str
    digits: int
    sense: str
    reach: float | None
    of: str = RATIO
    scale: float = 1.0

    @property
    def reach_text(self) -> str:
        """Sense, bound and unit."""
        if self.reach is None:
            return ""
        if self.of == RATIO:
            return f"{self.sense} {self.reach:g}×"  # noqa: RUF001
        return f"{self.sense} {'+' * (self.of == DIFFERENCE)}{self.reach:,g} {self.unit}"


@dataclass(frozen=True)
class Line:
    """A figure with what was measured: medians of the pairs, and their ratio with the smallest and the largest pair's."""

    figure: Figure
    ours: float
    theirs: float | None
    ratio: float | None
    ratios: tuple[float, float] | None
    reached: bool | None


FIGURES = (
    Figure("single", "rate", "One user: decoding speed", "tokens/s", 1, AT_LEAST, 0.98),
    Figure("eight", "rate", "Eight users at once: total speed", "tokens/s", 1, AT_LEAST, 1.0),
    Figure("schema", "rate", "Eight users at once under a JSON schema: total speed", "tokens/s", 1, AT_LEAST, 1.0),
    Figure("schema", "ratio", "The same, as part of the speed without a schema", "%", 1, AT_LEAST, 97, VALUE, scale=100),
    Figure(
        "long-talk", "first_token", "A long conversation: first token from turn 7 on", "ms", 0, AT_MOST, 0.15, scale=1000
    ),
    Figure("twelve", "first_token", "Twelve users on eight slots: first token", "ms", 0, AT_MOST, 0.4, scale=1000),
    Figure("restart", "first_token", "First token after a restart", "ms", 0, AT_MOST, 0.15, scale=1000),
    Figure("stall", "gap", "A stream beside a long prompt: longest pause", "ms", 0, AT_MOST, 0.1, scale=1000),
    Figure("stall", "first_token", "The long prompt's own first token", "s", 2, AT_MOST, 1.15),
    Figure("leave", "free", "Eight clients disconnected: first token of the next", "ms", 0, AT_MOST, 1.0, scale=1000),
    Figure("overhead", "auth_rate", "GET /auth", "requests/s", 0, AT_LEAST, 1000, VALUE),
    Figure("overhead", "answer_ms", "Time that /answer adds to the engine's", "ms", 2, AT_MOST, 3, VALUE),
    Figure("overhead", "session_ms", "The same with a stored session", "ms", 2, AT_MOST, None, VALUE),
    Figure("store", "store_ms", "Storing a turn: 10,000 sessions against 10", "ms", 2, AT_MOST, 1.2),
    Figure("start", "seconds", "Start to the end of the first answer", "s", 2, AT_MOST, 2, VALUE),
    Figure("start", "memory_mb", "Memory beyond the model, after eight at once", "MB", 0, AT_MOST, 150, DIFFERENCE),
)


def measure_up(figure: Figure, pairs: Sequence[Pair]) -> Line:
    """Return the figure's line, from all pairs of its row. Without a number of the other side there is no ratio."""
    ours = [pair[OURS][figure.key] * figure.scale for pair in pairs]
    theirs = [pair[THEIRS][figure.key] * figure.scale for pair in pairs if figure.key in pair[THEIRS]]
    if not theirs:
        return Line(figure, median(ours), None, None, None, _is_reached(figure, median(ours)))
    ratio = median(ours) / median(theirs)
    ratios = [mine / yours for mine, yours in zip(ours, theirs, strict=True)]
    compared = {RATIO: ratio, VALUE: median(ours), DIFFERENCE: median(ours) - median(theirs)}[figure.of]
    return Line(figure, median(ours), median(theirs), ratio, (min(ratios), max(ratios)), _is_reached(figure, compared))


def median_of(pairs: Sequence[Pair], side: str, key: str) -> float:
    """Return the median of one side's number `key`."""
    return float(median(pair[side][key] for pair in pairs))


def _is_reached(figure: Figure, value: float) -> bool | None:
    if figure.reach is None:
        return None
    return value >= figure.reach if figure.sense == AT_LEAST else value <= figure.reach
