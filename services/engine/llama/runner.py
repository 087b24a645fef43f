"""A model and its context in llama.cpp: load, decode, sample, and the state of each slot."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence as Many
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from services.backend.types import GenerationRequest, LoadSettings
from services.engine.kv.checkpoints import Buffer
from services.engine.kv.slots import KvCache
from services.engine.kv.state import CutRule
from services.engine.llama import log as native_log
from services.engine.llama.batch import Batch, Run, logits_row
from services.engine.llama.bindings import llama_cpp
from services.engine.llama.constraint import Constraints
from services.engine.llama.loading import apply_adapters, context_params, fit_of, info_of, load_model, reason
from services.engine.llama.sampling import ChainSampler
from services.engine.llama.vocabulary import Vocabulary
from services.engine.machine import free_memory
from services.errors import BadModelFile, EngineFailure
from services.models.gguf import GgufInfo
from services.models.kv_shape import kv_shape
from services.models.memory import Fit, batch_capacity, longest_chunk

log = logging.getLogger(__name__)

# A predicted cache size that differs from llama.cpp's own by more than this share is logged.
TOLERANCE = 0.02

# llama.h, llama_decode: the abort callback ended it.
_ABORTED = 2
# Which part of a state is copied.
_WHOLE, _PARTIAL = llama_cpp.LLAMA_STATE_SEQ_FLAGS_NONE, llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
# The abort callback, called between any two operations, is C's strlen over two bytes of memory: not 0 aborts. A Python
# callback would need the GIL each time.
_STRLEN = ctypes.cast(ctypes.CDLL(None).strlen, llama_cpp.ggml_abort_callback)


class Interrupted(Exception):
    """A batch was interrupted: its runs' slots must be cut to where these start."""


