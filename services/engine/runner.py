"""The model in llama.cpp: load, decode, sample. Owned by the engine's thread, but for its vocabulary."""

from __future__ import annotations

import ctypes
import hashlib
import logging
from collections.abc import Sequence as Many
from typing import Any

import llama_cpp

from services.backend import CacheType, GenerationRequest, LoadSettings
from services.engine import native_log
from services.engine.batch import Batch, Run
from services.engine.machine import free_memory, usable_cores
from services.engine.sampling import ChainSampler
from services.engine.state import Buffer
from services.engine.vocabulary import Vocabulary
from services.errors import BadModelFile, EngineFailure
from services.models.gguf import TENSOR_TYPES

log = logging.getLogger(__name__)

# Longest chunk that one step computes. Reading in chunks of 128 is within 2 % of the speed of 512 (DESIGN.md), and a
# request that is cancelled, or that comes, waits for one chunk at most.
STEP_TOKENS = 128
UBATCH = 512

_TYPE_NUMBERS = {name.lower(): number for number, (name, _, _) in TENSOR_TYPES.items()}
# llama.h, llama_decode: the abort callback ended it.
_ABORTED = 2
# llama.cpp asks between any two operations whether to go on. C's own strlen answers from two bytes of memory: a callback
# in Python would need the interpreter's lock each time.
_STRLEN = ctypes.cast(ctypes.CDLL(None).strlen, llama_cpp.ggml_abort_callback)
# llama.h, enum llama_load_mode, by (use_mmap, use_mlock).
_LOAD_MODES = {(False, False): 0, (True, False): 1, (False, True): 2, (True, True): 3}


class Interrupted(Exception):
    """llama.cpp was told to stop in the middle of a batch; `kept` is how many tokens each run's slot still holds."""

    def __init__(self, kept: Many[int]) -> None:
        super().__init__(kept)
        self.kept = kept


