"""The memory that a model takes with a profile's settings."""

from __future__ import annotations

from services.models.gguf import GgufInfo
from services.models.memory import Fit, computed_at_once, fit
from services.models.profile import Profile


def fit_of(info: GgufInfo, profile: Profile, free: int, adapters: int = 0) -> Fit:
    """Return how a model fits into `free` bytes with a profile's settings and `adapters` bytes of LoRA adapters."""
    return fit(
        info,
        free,
        n_ctx=profile.context,
        n_parallel=profile.n_parallel,
        type_k=profile.cache_type_k,
        type_v=profile.cache_type_v,
        swa_full=profile.swa_full,
        n_ubatch=computed_at_once(info, profile.n_batch, profile.n_ubatch, profile.n_parallel),
        flash_attn=profile.flash_attn,
        weights=info.size + adapters,
    )
