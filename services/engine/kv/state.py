"""A computed state: the tokens of one conversation and the KV cache that they became. Pure Python."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from services.backend.types import TEMPORARY
from services.engine.kv.checkpoints import Buffer, Checkpoint, data_bytes

# Fewer common tokens are not worth the copying.
MIN_SHARED = 16
TOKEN_BYTES = array("i").itemsize
# The first characters of a model's fingerprint, which stand for its file; as many more stand for how it is loaded.
FILE_PART = 16


class StateKey(NamedTuple):
    """The conversation that a state belongs to.

    `model` is the fingerprint of the model and of all settings that change its numbers, `owner` a key's id.
    """

    model: str
    owner: str
    session: str

    @property
    def is_temporary(self) -> bool:
        """True if it belongs to no stored session: another conversation may continue it, and it is not kept on disk."""
        return self.session.startswith(TEMPORARY)


@dataclass(frozen=True, eq=False)
class State:
    """The `data` that llama.cpp computed from `tokens` (packed); `used` is when (time.monotonic) it was last used.

    `checkpoints`, ascending, are parts of it behind fewer tokens.
    """

    key: StateKey
    tokens: bytes
    data: Buffer
    used: float
    checkpoints: tuple[Checkpoint, ...] = ()

    @property
    def n_bytes(self) -> int:
        """Its size in memory, or on disk but for the file's header."""
        return len(self.tokens) + len(self.data) + data_bytes(self.checkpoints)

    @property
    def positions(self) -> Many[int]:
        """The numbers of tokens that its checkpoints stand behind, ascending."""
        return [each.n_tokens for each in self.checkpoints]


@dataclass(frozen=True)
class CutRule:
    """The rule for prefixes of a model's states that can be continued.

    `anywhere` is False for recurrent models, whose states are used whole or not at all. `window` is how many tokens the
    layers with a sliding window look back, the newest included; 0 where there are none. llama.cpp leaves older ones of
    these layers out of a state (src/llama-kv-cache.cpp, state_write). `chunked`: a window begins at a multiple of its
    length.
    """

    anywhere: bool = True
    window: int = 0
    chunked: bool = False

    def first_needed(self, n_tokens: int) -> int:
        """Return the first position that the token after `n_tokens` attends to in every layer."""
        if not self.window:
            return 0
        return n_tokens // self.window * self.window if self.chunked else max(0, n_tokens - self.window + 1)

    @property
    def has_partial(self) -> bool:
        """True if states have a part that cannot be cut anywhere, of which checkpoints are made."""
        return bool(self.window) or not self.anywhere

    def cut(self, n_tokens: int, most: int) -> int:
        """Return the most tokens, of the first `most`, that a state of `n_tokens` can be cut to and continued; or 0."""
        if n_tokens <= most:
            return n_tokens
        # It holds the positions that its own last token attends to.
        first_held = self.first_needed(max(n_tokens - 1, 0))
        return most if self.anywhere and first_held <= self.first_needed(most) else 0

    def reach(self, n_tokens: int, positions: Many[int], most: int) -> int:
        """Return the same of a state with checkpoints behind `positions` tokens, ascending."""
        return max(self.cut(n_tokens, most), self.cut(self.nearest(positions, most), most))

    def nearest(self, positions: Many[int], most: int) -> int:
        """Return the position of the checkpoint from which the most of the first `most` tokens can be kept; 0: of none."""
        return max(positions, key=lambda position: self.cut(position, most), default=0)


CUT_ANYWHERE = CutRule()


def pack(tokens: Iterable[int]) -> bytes:
    """Return token ids as 32-bit integers in a row, which compare fast."""
    return array("i", tokens).tobytes()


def count(tokens: bytes) -> int:
    """Return the number of token ids packed in `tokens`."""
    return len(tokens) // TOKEN_BYTES


def common_prefix(a: bytes, b: bytes, beyond: int = 0) -> int:
    """Return the length, in token ids, of the longest common prefix of two packed rows; 0 unless more than `beyond`."""
    least, low, high = TOKEN_BYTES * (beyond + 1), beyond, min(count(a), count(b))
    if high <= beyond or a[:least] != b[:least]:
        return 0
    low = beyond + 1
    while low < high:
        middle = (low + high + 1) // 2
        if a[TOKEN_BYTES * low : TOKEN_BYTES * middle] == b[TOKEN_BYTES * low : TOKEN_BYTES * middle]:
            low = middle
        else:
            high = middle - 1
    return low


class Matchable(Protocol):
    """A state, or what is known of one."""

    @property
    def tokens(self) -> bytes:
        """The token ids, packed."""
        ...

    @property
    def positions(self) -> Many[int]:
        """The numbers of tokens that its checkpoints stand behind, ascending."""
        ...


Match = TypeVar("Match", bound=Matchable)


def best_match(
    states: Iterable[Match], tokens: bytes, beyond: int, rule: CutRule, spare: int = 0
) -> tuple[Match | None, int]:
    """Return the state, worth copying, from which the most of `tokens` can be gone on with, and how many these are.

    (None, 0) unless that is more than `beyond`. They are no more than the prefix in common, and the last `spare` of
    `tokens` are no part of them.
    """
    best, beyond, most = None, max(beyond, MIN_SHARED - 1), count(tokens) - spare
    for state in states:
        shared = min(common_prefix(state.tokens, tokens, beyond), most)
        if shared > beyond and is_worth_copying(shared, state.tokens):
            kept = rule.reach(count(state.tokens), state.positions, shared)
            if kept > beyond and is_worth_copying(kept, state.tokens):
                best, beyond = state, kept
    return best, beyond if best else 0


def is_worth_copying(shared: int, tokens: bytes) -> bool:
    """Return whether enough of a state is in common to copy all of it."""
    return shared >= MIN_SHARED and 16 * shared >= count(tokens)
