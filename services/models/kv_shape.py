"""The size of the KV cache that llama.cpp makes for a model, layer by layer, computed from its file's header alone.

Sources for the metadata's names and meaning: llama.cpp's src/llama-model.cpp (load_hparams, create_memory),
src/models/*.cpp (load_arch_hparams), src/llama-hparams.cpp and src/llama-kv-cache*.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from services.backend.types import CacheType
from services.models.gguf import GgufInfo
from services.models.gguf_types import TENSOR_TYPES

# llama.cpp rounds a cache up to a multiple of so many tokens.
CELLS = 256
# The most layers that llama.cpp takes (LLAMA_MAX_LAYERS and more).
MOST_LAYERS = 1024

_BLOCKS = {name.lower(): (block, block_bytes) for name, block, block_bytes in TENSOR_TYPES.values()}


@dataclass(frozen=True)
class _Windows:
    """An architecture's layers with a sliding window, unless the file lists them.

    Of each `every` layers all but the last have one, or all but the first if `full_first`. `every` 0: the file lists them.
    `length` is a fixed length in tokens, `default` the one if the file names none.
    """

    every: int = 0
    full_first: bool = False
    default: int = 0
    length: int = 0


_WINDOWS = {
    "afmoe": _Windows(4),
    "cohere2": _Windows(4),
    "cohere2moe": _Windows(4, full_first=True),
    "exaone-moe": _Windows(4, default=128),
    "exaone4": _Windows(4, default=4096),
    "gemma2": _Windows(2, default=4096),
    "gemma3": _Windows(6),
    "gemma3n": _Windows(5),
    "gemma4": _Windows(),
    "gpt-oss": _Windows(2),
    "granite_swa": _Windows(),
    "laguna": _Windows(4, full_first=True),
    "lfm2": _Windows(10**6),
    "llama4": _Windows(4, default=8192, length=8192),
    "maple": _Windows(),
    "mellum": _Windows(4),
    "mimo2": _Windows(),
    "muse-glimmer": _Windows(4),
    "olmo2": _Windows(4),
    "plamo3": _Windows(8),
    "smallthinker": _Windows(4, full_first=True, length=4096),
    "spark2_5": _Windows(),
    "step35": _Windows(),
}
# Only the model with so many layers has windows.
_WINDOWED_LAYERS = {"exaone4": 64}
_RECURRENT = {"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"}
# Hybrids: layers without KV heads are recurrent (_BY_HEADS); all but each nth are (_BY_INTERVAL); all are both (_BOTH).
_BY_HEADS = {
    "bailingmoe3",
    "granitehybrid",
    "jamba",
    "kimi-k3",
    "kimi-linear",
    "lfm2",
    "lfm2moe",
    "nemotron_h",
    "nemotron_h_moe",
    "plamo2",
}
_BY_INTERVAL = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4, "minimax-01": 8}
_BOTH = {"falcon-h1"}
# The layers that have their own KV cache; later ones share it.
_GEMMA3N_OWN = 20


@dataclass(frozen=True)
class KvLayer:
    """One layer's KV cache: the numbers of a token's key and value, and the window in tokens (0: unlimited)."""

    key: int
    value: int
    window: int = 0


@dataclass(frozen=True)
class KvShape:
    """A model's state of one conversation: the KV cache, layer by layer, and the bytes of its recurrent layers' states."""

    layers: tuple[KvLayer, ...]
    recurrent_bytes: int = 0
    chunked: bool = False
    """True if windows begin at multiples of their length instead of sliding."""

    @property
    def window(self) -> int:
        """The length of the windows in tokens; 0 if no layer has one."""
        return max((layer.window for layer in self.layers), default=0)

    def bytes(
        self,
        n_ctx: int,
        type_k: CacheType = "f16",
        type_v: CacheType = "f16",
        *,
        swa_full: bool = True,
        n_ubatch: int = 0,
        flash_attn: bool = True,
    ) -> int:
        """Return the bytes of one slot of `n_ctx` tokens.

        Without `swa_full`, layers with a window hold the window, and the `n_ubatch` tokens that are computed at once.
        """
        cells = padded(n_ctx)
        # Without flash attention llama.cpp transposes the values, and makes them as wide in every layer as in the widest.
        widest = 0 if flash_attn else max((layer.value for layer in self.layers), default=0)
        total = self.recurrent_bytes
        for layer in self.layers:
            held = cells if swa_full or not layer.window else padded(min(cells, layer.window + n_ubatch))
            value = max(layer.value, widest) if layer.value else 0
            total += held * (_row_bytes(type_k, layer.key) + _row_bytes(type_v, value))
        return total


def kv_shape(info: GgufInfo) -> KvShape:
    """Return the shape of the KV cache that llama.cpp makes for a model.

    Further state of some architectures, such as an index for sparse attention, is not counted.
    """

    def get(name: str) -> Any:
        return info.metadata.get(f"{info.architecture}.{name}")

    n_all = min(_number(get("block_count")), MOST_LAYERS)
    n_layers = max(n_all - _number(get("nextn_predict_layers")), 0)
    heads = _each(get("attention.head_count"), n_all)
    heads_kv = _each(get("attention.head_count_kv"), n_all) if get("attention.head_count_kv") is not None else heads
    width = _number(get("embedding_length")) // heads[0] if heads and heads[0] else 0
    key = _number(get("attention.key_length"), width)
    value = _number(get("attention.value_length"), width)
    window_key, window_value = (_number(get(f"attention.{n}_length_swa"), x) for n, x in (("key", key), ("value", value)))
    # Multi-head latent attention keeps only keys, from which the values are computed.
    is_latent = bool(get("attention.key_length_mla") and get("attention.value_length_mla"))
    length, windowed = _windows(info.architecture, get, n_layers)
    recurrent = _recurrent_layers(info.architecture, get, heads_kv, n_layers)
    n_own = min(_own_layers(info.architecture, get, n_all, n_layers), n_layers)
    layers = [
        KvLayer(
            heads_kv[n] * (window_key if windowed[n] else key),
            0 if is_latent else heads_kv[n] * (window_value if windowed[n] else value),
            length if windowed[n] else 0,
        )
        for n in range(n_own)
        if heads_kv[n] and (not recurrent[n] or info.architecture in _BOTH)
    ]
    state = _state_values(get, heads[0] if heads else 0, key, info.architecture) if any(recurrent) else 0
    # llama.cpp keeps recurrent states as 32-bit floats, whatever the cache's types.
    return KvShape(tuple(layers), 4 * state * sum(recurrent), info.architecture == "llama4")


def _windows(architecture: str, get: Callable[[str], Any], n_layers: int) -> tuple[int, list[bool]]:
    """The windows' length in tokens, and for each layer a flag that it has one."""
    windows, none = _WINDOWS.get(architecture), (0, [False] * n_layers)
    if not windows or n_layers != _WINDOWED_LAYERS.get(architecture, n_layers):
        return none
    said = get("attention.sliding_window")
    length = windows.default if said is None else _number(said)
    if not length:
        return none
    pattern = get("attention.sliding_window_pattern")
    if isinstance(pattern, list):
        return windows.length or length, [bool(each) for each in pattern[:n_layers]] + [False] * (n_layers - len(pattern))
    every = _number(pattern, windows.every)
    at = 0 if windows.full_first else every - 1
    return windows.length or length, [every == 0 or n % every != at for n in range(n_layers)]


