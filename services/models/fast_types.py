"""The types of weights for which llama.cpp has fast kernels, by the CPU's instruction set.

Source: llama.cpp's ggml-cpu/repack.cpp (types whose weights are rearranged at load) and llamafile/sgemm.cpp (types whose
matrix products are computed in tiles). All others are computed row by row, which takes two to four times as long to read
a prompt.
"""

from __future__ import annotations

from collections.abc import Collection

# On any of these instruction sets, as llama.cpp names them: the best first.
FAST_TYPES: dict[str, tuple[str, ...]] = {
    "AVX2": ("Q4_0", "IQ4_NL", "Q4_K", "MXFP4", "Q8_0", "Q5_0", "F16", "BF16", "F32"),
    "AVX512": ("Q2_K",),
    "DOTPROD": ("Q4_0", "IQ4_NL", "Q4_K", "MXFP4", "Q8_0", "Q5_K", "Q6_K", "Q1_0", "F16", "BF16", "F32"),
}


def fast_on(quantization: str) -> list[str]:
    """Return the instruction sets, keys of FAST_TYPES, on which a file of this type has a fast kernel."""
    return [feature for feature, kinds in FAST_TYPES.items() if _is_among(quantization, kinds)]


def best_types(features: Collection[str]) -> list[str]:
    """Return the types with a fast kernel on a CPU with these features, the best first; none where that is not known."""
    return list(dict.fromkeys(kind for feature, kinds in FAST_TYPES.items() if feature in features for kind in kinds))


def is_slow(quantization: str, features: Collection[str]) -> bool:
    """Return whether a file's type has no fast kernel on a CPU with these features; False where that is not known."""
    fast = best_types(features)
    return bool(fast and quantization) and not _is_among(quantization, fast)


def _is_among(quantization: str, kinds: Collection[str]) -> bool:
    # Q4_K_M is mostly Q4_K.
    return any(quantization == kind or quantization.startswith(f"{kind}_") for kind in kinds)
