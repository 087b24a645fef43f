"""Loading a model into llama.cpp: its weights, its adapters, and the parameters of its context."""

from __future__ import annotations

import ctypes
import hashlib
from dataclasses import replace
from typing import Any

from services.backend.types import LoadSettings
from services.engine.kv.state import FILE_PART
from services.engine.llama import log as native_log
from services.engine.llama.bindings import VERSION, llama_cpp
from services.engine.machine import free_memory, usable_cores
from services.errors import BadModelFile
from services.models.gguf import BadGguf, GgufInfo
from services.models.gguf_types import TENSOR_TYPES
from services.models.memory import Fit, computed_at_once, fit, ubatch
from services.models.split import part_paths, read_model

_TYPE_NUMBERS = {name.lower(): number for number, (name, _, _) in TENSOR_TYPES.items()}
# llama.h, enum llama_load_mode, by (use_mmap, use_mlock).
_LOAD_MODES = {(False, False): 0, (True, False): 1, (False, True): 2, (True, True): 3}


def _check_room(settings: LoadSettings) -> None:
    """Raise BadModelFile, with both numbers, if the weights are larger than the free memory."""
    files = (*part_paths(settings.file), *(adapter.file for adapter in settings.lora))
    # Missing files are reported by llama.cpp.
    size, free = sum(file.stat().st_size for file in files if file.is_file()), free_memory()
    if size > free:
        what = f"{settings.file.name} takes {size / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free"
        raise BadModelFile(f"{what}; a smaller model, or a smaller quantization of it, would fit", param="model")


def load_model(settings: LoadSettings) -> Any:
    """Load the model's weights; return llama.cpp's pointer to the model. Raises BadModelFile with llama.cpp's reason."""
    _check_room(settings)
    native_log.show_all(settings.verbose)
    native_log.take_errors()
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(str(settings.file).encode(), _model_params(settings))
    if not model:
        raise BadModelFile(f"llama.cpp cannot load {settings.file.name}: {reason()}", param="model")
    return model


def apply_adapters(settings: LoadSettings, model: Any, context: Any) -> None:
    """Apply the settings' LoRA adapters to a context; they are freed with the model. Raises BadModelFile."""
    wanted = [adapter for adapter in settings.lora if adapter.scale]
    if not wanted:
        return
    loaded = (llama_cpp.llama_adapter_lora_p_ctypes * len(wanted))()
    for n, adapter in enumerate(wanted):
        loaded[n] = llama_cpp.llama_adapter_lora_init(model, str(adapter.file).encode())
        if not loaded[n]:
            what = f"llama.cpp cannot apply the adapter {adapter.file.name} to {settings.file.name}: {reason()}"
            raise BadModelFile(what, param="model")
    scales = (ctypes.c_float * len(wanted))(*(adapter.scale for adapter in wanted))
    if llama_cpp.llama_set_adapters_lora(context, loaded, len(wanted), scales) != 0:
        raise BadModelFile(f"llama.cpp cannot apply the adapters to {settings.file.name}: {reason()}", param="model")


def info_of(settings: LoadSettings) -> GgufInfo:
    """Read the headers of the model's files. Raises BadModelFile."""
    try:
        return read_model(settings.file)
    except BadGguf as error:
        raise BadModelFile(f"{settings.file.name}: {error}", param="model") from error


def fit_of(
    settings: LoadSettings, info: GgufInfo, free: int, budget: int | None, weights: int, trained: int | None = None
) -> Fit:
    """Fit a model into `free` bytes, and into the `budget` of bytes for loaded models if there is one.

    `weights` are the bytes of its files or tensors, without adapters; `trained` is the training context in tokens that
    llama.cpp reports of a loaded model.
    """
    return fit(
        replace(info, context_length=trained or info.context_length),
        free,
        n_ctx=settings.n_ctx,
        n_parallel=settings.n_parallel,
        type_k=settings.cache_type_k,
        type_v=settings.cache_type_v,
        swa_full=settings.swa_full,
        n_ubatch=computed_at_once(info, settings.n_batch, settings.n_ubatch, settings.n_parallel),
        flash_attn=settings.flash_attn,
        weights=weights + sum(adapter.file.stat().st_size for adapter in settings.lora),
        budget=budget,
    )


def fingerprint(settings: LoadSettings, n_ctx: int) -> str:
    """A hash of the model file (its first FILE_PART characters), and of all settings that change its computed states."""
    return _digest(settings.file.name, settings.stamp) + _digest(
        VERSION,
        *((adapter.file.name, adapter.stamp, adapter.scale) for adapter in settings.lora),
        n_ctx,
        settings.flash_attn,
        settings.cache_type_k,
        settings.cache_type_v,
        settings.swa_full,
        settings.n_gpu_layers,
    )


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:FILE_PART]


def _model_params(settings: LoadSettings) -> Any:
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = settings.n_gpu_layers
    params.load_mode = _LOAD_MODES[settings.use_mmap, settings.use_mlock]
    return params


def context_params(settings: LoadSettings, n_ctx: int, n_slots: int, capacity: int) -> Any:
    """The parameters of a context of `n_slots` KV streams of `n_ctx` tokens each, and of batches of `capacity` tokens."""
    cores = usable_cores()
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = n_ctx * n_slots
    params.n_seq_max = n_slots
    params.kv_unified = False
    params.n_batch = capacity
    params.n_ubatch = ubatch(settings.n_ubatch, capacity)
    params.n_threads = settings.n_threads or cores
    params.n_threads_batch = settings.n_threads_batch or settings.n_threads or cores
    params.flash_attn_type = int(settings.flash_attn)
    params.type_k = _TYPE_NUMBERS[settings.cache_type_k]
    params.type_v = _TYPE_NUMBERS[settings.cache_type_v]
    params.swa_full = bool(settings.swa_full)
    params.no_perf = True
    return params


def reason() -> str:
    """llama.cpp's last error messages, as the reason of a failure."""
    return native_log.take_errors() or "it gives no reason"
