"""Vectors of chunks: kept beside the index, file by file, and compared with a question's one by one.

A file's vectors by a model are one value: a byte for each number, and for each vector its length (float32) at the end. All
of a search's files are looked through, which takes about as long as reading them: no index of vectors has to be kept right.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.documents.database import DocumentDatabase

# The largest number of a vector, as a signed byte.
_LARGEST = 127


@dataclass(frozen=True)
class Near:
    """A chunk by its number, the cosine of its vector and the question's, and how far that is above those of all chunks.

    `distance` counts standard deviations.
    """

    chunk: int
    cosine: float
    distance: float


class Vectors:
    """The vectors of all files. Any thread may call it. All raise StorageFailed, Unavailable."""

    def __init__(self, database: DocumentDatabase) -> None:
        self._database = database

    def missing(self, model: str) -> list[int]:
        """Return the numbers of the files that have no vectors by a model, the newest first."""
        query = (
            "SELECT number FROM files WHERE number NOT IN (SELECT file FROM vectors WHERE model = ?) ORDER BY number DESC"
        )
        return [number for (number,) in self._database.read(query, model)]

    def add(self, file: int, model: str, vectors: Sequence[Sequence[float]]) -> None:
        """Store the vectors of a file's chunks, in their order; nothing if the file is gone by now."""
        import numpy as np

        rows = np.asarray(vectors, np.float32)
        scale = np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-12)
        small = np.rint(rows / scale * _LARGEST).astype(np.int8)
        lengths = np.linalg.norm(small.astype(np.float32), axis=1).astype(np.float32)
        with self._database.writing(is_own=True) as db:
            if db.execute("SELECT 1 FROM files WHERE number = ?", (file,)).fetchone():
                query = "INSERT OR REPLACE INTO vectors (file, model, data) VALUES (?, ?, ?)"
                db.execute(query, (file, model, small.tobytes() + lengths.tobytes()))

    def keep_only(self, models: Sequence[str]) -> None:
        """Remove the vectors by other models than these."""
        others = "FROM vectors WHERE model NOT IN (SELECT value FROM json_each(?))"
        if self._database.read(f"SELECT 1 {others} LIMIT 1", json.dumps(models)):
            with self._database.writing(is_own=True) as db:
                db.execute(f"DELETE {others}", (json.dumps(models),))

    def nearest(self, question: Sequence[float], files: list[int], model: str, k: int) -> list[Near]:
        """Return the `k` chunks of these files whose vectors are nearest to a question's, the nearest first."""
        import numpy as np

        asked = np.asarray(question, np.float32)
        asked /= max(float(np.linalg.norm(asked)), 1e-12)
        cosines: list[Any] = []
        numbers: list[Any] = []
        for file in files:
            # One at a time: together they may be more than the memory that a search should take.
            for first, data in self._of_file(file, model):
                n = len(data) // (len(asked) + 4)
                rows = np.frombuffer(data, np.int8, n * len(asked)).reshape(n, len(asked)).astype(np.float32)
                lengths = np.frombuffer(data, np.float32, n, offset=n * len(asked))
                cosines.append(rows @ asked / np.maximum(lengths, 1e-12))
                numbers.append(np.arange(first, first + n))
        if not cosines:
            return []
        all_cosines, all_numbers = np.concatenate(cosines), np.concatenate(numbers)
        mean, deviation = float(all_cosines.mean()), max(float(all_cosines.std()), 1e-6)
        best = np.argsort(-all_cosines, kind="stable")[:k]
        return [Near(int(all_numbers[n]), float(all_cosines[n]), (float(all_cosines[n]) - mean) / deviation) for n in best]

    def _of_file(self, file: int, model: str) -> list[tuple[int, bytes]]:
        """Return the number of a file's first chunk and its vectors, if it has some."""
        query = (
            "SELECT (SELECT min(number) FROM chunks WHERE chunks.file = vectors.file), data FROM vectors "
            "WHERE file = ? AND model = ?"
        )
        return self._database.read(query, file, model)
