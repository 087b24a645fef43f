"""The memory that a model takes, and the context and slots that fit: one rule before a download and when it is loaded."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace

from services.backend.types import CacheType
from services.models.gguf import GgufInfo
from services.models.kv_shape import CELLS, KvShape, kv_shape

# The longest chunk that one step computes: reading in chunks of 512 takes a tenth less time than in chunks of 128.
STEP_TOKENS = 512
# The same for a model with windows, which keeps the tokens of a chunk beside each window.
WINDOW_STEP_TOKENS = 128
UBATCH = 512
# The fewest tokens of a context that is chosen by the free memory.
LEAST_CONTEXT = 512
# The most tokens of a text that is embedded, if the profile leaves the context open: its memory grows with the length.
LONGEST_TEXT = 8192
# Contexts up to so many windows are kept whole by default: a window, and the checkpoints that make up for the rest, would
# take as much memory.
FULL_WINDOWS = 4


@dataclass(frozen=True)
class Fit:
    """A model's share of memory: tokens of one slot's context, slots, and bytes of the weights and of all KV caches.

    `swa_full`: layers with a window keep every token. If it does not fit, `problem` says why, after "NAME: ", and `param`
    is the profile's field to change.
    """

    n_ctx: int
    n_slots: int
    weights: int
    kv: int
    swa_full: bool = True
    problem: str = ""
    param: str = ""


def longest_chunk(n_batch: int | None, shape: KvShape) -> int:
    """Return the most prompt tokens that a step reads, for a profile's `n_batch`, or None."""
    return n_batch or (WINDOW_STEP_TOKENS if shape.window else STEP_TOKENS)


def batch_capacity(chunk: int, n_parallel: int) -> int:
    """Return the tokens that one batch holds.

    Beside a chunk, which may be one token longer (pace.py), every slot must be able to decode in the same step.
    """
    return chunk + 1 + n_parallel


def ubatch(n_ubatch: int | None, capacity: int) -> int:
    """The tokens that llama.cpp computes at once, of a batch of `capacity`."""
    return min(n_ubatch or UBATCH, capacity)


def computed_at_once(info: GgufInfo, n_batch: int | None, n_ubatch: int | None, n_parallel: int) -> int:
    """Return the tokens of a model that llama.cpp computes at once, by a profile's settings."""
    return ubatch(n_ubatch, batch_capacity(longest_chunk(n_batch, kv_shape(info)), n_parallel))


def keeps_windows(shape: KvShape, n_ctx: int) -> bool:
    """Return whether layers with a window keep every token by default, in a context that was wanted to be of `n_ctx`."""
    return not shape.window or n_ctx <= FULL_WINDOWS * shape.window


def fit(
    info: GgufInfo,
    free: int,
    *,
    n_ctx: int = 0,
    n_parallel: int = 8,
    type_k: CacheType = "f16",
    type_v: CacheType = "f16",
    swa_full: bool | None = None,
    n_ubatch: int = 0,
    flash_attn: bool = True,
    weights: int | None = None,
    budget: int | None = None,
) -> Fit:
    """Divide `free` bytes among the weights, the context, and as many slots as fit into half of the rest.

    `n_ctx` 0 is the model's training context, or as much of it as that half holds for one conversation; a larger context
    is never taken. `swa_full` None: as `keeps_windows`. `weights` are the bytes of all files and adapters (None: the size
    of the model's files). `budget` limits the bytes of the model in all: it reduces slots, and a context left open.
    """
    trained = info.context_length or n_ctx or LEAST_CONTEXT
    shape, weights = kv_shape(info), info.size if weights is None else weights

    chosen = min(n_ctx or trained, trained)
    is_full = keeps_windows(shape, chosen) if swa_full is None else swa_full

    def kv(tokens: int) -> int:
        return shape.bytes(tokens, type_k, type_v, swa_full=is_full, n_ubatch=n_ubatch, flash_attn=flash_attn)

    room = max(free - weights, 0) // 2
    if budget is not None:
        room = min(room, max(budget - weights, 0))
    if not n_ctx and kv(chosen) > room:
        chosen = max(_largest(kv, room, chosen), min(LEAST_CONTEXT, trained))
    n_slots = max(1, min(n_parallel, room // max(kv(chosen), 1)))
    made = Fit(chosen, n_slots, weights, n_slots * kv(chosen), is_full)
    if weights > free:
        what = f"it takes {weights / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free"
        return replace(made, problem=f"{what}; a smaller model, or a smaller quantization of it, would fit", param="model")
    if kv(chosen) > free:
        # Mapped weights may be paged out, a KV cache may not.
        what = f"a context of {chosen} tokens takes {kv(chosen) / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free"
        return replace(made, problem=f"{what}; a smaller n_ctx takes less", param="n_ctx")
    return made


def _largest(kv: Callable[[int], int], room: int, most: int) -> int:
    """The largest multiple of CELLS, below `most` tokens, whose KV cache fits into `room` bytes."""
    return CELLS * max(bisect_right(range(most // CELLS + 1), room, key=lambda n: kv(n * CELLS)) - 1, 0)
