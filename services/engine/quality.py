"""The quality of a converted model file: the Kullback-Leibler divergence of its predictions from the file's it was made of.

Both files read the same short text (quality.txt: English prose, a chat, code, JSON and other languages), and their
probabilities of the next token are compared behind every token.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from services.backend.types import LoadSettings, Prompt
from services.engine.llama.batch import Run
from services.engine.llama.runner import Runner
from services.errors import BadModelFile
from services.models.disk import check_room

_TEXT = Path(__file__).with_name("quality.txt")
# Tokens of the text that are compared at most: it has about 1,000.
_MOST = 2048
# Tokens of a step, for each of which llama.cpp keeps the logits of the whole vocabulary.
_STEP = 32

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Quality:
    """How close a file's predictions are to another's: the mean over the text's tokens."""

    divergence: float
    """Kullback-Leibler divergence in nats a token; 0: the same predictions."""
    agreement: float
    """The share of tokens behind which both files have the same likeliest token."""


class Reference:
    """The predictions of a file, kept on disk as logarithms of probability in 16 bits, to compare others with."""

    def __init__(self, settings: LoadSettings, folder: Path) -> None:
        """Compute them with these settings, and keep them in `folder`. Raises HearthError, also for a full disk."""
        self.n_tokens = 0
        self._path = folder / "predictions"
        with self._path.open("wb") as file:
            for rows in _predictions(settings):
                check_room(folder, "a comparison of predictions", rows.nbytes)
                file.write(rows.astype(np.float16).tobytes())
                self.n_tokens += len(rows)
                self._vocabulary = rows.shape[1]

    def compare(self, settings: LoadSettings) -> Quality:
        """Compare the predictions of the settings' file. Raises BadModelFile where it predicts nothing, HearthError."""
        kept = np.memmap(self._path, np.float16, "r", shape=(self.n_tokens, self._vocabulary))
        divergence, same, at = 0.0, 0, 0
        for rows in _predictions(settings):
            wanted = kept[at : at + len(rows)].astype(np.float32)
            # Rounded to 16 bits, the probabilities do not add up to 1 any more.
            wanted = _normalized(wanted)
            divergence += float((np.exp(wanted) * (wanted - rows)).sum(dtype=np.float64))
            same += int((wanted.argmax(1) == rows.argmax(1)).sum())
            at += len(rows)
        if not np.isfinite(divergence):
            raise BadModelFile(f"{settings.file.name} computes no numbers", param="model")
        return Quality(max(divergence, 0.0) / at, same / at)


def _predictions(settings: LoadSettings) -> Iterator[Rows]:
    """Yield the logarithms of probability behind the text's tokens, some rows of the whole vocabulary at a time."""
    runner = Runner(replace(settings, n_ctx=min(settings.n_ctx or _MOST, _MOST), n_parallel=1))
    try:
        text = _TEXT.read_text(encoding="utf-8")
        tokens = runner.vocabulary.tokenize(Prompt(text, ((0, len(text)),)))[: runner.n_ctx]
        step = min(_STEP, runner.step_tokens)
        for start, end in itertools.pairwise([*range(0, len(tokens), step), len(tokens)]):
            runner.decode([Run(0, start, tokens[start:end], sampled=True, all_rows=True)])
            yield _normalized(np.stack([runner.logits(row) for row in range(end - start)]))
    finally:
        runner.close()


def _normalized(logits: Rows) -> Rows:
    """Return the logarithms of probability that logits stand for, row by row."""
    shifted = logits - logits.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)), np.float32)
