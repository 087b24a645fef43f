"""llama.cpp's batch over NumPy arrays, which are filled a run of tokens at a time."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from services.engine.llama.bindings import llama_cpp


@dataclass(frozen=True)
class Run:
    """Tokens of one slot to compute, from position `start` on.

    `sampled` asks for the logits after the last one, `all_rows` for those after each.
    """

    slot: int
    start: int
    tokens: Many[int]
    sampled: bool
    all_rows: bool = False


class Batch:
    """A batch of tokens. Owned by the engine's thread.

    Format: llama.h, struct llama_batch. Each token belongs to one sequence, so its list of sequences is one entry of
    `_slots`.
    """

    def __init__(self, capacity: int) -> None:
        """Allocate room for `capacity` tokens."""
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._slots = np.zeros(capacity, np.int32)
        self._sampled = np.zeros(capacity, np.int8)
        self._ones = np.ones(capacity, np.int32)
        self._lists = self._slots.ctypes.data + self._slots.itemsize * np.arange(capacity, dtype=np.uintp)
        self.native = llama_cpp.llama_batch()
        self.native.token = _pointer(self._tokens, llama_cpp.llama_token)
        self.native.pos = _pointer(self._positions, llama_cpp.llama_pos)
        self.native.n_seq_id = _pointer(self._ones, ctypes.c_int32)
        self.native.seq_id = _pointer(self._lists, ctypes.POINTER(llama_cpp.llama_seq_id))
        self.native.logits = _pointer(self._sampled, ctypes.c_int8)

    def fill(self, runs: Many[Run], all_rows: bool = False) -> list[int]:
        """Replace the batch's content by these runs; return each run's last row. `all_rows`: compute outputs for all."""
        # Lists first: numpy takes longer for each assignment than for each of a few tokens.
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        sampled: list[bool] = []
        last = []
        for run in runs:
            count = len(run.tokens)
            tokens += run.tokens
            positions += range(run.start, run.start + count)
            slots += [run.slot] * count
            sampled += [all_rows or run.all_rows] * count
            sampled[-1] = run.sampled or run.all_rows
            last.append(len(tokens) - 1)
        n_tokens = len(tokens)
        self._tokens[:n_tokens] = tokens
        self._positions[:n_tokens] = positions
        self._slots[:n_tokens] = slots
        self._sampled[:n_tokens] = sampled
        self.native.n_tokens = n_tokens
        return last


def logits_row(context: Any, row: int, size: int) -> npt.NDArray[np.float32]:
    """Return the `size` logits behind row `row` of a context's last batch, one for each token of the vocabulary.

    They are llama.cpp's own memory, until the next batch.
    """
    # np.ctypeslib.as_array takes ten times as long, for each token.
    first = llama_cpp.llama_get_logits_ith(context, row).contents
    return np.frombuffer(memoryview((ctypes.c_float * size).from_address(ctypes.addressof(first))), np.float32)


def _pointer(array: npt.NDArray[Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))
