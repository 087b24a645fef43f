"""Embeddings: one vector a text, from a model and a context for embeddings alone; or scores, from a model that ranks."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as Many
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from services.backend.batches import batches_of
from services.backend.protocols import Embedder
from services.backend.types import LoadSettings, Prompt, Spent
from services.engine.llama import log as native_log
from services.engine.llama.batch import Batch, Run
from services.engine.llama.bindings import llama_cpp
from services.engine.llama.loading import apply_adapters, load_model
from services.engine.llama.vocabulary import Vocabulary
from services.engine.loop.step_clock import StepClock
from services.engine.machine import usable_cores
from services.errors import BadModelFile, EngineFailure, InvalidRequest, Unavailable, input_too_long
from services.models.memory import LONGEST_TEXT

# llama.h, enum llama_pooling_type.
_NONE, _MEAN, _CLS, _LAST, _RANK = 0, 1, 2, 3, 4
# With causal attention a text can be computed in pieces of so many tokens. llama.cpp computes and copies logits for each
# token too: with a large vocabulary the pieces are smaller, so that a piece has MOST_LOGITS at most.
PIECE, LEAST_PIECE = 128, 16
MOST_LOGITS = 2**23
# The priority of the threads that compute texts (0: as any others; 19: the least).
NICE = 10
# The most texts that are computed together.
MOST_TOGETHER = 32
Vector = npt.NDArray[np.float32]
# Seconds between two polls of a caller that waits for another's text.
_POLL_SECONDS = 0.25


class LlamaEmbedder(Embedder):
    """A loaded model that computes embeddings, or scores pairs of texts.

    Any thread may call it; `_lock` protects the context. One worker thread computes, since OpenMP keeps a team of threads
    for every thread that ever did. If a model names no pooling, the mean of its tokens' vectors is taken.
    """

    def __init__(self, settings: LoadSettings) -> None:
        """Load the model. Raises BadModelFile."""
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1, "embedder", _give_way)
        self._context: Any = None
        self.clock = StepClock()
        """Measures the time of each piece."""
        self._model = load_model(settings)
        try:
            self._vocabulary = Vocabulary(self._model)
            self.chat_format = self._vocabulary.chat_format
            trained = llama_cpp.llama_model_n_ctx_train(self._model)
            self.n_ctx = min(settings.n_ctx or LONGEST_TEXT, trained or LONGEST_TEXT)
            size = self._vocabulary.size
            self._piece = min(self.n_ctx, PIECE, max(LEAST_PIECE, MOST_LOGITS // size))
            self._together = self._piece
            # Each text together with others would have a state of its own, which may be large.
            has_states = llama_cpp.llama_model_is_recurrent(self._model) or llama_cpp.llama_model_is_hybrid(self._model)
            self._most_texts = 1 if has_states else MOST_TOGETHER
            # A small context reveals the model's pooling.
            default = llama_cpp.llama_context_default_params().pooling_type
            self._context = self._make_context(settings, default, self._piece)
            self._pooling = _NONE
            if self._context:
                self._pooling = llama_cpp.llama_pooling_type(self._context) or _MEAN
                takes_pieces = bool(llama_cpp.llama_get_memory(self._context))
                llama_cpp.llama_free(self._context)
                native_log.take_cache_bytes()
                self._piece = self._piece if takes_pieces else self.n_ctx
                self._context = self._make_context(settings, self._pooling, self.n_ctx)
            if not self._context:
                raise BadModelFile(f"llama.cpp cannot make embeddings with {settings.file.name}", param="model")
            apply_adapters(settings, self._model, self._context)
        except BaseException:
            self.close()
            raise
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = Batch(self._piece)
        self.ranks = self._pooling == _RANK
        n_scores = max(int(llama_cpp.llama_model_n_cls_out(self._model)), 1) if self.ranks else 0
        self._width = n_scores or int(llama_cpp.llama_model_n_embd(self._model))
        self.n_weights = int(llama_cpp.llama_model_size(self._model))
        logits = 2 * self._piece * size * ctypes.sizeof(ctypes.c_float) if self._memory else 0
        self.n_bytes = self.n_weights + native_log.take_cache_bytes() + logits

    def _make_context(self, settings: LoadSettings, pooling: int, n_ctx: int) -> Any:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = self._piece
        params.n_seq_max = self._most_texts
        # The texts of one piece share the context's cells.
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = settings.n_threads_batch or settings.n_threads or usable_cores()
        params.embeddings = True
        params.pooling_type = pooling
        params.no_perf = True
        return llama_cpp.llama_init_from_model(self._model, params)

    @property
    def is_open(self) -> bool:
        """True while the model is in memory."""
        return self._context is not None

    @override
    def tokenize_all(self, prompts: Many[Prompt]) -> list[list[int]]:
        for prompt in prompts:
            self._vocabulary.check(prompt.ids, "input")
        ending = self._vocabulary.ending
        return [self._vocabulary.tokenize(prompt) + (ending if not prompt.ids else []) for prompt in prompts]

    @override
    def tokenize_pairs(self, query: str, documents: Many[str]) -> list[list[int]]:
        return self._vocabulary.tokenize_pairs(query, documents)

    @override
    def embed(self, texts: Many[Many[int]], poll: Callable[[], None] = lambda: None) -> tuple[list[list[float]], Spent]:
        for tokens in texts:
            if not tokens:
                raise InvalidRequest("the input holds no tokens", param="input")
            if len(tokens) > self.n_ctx:
                raise input_too_long(len(tokens), self.n_ctx)
        while not self._lock.acquire(timeout=_POLL_SECONDS):
            poll()
        try:
            if self._context is None:
                raise Unavailable("the model has left memory", code="engine_down", retry_after=1)
            cpu = time.process_time()
            vectors = self._worker.submit(self._embed_all, texts, poll).result()
            spent = Spent(sum(map(len, texts)), cpu_seconds=round(time.process_time() - cpu, 6))
        finally:
            self._lock.release()
        return [vector.tolist() if self.ranks else _normalized(vector) for vector in vectors], spent

    def _embed_all(self, texts: Many[Many[int]], poll: Callable[[], None]) -> list[Vector]:
        """The vectors of texts. Runs on the worker; `poll` may raise."""
        vectors: list[Vector] = []
        for group in batches_of(texts, len, self._together, self._most_texts):
            self._clear()
            if len(group) > 1 or len(group[0]) <= self._piece:
                vectors += self._compute([Run(n, 0, tokens, sampled=True) for n, tokens in enumerate(group)], poll)
            else:
                vectors.append(self._embed_pieces(group[0], poll))
        return vectors

    def _embed_pieces(self, tokens: Many[int], poll: Callable[[], None]) -> Vector:
        """The vector of a long text, piece by piece."""
        pieces = []
        for start in range(0, len(tokens), self._piece):
            piece = tokens[start : start + self._piece]
            (vector,) = self._compute([Run(0, start, piece, sampled=True)], poll)
            pieces.append((vector, len(piece)))
        if self._pooling != _MEAN:
            return pieces[0 if self._pooling == _CLS else -1][0]
        total: Vector = np.sum([vector * count for vector, count in pieces], axis=0, dtype=np.float32)
        return total

    def _clear(self) -> None:
        if self._memory:
            llama_cpp.llama_memory_clear(self._memory, True)

    def _compute(self, runs: list[Run], poll: Callable[[], None]) -> list[Vector]:
        """Compute one piece, which has each run's text or a part of it; return each run's vector."""
        poll()
        self._batch.fill(runs, all_rows=True)
        compute = llama_cpp.llama_decode if self._memory else llama_cpp.llama_encode
        with self.clock:
            status = compute(self._context, self._batch.native)
        if status != 0:
            raise EngineFailure(f"llama.cpp could not make an embedding: {native_log.take_errors()}")
        return [self._vector(run.slot) for run in runs]

    def _vector(self, slot: int) -> Vector:
        first = llama_cpp.llama_get_embeddings_seq(self._context, slot)
        if not first:
            raise EngineFailure("llama.cpp made no embedding")
        return np.array(np.ctypeslib.as_array(first, (self._width,)))

    def forget(self, owner: str, session: str) -> None:
        """Do nothing: no state of a conversation is kept."""

    def stop(self) -> None:
        """Close it, after the text that is being computed."""
        self.close()

    def close(self) -> None:
        """Free the context and the model."""
        with self._lock:
            if self._context:
                llama_cpp.llama_free(self._context)
            if self._model:
                llama_cpp.llama_model_free(self._model)
            self._context = self._model = None
        self._worker.shutdown(wait=False)


def _give_way() -> None:
    """Have the threads that compute texts, this one and those that it starts, give way to those that compute answers."""
    # Where the system has no priorities of threads, they share the cores evenly.
    with suppress(AttributeError, OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def _normalized(vector: Vector) -> list[float]:
    """Return a vector of length 1."""
    length = float(np.linalg.norm(vector))
    scaled: list[float] = (vector / length if length else vector).tolist()
    return scaled
