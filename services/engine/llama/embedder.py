"""Embeddings: one vector a text, from a model and a context for embeddings alone."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as Many
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import override

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
# Seconds between two polls of a caller that waits for another's text.
_POLL_SECONDS = 0.25


class LlamaEmbedder(Embedder):
    """A loaded model that computes embeddings, one text at a time.

    Any thread may call it; `_lock` protects the context. One worker thread computes, since OpenMP keeps a team of threads
    for every thread that ever did. If a model names no pooling, the mean of its tokens' vectors is taken.
    """

    def __init__(self, settings: LoadSettings) -> None:
        """Load the model. Raises BadModelFile."""
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1, "embedder")
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
            if self._pooling == _RANK:
                raise BadModelFile(f"{settings.file.name} ranks texts, and makes no embeddings", param="model")
        except BaseException:
            self.close()
            raise
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = Batch(self._piece)
        self._width: int = llama_cpp.llama_model_n_embd(self._model)
        self.n_weights = int(llama_cpp.llama_model_size(self._model))
        logits = 2 * self._piece * size * ctypes.sizeof(ctypes.c_float) if self._memory else 0
        self.n_bytes = self.n_weights + native_log.take_cache_bytes() + logits

    def _make_context(self, settings: LoadSettings, pooling: int, n_ctx: int) -> Any:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = self._piece
        params.n_seq_max = 1
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
    def tokenize(self, prompt: Prompt) -> list[int]:
        self._vocabulary.check(prompt.ids, "input")
        return self._vocabulary.tokenize(prompt) + (self._vocabulary.ending if not prompt.ids else [])

    @override
    def embed(self, tokens: Many[int], poll: Callable[[], None] = lambda: None) -> tuple[list[float], Spent]:
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
            pieces = self._worker.submit(self._embed_pieces, tokens, poll).result()
            spent = Spent(len(tokens), cpu_seconds=round(time.process_time() - cpu, 6))
        finally:
            self._lock.release()
        if self._pooling == _MEAN:
            vector = sum((piece * count for piece, count in pieces), np.zeros(self._width, np.float32))
        else:
            vector = pieces[0 if self._pooling == _CLS else -1][0]
        length = float(np.linalg.norm(vector))
        return [float(value) for value in (vector / length if length else vector)], spent

    def _embed_pieces(self, tokens: Many[int], poll: Callable[[], None]) -> list[tuple[npt.NDArray[np.float32], int]]:
        """The vectors of a text's pieces, each with its number of tokens. Runs on the worker; `poll` may raise."""
        if self._memory:
            llama_cpp.llama_memory_clear(self._memory, True)
        pieces = []
        for start in range(0, len(tokens), self._piece):
            poll()
            piece = tokens[start : start + self._piece]
            pieces.append((self._embed_piece(start, piece), len(piece)))
        return pieces

    def _embed_piece(self, start: int, tokens: Many[int]) -> npt.NDArray[np.float32]:
        """The vector of a piece of the text, which begins at token `start`."""
        self._batch.fill([Run(0, start, tokens, sampled=True)], all_rows=True)
        compute = llama_cpp.llama_decode if self._memory else llama_cpp.llama_encode
        with self.clock:
            status = compute(self._context, self._batch.native)
        if status != 0:
            raise EngineFailure(f"llama.cpp could not make an embedding: {native_log.take_errors()}")
        first = llama_cpp.llama_get_embeddings_seq(self._context, 0)
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
