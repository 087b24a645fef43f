"""Checkpoints: copies of the part of a computed state that cannot be cut, each behind a number of tokens. Pure Python.

Recurrent layers keep one sum of all that they have read, and layers with a window forget what is older. A copy of that part
alone, laid over the whole state, lets a prompt go on from where it was made; the other layers are cut.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

# A bytearray or a memoryview over one: writable, so that ctypes can hand it on without copying it.
Buffer = bytearray | memoryview

# The most tokens between two checkpoints.
STEP = 512
# A checkpoint follows another by so many tokens at least: in a prompt's last STEP tokens, which most edits are about, and
# before them, where each pause would make a small batch of a large one.
NEAR, FAR = 16, 64
# Special tokens that are so close together belong to one border: <|im_end|>, a line end, <|im_start|>, a role.
_SAME_BORDER = 8
# So many tokens before its end is a checkpoint of a prompt in which no message ends shortly before, as where a template has
# no special tokens: the next prompt goes on behind it, and its text may cut the last tokens otherwise.
TAIL = 4
# The most checkpoints of a state.
MOST = 64


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The partial state behind `n_tokens`. A `passing` one is dropped when the next is made."""

    n_tokens: int
    data: Buffer
    passing: bool = False


def message_borders(tokens: Sequence[int], marks: Container[int]) -> list[int]:
    """Return the positions in `tokens` at which messages end, by the special tokens `marks` between them.

    Each is that of the first special token of several: an answer ended before it, and the next prompt goes on there.
    """
    borders, last = [], -_SAME_BORDER
    for position, token in enumerate(tokens):
        if token in marks:
            if position - last >= _SAME_BORDER and position:
                borders.append(position)
            last = position
    return borders


def borders_in_tokens(sizes: Sequence[int], borders: Sequence[int]) -> list[int]:
    """Return the positions in tokens of the borders between messages, ascending.

    `sizes` are the tokens' bytes, `borders` as in GenerationRequest. Where tokens stand for other bytes than the text's, as
    with a vocabulary that drops spaces, a position is before its border rather than behind it.
    """
    ends = list(accumulate(sizes))
    *places, n_bytes = borders
    missing = max(n_bytes - ends[-1], 0)
    return sorted({bisect_right(ends, place - missing) for place in places} - {0})


def checkpoint_positions(borders: Iterable[int], n_tokens: int, start: int) -> list[int]:
    """Return where reading a prompt of `n_tokens` from `start` on pauses for checkpoints, ascending.

    These are `borders` and multiples of STEP, less those that follow another too closely, and one shortly before the end.
    """
    positions: list[int] = []
    last = start
    wanted = {*borders, *range(STEP, n_tokens, STEP)}
    if not any(n_tokens - NEAR < position < n_tokens for position in wanted):
        wanted.add(n_tokens - TAIL)
    for position in sorted(wanted):
        if position >= n_tokens:
            break
        if position - last >= (NEAR if n_tokens - position <= STEP else FAR):
            positions.append(position)
            last = position
    return positions


def thinned(checkpoints: Sequence[Checkpoint], n_bytes: int) -> tuple[Checkpoint, ...]:
    """Return as many checkpoints, ascending, as `n_bytes` hold, and MOST at most; the last one stays longest.

    The one that is dropped first has its neighbors closest to each other, in proportion to their distance from the end:
    towards a conversation's beginning, where fewer edits are made, checkpoints become rare.
    """
    left = list(checkpoints)
    total = sum(len(each.data) for each in left)
    while left and (total > n_bytes or len(left) > MOST):
        end = left[-1].n_tokens
        positions = [0, *(each.n_tokens for each in left)]
        ratios = [
            (positions[n + 1] - positions[n - 1]) / max(end - positions[n - 1], 1) for n in range(1, len(positions) - 1)
        ]
        total -= len(left.pop(ratios.index(min(ratios)) if ratios else 0).data)
    return tuple(left)


def data_bytes(checkpoints: Iterable[Checkpoint]) -> int:
    """Return the bytes of several checkpoints."""
    return sum(len(each.data) for each in checkpoints)
