"""What a model takes in memory, and what of it fits: told before a download, and when it is loaded, by the same rule."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace

from services.backend.types import CacheType
from services.models.gguf import GgufInfo
from services.models.kv_shape import CELLS, kv_shape

# Longest chunk that one step computes. Reading in chunks of 128 is within 2 % of the speed of 512 (DESIGN.md), and a
# request that is cancelled, or that comes, waits for one chunk at most.
STEP_TOKENS = 128
UBATCH = 512
# A context that is chosen for the memory there is has so many tokens at least.
LEAST_CONTEXT = 512


@dataclass(frozen=True)
class Fit:
    """How a model fits into memory: tokens of one slot's context, slots, and bytes of the weights and of all KV caches.

    `problem` says why it does not, in a sentence that follows "NAME: "; `param` is then the profile's field to change.
    """

    n_ctx: int
    n_slots: int
    weights: int
    kv: int
    problem: str = ""
    param: str = ""


def batch_capacity(n_batch: int | None, n_parallel: int) -> int:
    """How many tokens one batch holds, where a profile leaves `n_batch` open or not.

    Beside a chunk, which may be a token longer (pace.py), every slot must be able to decode in the same step.
    """
    return (n_batch or STEP_TOKENS) + 1 + n_parallel


def ubatch(n_ubatch: int | None, capacity: int) -> int:
    """How many tokens llama.cpp computes at once, of a batch of `capacity`."""
    return min(n_ubatch or UBATCH, capacity)


def fit(
    info: GgufInfo,
    free: int,
    *,
    n_ctx: int = 0,
    n_parallel: int = 8,
    type_k: CacheType = "f16",
    type_v: CacheType = "f16",
    swa_full: bool = True,
    n_ubatch: int = 0,
    flash_attn: bool = True,
    weights: int | None = None,
    budget: int | None = None,
) -> Fit:
    """Share out `free` bytes among the weights, the context, and as many slots as half of what the weights leave holds.

    `n_ctx` 0 is as much as the model was trained on, or as that half holds for one conversation; more than the model was
    trained on is never taken. `weights` are the bytes of all its files and adapters, its file's size if None. `budget` is
    how many bytes the model is to take in all, if that was said: it costs slots, and tokens that nobody has asked for.
    """
    trained = info.context_length or n_ctx or LEAST_CONTEXT
    shape, weights = kv_shape(info), info.size if weights is None else weights

    def kv(tokens: int) -> int:
        return shape.bytes(tokens, type_k, type_v, swa_full=swa_full, n_ubatch=n_ubatch, flash_attn=flash_attn)

    room = max(free - weights, 0) // 2
    if budget is not None:
        room = min(room, max(budget - weights, 0))
    chosen = min(n_ctx or trained, trained)
    if not n_ctx and kv(chosen) > room:
        chosen = max(_largest(kv, room, chosen), min(LEAST_CONTEXT, trained))
    n_slots = max(1, min(n_parallel, room // max(kv(chosen), 1)))
    made = Fit(chosen, n_slots, weights, n_slots * kv(chosen))
    if weights > free:
        what = f"it takes {weights / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free"
        return replace(made, problem=f"{what}; a smaller model, or a smaller quantization of it, would fit", param="model")
    if kv(chosen) > free:
        # Weights that are mapped may leave memory again, a KV cache may not.
        what = f"a context of {chosen} tokens takes {kv(chosen) / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free"
        return replace(made, problem=f"{what}; a smaller n_ctx takes less", param="n_ctx")
    return made


def _largest(kv: Callable[[int], int], room: int, most: int) -> int:
    """The largest multiple of CELLS, below `most` tokens, whose KV cache fits into `room` bytes."""
    return CELLS * max(bisect_right(range(most // CELLS + 1), room, key=lambda n: kv(n * CELLS)) - 1, 0)
