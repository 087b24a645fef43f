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
    `tuned_reach` takes its place where Hearth runs a tuned file. `beside` says what theirs is where it is not llama-server.
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
    tuned_reach: float | None = None
    beside: str = ""

    def goal(self, tuned: bool) -> float | None:
        """Return what has to be reached."""
        return self.tuned_reach if tuned and self.tuned_reach is not None else self.reach


@dataclass(frozen=True)
class Line:
    """A figure with what was measured: medians of the pairs, and their ratio with the smallest and the largest pair's."""

    figure: Figure
    ours: float
    theirs: float | None
    ratio: float | None
    ratios: tuple[float, float] | None
    goal: float | None
    reached: bool | None

    @property
    def goal_text(self) -> str:
        """Sense, bound and unit of what has to be reached."""
        if self.goal is None:
            return ""
        if self.figure.of == RATIO:
            return f"{self.figure.sense} {self.goal:g}×"  # noqa: RUF001
        return f"{self.figure.sense} {'+' * (self.figure.of == DIFFERENCE)}{self.goal:,g} {self.figure.unit}"


FIGURES = (
    Figure("single", "rate", "One user: decoding speed", "tokens/s", 1, AT_LEAST, 0.98, tuned_reach=1.4),
    Figure("eight", "rate", "Eight users at once: total speed", "tokens/s", 1, AT_LEAST, 1.0, tuned_reach=1.5),
    Figure(
        "small", "rate", "Eight streams without their prompts: total speed", "tokens/s", 1, AT_LEAST, 1.0, tuned_reach=1.5
    ),
    Figure(
        "prompt",
        "first_token",
        "First token of a new prompt of 500 tokens",
        "ms",
        0,
        AT_MOST,
        None,
        scale=1000,
        tuned_reach=0.45,
    ),
    Figure("json", "rate", "Eight users at once under a JSON schema: total speed", "tokens/s", 1, AT_LEAST, None),
    Figure("json", "ratio", "The same, as part of the speed without a schema", "%", 1, AT_LEAST, 97, VALUE, scale=100),
    Figure(
        "logprobs",
        "one_ratio",
        "One user with log-probabilities, as part of the speed without",
        "%",
        1,
        AT_LEAST,
        97,
        VALUE,
        100,
    ),
    Figure("logprobs", "eight_ratio", "Eight users with log-probabilities, the same", "%", 1, AT_LEAST, 97, VALUE, 100),
    Figure("logprobs", "eight_rate", "Eight users with log-probabilities: total speed", "tokens/s", 1, AT_LEAST, None),
    Figure("copy", "rate", "An answer that repeats half of its prompt: decoding speed", "tokens/s", 1, AT_LEAST, 1.3),
    Figure("copy", "flags_rate", "The same beside llama-server's n-grams", "tokens/s", 1, AT_LEAST, None),
    Figure(
        "copy", "off_rate", "The same beside Hearth without speculation", "tokens/s", 1, AT_LEAST, None, beside="without: "
    ),
    Figure("edit", "first_token", "The third-last prompt changed: first token", "ms", 0, AT_MOST, None, scale=1000),
    Figure("edit", "read", "The same: tokens read", "tokens", 0, AT_MOST, 1.05),
    Figure("tools", "seconds", "Twelve calls of tools: all answers", "s", 2, AT_MOST, None),
    Figure("tools", "first_token", "The same: first token", "ms", 0, AT_MOST, None, scale=1000),
    Figure("tools", "read", "The same: tokens read after the first call", "tokens", 0, AT_MOST, 1.05),
    Figure(
        "paste",
        "first_token",
        "1,500 tokens pasted as a draft: first token",
        "ms",
        0,
        AT_MOST,
        0.1,
        scale=1000,
        beside="no draft: ",
    ),
    Figure(
        "long-talk", "first_token", "A long conversation: first token from turn 7 on", "ms", 0, AT_MOST, 0.16, scale=1000
    ),
    Figure("twelve", "first_token", "Twelve users on eight slots: first token", "ms", 0, AT_MOST, 0.17, scale=1000),
    Figure("crowd", "first_token", "24 users on eight slots: 95th percentile of first tokens", "s", 2, AT_MOST, None),
    Figure("crowd", "gap", "The same: 95th percentile of pauses between chunks", "ms", 0, AT_MOST, None, scale=1000),
    Figure("crowd", "seconds", "The same: all answers", "s", 2, AT_MOST, None),
    Figure("restart", "first_token", "First token after a restart", "ms", 0, AT_MOST, 0.12, scale=1000),
    Figure("stall", "gap", "A stream beside a long prompt: longest pause", "ms", 0, AT_MOST, 0.08, scale=1000),
    Figure("stall", "first_token", "The long prompt's own first token", "s", 2, AT_MOST, 1.15),
    Figure("leave", "free", "Eight clients disconnected: first token of the next", "ms", 0, AT_MOST, 1.0, scale=1000),
    Figure("overhead", "auth_rate", "GET /auth", "requests/s", 0, AT_LEAST, 2000, VALUE),
    Figure("overhead", "answer_ms", "Time that /answer adds to the engine's", "ms", 2, AT_MOST, 2, VALUE),
    Figure("overhead", "session_ms", "The same with a stored session", "ms", 2, AT_MOST, 2, VALUE),
    Figure("store", "store_ms", "Storing a turn: 10,000 sessions against 10", "ms", 2, AT_MOST, 1.2, beside="with 10: "),
    Figure("start", "seconds", "Start to the end of the first answer", "s", 2, AT_MOST, 1, VALUE),
    Figure("start", "memory_mb", "Memory beyond the model, after eight at once", "MB", 0, AT_MOST, 150, DIFFERENCE),
    Figure("memory", "server_mb", "Memory of the server's process", "MB", 0, AT_MOST, 80, VALUE),
    Figure("memory", "engine_mb", "Memory of the engine's beside model and KV cache", "MB", 0, AT_MOST, 100, VALUE),
)


def measure_up(figure: Figure, pairs: Sequence[Pair], tuned: bool = False) -> Line:
    """Return the figure's line, from all pairs of its row. Without a number of the other side there is no ratio."""
    goal = figure.goal(tuned)
    ours = [pair[OURS][figure.key] * figure.scale for pair in pairs]
    theirs = [pair[THEIRS][figure.key] * figure.scale for pair in pairs if figure.key in pair[THEIRS]]
    if not theirs:
        return Line(figure, median(ours), None, None, None, goal, _is_reached(figure.sense, goal, median(ours)))
    ratio = median(ours) / median(theirs)
    ratios = [mine / yours for mine, yours in zip(ours, theirs, strict=True)]
    compared = {RATIO: ratio, VALUE: median(ours), DIFFERENCE: median(ours) - median(theirs)}[figure.of]
    reached = _is_reached(figure.sense, goal, compared)
    return Line(figure, median(ours), median(theirs), ratio, (min(ratios), max(ratios)), goal, reached)


def median_of(pairs: Sequence[Pair], side: str, key: str) -> float:
    """Return the median of one side's number `key`."""
    return float(median(pair[side][key] for pair in pairs))


def _is_reached(sense: str, goal: float | None, value: float) -> bool | None:
    if goal is None:
        return None
    return value >= goal if sense == AT_LEAST else value <= goal