class Runner:
    """One model and its context of `n_slots` KV streams: `n_parallel`, or fewer where memory would not hold so many."""

    def __init__(self, settings: LoadSettings) -> None:
        """Load the model. Raises BadModelFile with llama.cpp's own words where that fails."""
        self._model: Any = None
        self._context: Any = None
        self._interrupted = ctypes.create_string_buffer(2)
        try:
            self._load(settings)
        except BaseException:
            self.close()
            raise

    def _load(self, settings: LoadSettings) -> None:
        name = settings.file.name
        # Read before the weights are: how much of them counts as free afterwards depends on how they are loaded.
        free = free_memory()
        self._model = load_model(settings)
        if not llama_cpp.llama_model_has_decoder(self._model) or llama_cpp.llama_model_has_encoder(self._model):
            raise BadModelFile(f"{name} is not a model that goes on writing a text (a decoder)", param="model")
        self.vocabulary = Vocabulary(self._model)
        trained = llama_cpp.llama_model_n_ctx_train(self._model) or settings.n_ctx
        self.n_ctx = min(settings.n_ctx, trained)
        if trained < settings.n_ctx:
            log.warning("%s was trained on %d tokens, so n_ctx is %d and not %d", name, trained, trained, settings.n_ctx)
        self.bytes_per_token = self._cache_bytes_per_token(settings)
        self.n_slots = self._affordable_slots(settings, free)
        self.n_bytes = int(llama_cpp.llama_model_size(self._model) + self.n_slots * self.n_ctx * self.bytes_per_token)
        self.n_bytes += sum(adapter.file.stat().st_size for adapter in settings.lora)
        self.step_tokens = settings.n_batch or STEP_TOKENS
        # Beside a chunk, which may be a token longer (pace.py), every slot must be able to decode in the same step.
        capacity = self.step_tokens + 1 + self.n_slots
        params = _context_params(settings, self.n_ctx, self.n_slots, capacity)
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise BadModelFile(
                f"llama.cpp cannot make a context of {self.n_ctx} tokens for {name}: {_reason()}", param="model"
            )
        apply_adapters(settings, self._model, self._context)
        self._memory = llama_cpp.llama_get_memory(self._context)
        if not self._memory:
            raise BadModelFile(f"{name} is not a model that goes on writing a text: it keeps no context", param="model")
        self._batch = Batch(capacity)
        self.can_cut = not (llama_cpp.llama_model_is_recurrent(self._model) or llama_cpp.llama_model_is_hybrid(self._model))
        llama_cpp.llama_set_abort_callback(self._context, _STRLEN, self._interrupted)

    def _affordable_slots(self, settings: LoadSettings, free: int) -> int:
        """As many slots as the profile wants and half of the memory beside the weights holds; one at least.

        Raises BadModelFile where not even that fits.
        """
        each = self.n_ctx * self.bytes_per_token
        if each > free:
            # Weights that are mapped may leave memory again, a KV cache may not.
            what = f"a context of {self.n_ctx} tokens takes {each / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free"
            raise BadModelFile(f"{settings.file.name}: {what}; a smaller n_ctx takes less", param="n_ctx")
        free -= llama_cpp.llama_model_size(self._model)
        n_slots = max(1, min(settings.n_parallel, int(free / 2 / max(each, 1))))
        if n_slots < settings.n_parallel:
            log.warning(
                "%s: %d answers at once instead of %d, since the KV cache of each takes %d MB",
                settings.file.name,
                n_slots,
                settings.n_parallel,
                each / 1e6,
            )
        return n_slots

    def _cache_bytes_per_token(self, settings: LoadSettings) -> float:
        """What one token takes in the KV cache, over all layers; too much for models that do without it in some."""
        n_head = max(1, llama_cpp.llama_model_n_head(self._model))
        n_head_kv = llama_cpp.llama_model_n_head_kv(self._model) or n_head
        width = llama_cpp.llama_model_n_embd(self._model) // n_head
        k = self._metadata("attention.key_length", width) * _value_bytes(settings.cache_type_k)
        v = self._metadata("attention.value_length", width) * _value_bytes(settings.cache_type_v)
        return float(llama_cpp.llama_model_n_layer(self._model) * n_head_kv * (k + v))

    def _metadata(self, name: str, default: int) -> int:
        """A number of the architecture's metadata (GGUF, `ARCHITECTURE.name`)."""
        architecture = self._text_metadata("general.architecture")
        text = self._text_metadata(f"{architecture}.{name}")
        return int(text) if text.isdigit() else default

    def _text_metadata(self, key: str) -> str:
        buffer = ctypes.create_string_buffer(256)
        length = llama_cpp.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if length > 0 else ""

    def decode(self, runs: Many[Run]) -> list[int]:
        """Compute the runs in one batch; return each run's last row, for its sampler.

        `runs` hold `step_tokens` tokens at most, and one more for each slot. Raises Interrupted, and nothing of the runs
        is kept; EngineFailure, and the KV cache is then to be cleared.
        """
        last = self._batch.fill(runs)
        status = llama_cpp.llama_decode(self._context, self._batch.native)
        if status == _ABORTED:
            raise Interrupted([self.keep(run.slot, run.start) for run in runs])
        if status != 0:
            raise EngineFailure(f"llama.cpp could not compute the next step (status {status}): {_reason()}")
        return last

    def sampler(self, request: GenerationRequest) -> ChainSampler:
        """A sampler for one sequence; for any thread. Raises InvalidRequest."""
        return ChainSampler(self._context, self.vocabulary, request)

    def keep(self, slot: int, n_tokens: int) -> int:
        """Cut a slot's KV cache down to its first `n_tokens`; return how many it kept.

        Some architectures (recurrent ones) cannot be cut, and keep none.
        """
        if n_tokens and llama_cpp.llama_memory_seq_rm(self._memory, slot, n_tokens, -1):
            return n_tokens
        llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1)
        return 0

    def snapshot(self, slot: int) -> Buffer:
        """A copy of what a slot's KV cache holds, in llama.cpp's own form. Raises EngineFailure."""
        size = llama_cpp.llama_state_seq_get_size(self._context, slot)
        data = bytearray(size)
        raw = (ctypes.c_uint8 * size).from_buffer(data)
        if llama_cpp.llama_state_seq_get_data(self._context, raw, size, slot) != size:
            raise EngineFailure(f"llama.cpp could not copy a computed state: {_reason()}")
        return data

    def restore(self, slot: int, data: Buffer) -> bool:
        """Lay a snapshot on an empty slot; False where llama.cpp refuses it, and the slot then is empty."""
        raw = (ctypes.c_uint8 * len(data)).from_buffer(data)
        if llama_cpp.llama_state_seq_set_data(self._context, raw, len(data), slot) == len(data):
            return True
        log.warning("llama.cpp refuses a computed state: %s", _reason())
        llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1)
        return False

    def n_used(self, slot: int) -> int:
        """How many tokens a slot's KV cache holds."""
        return int(llama_cpp.llama_memory_seq_pos_max(self._memory, slot)) + 1

    def interrupt(self, wanted: bool = True) -> None:
        """End the `decode` that is under way, or that comes, or no longer; for any thread."""
        self._interrupted[0] = b"1" if wanted else b"\0"

    def clear(self) -> None:
        """Empty every slot's KV cache."""
        llama_cpp.llama_memory_clear(self._memory, True)

    def close(self) -> None:
        """Free the context and the model."""
        if self._context:
            llama_cpp.llama_free(self._context)
        if self._model:
            llama_cpp.llama_model_free(self._model)
        self._context = self._model = None