def _recurrent_layers(architecture: str, get: Callable[[str], Any], heads_kv: list[int], n_layers: int) -> list[bool]:
    """For each layer a flag that it keeps a state of fixed size."""
    if architecture in _RECURRENT or architecture in _BOTH:
        return [True] * n_layers
    if architecture in _BY_HEADS:
        # In Nemotron-H, pure feed-forward layers keep no state.
        feeds = _each(get("feed_forward_length"), n_layers) if architecture.startswith("nemotron") else [0] * n_layers
        return [not heads_kv[n] and not feeds[n] for n in range(n_layers)]
    if architecture in _BY_INTERVAL:
        listed = get("attention.recurrent_layers")
        if listed is not None:
            return [bool(each) for each in _each(listed, n_layers)]
        interval = _number(get("full_attention_interval")) or _BY_INTERVAL[architecture]
        return [(n + 1) % interval != 0 for n in range(n_layers)]
    return [False] * n_layers


def _state_values(get: Callable[[str], Any], n_head: int, key: int, architecture: str) -> int:
    """The number of values in one recurrent layer's state (llama_hparams::n_embd_r and n_embd_s)."""
    width, kernel = _number(get("embedding_length")), _number(get("ssm.conv_kernel"))
    inner, state = _number(get("ssm.inner_size")), _number(get("ssm.state_size"))
    if head_size := _number(get("wkv.head_size")):
        return _number(get("token_shift_count"), 2) * width + width * head_size
    if cache := _number(get("shortconv.l_cache")):
        return width * (cache - 1) + state * inner
    if head_size := _number(get("kda.head_dim")):
        return 3 * (kernel - 1 if kernel else 3) * n_head * head_size + head_size * head_size * n_head
    convolved = (kernel - 1 if kernel else 0) * (inner + 2 * _number(get("ssm.group_count")) * state)
    return convolved + (key * key * n_head if architecture == "minimax-01" else state * inner)


def _own_layers(architecture: str, get: Callable[[str], Any], n_all: int, n_layers: int) -> int:
    """The number of layers, from the first on, that have their own KV cache."""
    if architecture == "gemma3n":
        return min(n_layers, _GEMMA3N_OWN)
    if architecture == "gemma4":
        return n_all - _number(get("attention.shared_kv_layers"))
    return n_layers


def _each(value: Any, n_layers: int) -> list[int]:
    """A number for each layer, from one number for all, or from a list."""
    listed = value[:n_layers] if isinstance(value, list) else [value] * n_layers
    return [int(each) if isinstance(each, bool) else _number(each) for each in listed] + [0] * (n_layers - len(listed))


def _number(value: Any, default: int = 0) -> int:
    """A count from a file's metadata, or the default if it is no count."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else default


def padded(n_tokens: int) -> int:
    """The size in tokens of the cache that llama.cpp makes for `n_tokens`."""
    return -(-n_tokens // CELLS) * CELLS


def _row_bytes(cache_type: CacheType, n_values: int) -> int:
    block, block_bytes = _BLOCKS[cache_type]
    return -(-n_values // block) * block_bytes