class Runner(KvCache):
    """One model and its context of `n_slots` KV streams: `n_parallel`, or fewer if memory does not hold so many.

    Owned by the engine's thread, except for the vocabulary and `interrupt`.
    """

    def __init__(self, settings: LoadSettings, budget: int | None = None) -> None:
        """Load the model, with fewer slots if that makes it fit into `budget` bytes.

        Raises BadModelFile with llama.cpp's reason if that fails.
        """
        self._model: Any = None
        self._context: Any = None
        self._interrupted = ctypes.create_string_buffer(2)
        try:
            self._load(settings, budget)
        except BaseException:
            self.close()
            raise

    def _load(self, settings: LoadSettings, budget: int | None) -> None:
        name = settings.file.name
        # Before the weights are loaded: how much memory counts as free afterwards depends on the way they are loaded.
        free = free_memory()
        self._model = load_model(settings)
        if not llama_cpp.llama_model_has_decoder(self._model) or llama_cpp.llama_model_has_encoder(self._model):
            raise BadModelFile(f"{name} is not a model that goes on writing a text (a decoder)", param="model")
        self.vocabulary = Vocabulary(self._model)
        self._constraints = Constraints(self.vocabulary)
        info = info_of(settings)
        self.step_tokens = longest_chunk(settings.n_batch, kv_shape(info))
        capacity = batch_capacity(self.step_tokens, settings.n_parallel)
        fits = self._fit(settings, info, free, budget)
        self.n_ctx, self.n_slots = fits.n_ctx, fits.n_slots
        settings = replace(settings, swa_full=fits.swa_full)
        native_log.take_cache_bytes()
        self._context = llama_cpp.llama_init_from_model(
            self._model, context_params(settings, self.n_ctx, self.n_slots, capacity)
        )
        if not self._context:
            raise BadModelFile(
                f"llama.cpp cannot make a context of {self.n_ctx} tokens for {name}: {reason()}", param="model"
            )
        cache = _checked(name, fits.kv, native_log.take_cache_bytes())
        self.bytes_per_token = cache / self.n_slots / self.n_ctx
        self.n_weights, self.n_bytes = fits.weights, fits.weights + cache
        _tell(name, settings, info, fits, cache)
        if budget is not None and self.n_bytes > budget:
            what = "%s takes %d MB, and loaded models may take %d MB (--model-ram)"
            log.warning(what, name, self.n_bytes / 1e6, budget / 1e6)
        apply_adapters(settings, self._model, self._context)
        self._memory = llama_cpp.llama_get_memory(self._context)
        if not self._memory:
            raise BadModelFile(f"{name} is not a model that goes on writing a text: it keeps no context", param="model")
        self._batch = Batch(capacity)
        self.cut_rule = CutRule(
            anywhere=not (llama_cpp.llama_model_is_recurrent(self._model) or llama_cpp.llama_model_is_hybrid(self._model)),
            window=llama_cpp.llama_model_n_swa(self._model),
            chunked=info.architecture == "llama4",
        )
        llama_cpp.llama_set_abort_callback(self._context, _STRLEN, self._interrupted)

    def _fit(self, settings: LoadSettings, info: GgufInfo, free: int, budget: int | None) -> Fit:
        """Fit the model into `free` bytes. Raises BadModelFile if that is impossible."""
        trained = llama_cpp.llama_model_n_ctx_train(self._model)
        fits = fit_of(settings, info, free, budget, llama_cpp.llama_model_size(self._model), trained)
        if fits.problem:
            raise BadModelFile(f"{settings.file.name}: {fits.problem}", param=fits.param)
        return fits

    def decode(self, runs: Many[Run]) -> list[int]:
        """Compute the runs in one batch; return each run's last row, for its sampler.

        `runs` hold `step_tokens` tokens at most, and one more for each slot. Raises Interrupted; or
        EngineFailure, after which the KV cache must be cleared.
        """
        last = self._batch.fill(runs)
        status = llama_cpp.llama_decode(self._context, self._batch.native)
        if status == _ABORTED:
            raise Interrupted
        if status != 0:
            raise EngineFailure(f"llama.cpp could not compute the next step (status {status}): {reason()}")
        return last

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """Return a copy of the logits behind row `row` of the last batch, one for each token of the vocabulary."""
        return np.array(logits_row(self._context, row, self.vocabulary.size))

    def sampler(self, request: GenerationRequest) -> ChainSampler:
        """Make a sampler for one sequence. Any thread may call it. Raises InvalidRequest."""
        return ChainSampler(self._context, self.vocabulary, request, self._constraints.matcher)

    @override
    def can_keep(self, slot: int, n_tokens: int) -> bool:
        if not self.cut_rule.anywhere and n_tokens != self.n_used(slot):
            return False
        # llama.cpp would cut it even so, and compute with an incomplete window.
        first = llama_cpp.llama_memory_seq_pos_min(self._memory, slot) if n_tokens and self.cut_rule.window else 0
        return bool(0 <= first <= self.cut_rule.first_needed(n_tokens))

    @override
    def keep(self, slot: int, n_tokens: int) -> int:
        is_cut = n_tokens and llama_cpp.llama_memory_seq_rm(self._memory, slot, n_tokens, -1)
        if is_cut and self.n_used(slot) == n_tokens and self.can_keep(slot, n_tokens):
            return n_tokens
        llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1)
        return 0

    @override
    def snapshot(self, slot: int, partial: bool = False) -> Buffer:
        """Copy a slot's state, or its part, out in llama.cpp's own format (llama_state_seq_get_data_ext).

        Raises EngineFailure.
        """
        flags = _PARTIAL if partial else _WHOLE
        size = llama_cpp.llama_state_seq_get_size_ext(self._context, slot, flags)
        data = bytearray(size)
        raw = (ctypes.c_uint8 * size).from_buffer(data)
        if llama_cpp.llama_state_seq_get_data_ext(self._context, raw, size, slot, flags) != size:
            raise EngineFailure(f"llama.cpp could not copy a computed state: {reason()}")
        return data

    @override
    def restore(self, slot: int, data: Buffer, partial: bool = False) -> bool:
        """Copy a snapshot into a slot; False if llama.cpp refuses it, and the slot is then empty."""
        raw = (ctypes.c_uint8 * len(data)).from_buffer(data)
        flags = _PARTIAL if partial else _WHOLE
        if llama_cpp.llama_state_seq_set_data_ext(self._context, raw, len(data), slot, flags) == len(data):
            return True
        log.warning("llama.cpp refuses a computed state: %s", reason())
        llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1)
        return False

    def n_used(self, slot: int) -> int:
        """Return the number of tokens in a slot's KV cache."""
        return int(llama_cpp.llama_memory_seq_pos_max(self._memory, slot)) + 1

    def interrupt(self, wanted: bool = True) -> None:
        """Interrupt the current or the next `decode`, or stop doing so. Any thread may call it."""
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


def _checked(name: str, counted: int, actual: int) -> int:
    """The bytes of the KV caches: as counted from the file's header, or llama.cpp's own count if that differs."""
    # llama.cpp rounds to hundredths of a mebibyte, of each cache.
    if not actual or abs(counted - actual) <= max(TOLERANCE * actual, 2**15):
        return counted
    log.warning(
        "%s: the KV cache takes %.1f MB, and not %.1f MB as its header lets expect", name, actual / 1e6, counted / 1e6
    )
    return actual


def _tell(name: str, settings: LoadSettings, info: GgufInfo, fits: Fit, cache: int) -> None:
    """Log the context and the slots that the model was given, and why not more."""
    trained = info.context_length or 0
    if settings.n_ctx and fits.n_ctx < settings.n_ctx:
        log.warning("%s was trained on %d tokens, so n_ctx is %d and not %d", name, trained, fits.n_ctx, settings.n_ctx)
    if fits.n_slots < settings.n_parallel:
        each = cache / fits.n_slots / 1e6
        what = "%s: %d answers at once instead of %d, since the KV cache of each takes %d MB"
        log.warning(what, name, fits.n_slots, settings.n_parallel, each)
    why = " (all it was trained on)" if fits.n_ctx == trained else "" if settings.n_ctx else " (what memory holds)"
    answers = f"{fits.n_slots} answer{'s' if fits.n_slots > 1 else ''} at once"
    log.info("%s: a context of %d tokens%s, %s, KV cache %.0f MB", name, fits.n_ctx, why, answers, cache / 1e6)
