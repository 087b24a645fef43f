"""A computed state: the tokens of one conversation and the KV cache that they became. Pure Python."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from services.backend.types import PASSING

# Fewer common tokens than these are not worth the copying.
MIN_SHARED = 16
TOKEN_BYTES = array("i").itemsize
# So many characters of a model's fingerprint tell its file, and as many more how it is loaded.
FILE_PART = 16
# Writable, so that ctypes can hand it on without copying it.
Buffer = bytearray | memoryview


class StateKey(NamedTuple):
    """Which conversation a state belongs to.

    `model` is the fingerprint of the model and of all settings that change its numbers, `owner` a key's id.
    """

    model: str
    owner: str
    session: str

    @property
    def is_passing(self) -> bool:
        """Whether it belongs to no stored session: another conversation may go on with it, and it is not kept on disk."""
        return self.session.startswith(PASSING)


@dataclass(frozen=True, eq=False)
class State:
    """What llama.cpp computed from `tokens` (packed), as it gives it out; `used`: when it was last worked on (seconds)."""

    key: StateKey
    tokens: bytes
    data: Buffer
    used: float

    @property
    def n_bytes(self) -> int:
        """What it takes in memory, or on disk but for the file's header."""
        return len(self.tokens) + len(self.data)


@dataclass(frozen=True)
class CutRule:
    """Which beginnings of a model's states can be gone on with.

    `anywhere` is False for recurrent models, whose states are whole or of no use. `window` is how many tokens the layers
    with a sliding window look back, the newest included; 0 where there are none. llama.cpp leaves older ones of these
    layers out of a state (src/llama-kv-cache.cpp, state_write). `chunked`: a window begins at a multiple of its length.
    """

    anywhere: bool = True
    window: int = 0
    chunked: bool = False

    def first_needed(self, n_tokens: int) -> int:
        """The first position that the next token looks at in every layer, after `n_tokens`."""
        if not self.window:
            return 0
        return n_tokens // self.window * self.window if self.chunked else max(0, n_tokens - self.window + 1)

    def allows(self, n_tokens: int, n_kept: int) -> bool:
        """Whether a state of `n_tokens` can be cut to its first `n_kept` and gone on with."""
        # What it holds is what its own last token looks at.
        first_held = self.first_needed(max(n_tokens - 1, 0))
        return n_kept == n_tokens if not self.anywhere else first_held <= self.first_needed(n_kept)


CUT_ANYWHERE = CutRule()


def pack(tokens: Iterable[int]) -> bytes:
    """Token ids as 32-bit integers in a row, which compare fast."""
    return array("i", tokens).tobytes()


def count(tokens: bytes) -> int:
    """How many token ids are packed in `tokens`."""
    return len(tokens) // TOKEN_BYTES


def common_prefix(a: bytes, b: bytes, beyond: int = 0) -> int:
    """How many token ids two packed rows have in common from their beginning on; 0 unless more than `beyond`."""
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
    """Anything that holds packed tokens."""

    @property
    def tokens(self) -> bytes:
        """The token ids, packed."""
        ...


Match = TypeVar("Match", bound=Matchable)


def best_match(
    states: Iterable[Match], tokens: bytes, beyond: int, rule: CutRule, spare: int = 0
) -> tuple[Match | None, int]:
    """The state that has most of `tokens` in common and is worth copying, and how many: more than `beyond`, else (None, 0).

    Only one that can be cut to what is in common counts, of which the last `spare` of `tokens` are no part.
    """
    best, beyond, most = None, max(beyond, MIN_SHARED - 1), count(tokens) - spare
    for state in states:
        shared = common_prefix(state.tokens, tokens, beyond)
        if is_worth(shared, state.tokens) and rule.allows(count(state.tokens), min(shared, most)):
            best, beyond = state, shared
    return best, beyond if best else 0


def is_worth(shared: int, tokens: bytes) -> bool:
    """Whether so much of a state is in common that copying all of it is worth the while."""
    return shared >= MIN_SHARED and 16 * shared >= count(tokens)