def _check_room(settings: LoadSettings) -> None:
    """Raises BadModelFile, with both numbers, where the weights are larger than the memory that is free."""
    files = (settings.file, *(adapter.file for adapter in settings.lora))
    # What is not there llama.cpp will say.
    size, free = sum(file.stat().st_size for file in files if file.is_file()), free_memory()
    if size > free:
        what = f"{settings.file.name} takes {size / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free"
        raise BadModelFile(f"{what}; a smaller model, or a smaller quantization of it, would fit", param="model")


def load_model(settings: LoadSettings) -> Any:
    """The model's weights, as llama.cpp's pointer. Raises BadModelFile with llama.cpp's own words where that fails."""
    _check_room(settings)
    native_log.show_all(settings.verbose)
    native_log.take_errors()
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(str(settings.file).encode(), _model_params(settings))
    if not model:
        raise BadModelFile(f"llama.cpp cannot load {settings.file.name}: {_reason()}", param="model")
    return model


def apply_adapters(settings: LoadSettings, model: Any, context: Any) -> None:
    """Have a context compute with the settings' LoRA adapters, which are freed with the model. Raises BadModelFile."""
    wanted = [adapter for adapter in settings.lora if adapter.scale]
    if not wanted:
        return
    loaded = (llama_cpp.llama_adapter_lora_p_ctypes * len(wanted))()
    for n, adapter in enumerate(wanted):
        loaded[n] = llama_cpp.llama_adapter_lora_init(model, str(adapter.file).encode())
        if not loaded[n]:
            what = f"llama.cpp cannot apply the adapter {adapter.file.name} to {settings.file.name}: {_reason()}"
            raise BadModelFile(what, param="model")
    scales = (ctypes.c_float * len(wanted))(*(adapter.scale for adapter in wanted))
    if llama_cpp.llama_set_adapters_lora(context, loaded, len(wanted), scales) != 0:
        raise BadModelFile(f"llama.cpp cannot apply the adapters to {settings.file.name}: {_reason()}", param="model")


def fingerprint(settings: LoadSettings, n_ctx: int) -> str:
    """A name for the model file and all settings that change what is computed with it."""
    parts = (
        llama_cpp.__version__,
        settings.file.name,
        settings.stamp,
        *((adapter.file.name, adapter.stamp, adapter.scale) for adapter in settings.lora),
        n_ctx,
        settings.flash_attn,
        settings.cache_type_k,
        settings.cache_type_v,
        settings.n_gpu_layers,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _model_params(settings: LoadSettings) -> Any:
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = settings.n_gpu_layers
    params.load_mode = _LOAD_MODES[settings.use_mmap, settings.use_mlock]
    return params


def _context_params(settings: LoadSettings, n_ctx: int, n_slots: int, capacity: int) -> Any:
    cores = usable_cores()
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = n_ctx * n_slots
    params.n_seq_max = n_slots
    params.kv_unified = False
    params.n_batch = capacity
    params.n_ubatch = min(settings.n_ubatch or UBATCH, capacity)
    params.n_threads = settings.n_threads or cores
    params.n_threads_batch = settings.n_threads_batch or settings.n_threads or cores
    params.flash_attn_type = int(settings.flash_attn)
    params.type_k = _TYPE_NUMBERS[settings.cache_type_k]
    params.type_v = _TYPE_NUMBERS[settings.cache_type_v]
    params.no_perf = True
    return params


def _value_bytes(cache_type: CacheType) -> float:
    _, block, block_bytes = TENSOR_TYPES[_TYPE_NUMBERS[cache_type]]
    return block_bytes / block


def _reason() -> str:
    return native_log.take_errors() or "it gives no reason"
