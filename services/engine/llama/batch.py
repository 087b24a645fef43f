"""llama.cpp's batch over NumPy arrays, which are filled a run of tokens at a time."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt


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
        row, last = 0, []
        for run in runs:
            end = row + len(run.tokens)
            self._tokens[row:end] = run.tokens
            self._positions[row:end] = np.arange(run.start, run.start + len(run.tokens))
            self._slots[row:end] = run.slot
            self._sampled[row:end] = all_rows or run.all_rows
            self._sampled[end - 1] = run.sampled or run.all_rows
            last.append(end - 1)
            row = end
        self.native.n_tokens = row
        return last


def _pointer(array: npt.NDArray[Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))
