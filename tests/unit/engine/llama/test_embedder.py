"""Vectors by llama.cpp."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest

from services.backend.types import LoadSettings, Prompt
from services.engine.llama import embedder as embedder_module
from services.engine.llama.embedder import PIECE, LlamaEmbedder
from services.errors import BadModelFile, ClientDisconnected, InvalidRequest
from tests.support.tiny import GUIDE


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_a_text_in_pieces_has_the_vector_that_it_has_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = LlamaEmbedder(LoadSettings(GUIDE, 1024))
    tokens = embedder.tokenize(Prompt("The capital of France is Paris. " * 60))
    assert len(tokens) > 3 * PIECE
    vector, spent = embedder.embed(tokens)
    assert spent.prompt_tokens == len(tokens)
    assert spent.cpu_seconds > 0
    monkeypatch.setattr(embedder_module, "PIECE", 1024)
    whole = LlamaEmbedder(LoadSettings(GUIDE, 1024))
    assert cosine(vector, whole.embed(tokens)[0]) > 0.9999
    whole.close()
    assert math.isclose(cosine(vector, vector), 1, abs_tol=1e-5)
    with pytest.raises(InvalidRequest, match="too long"):
        embedder.embed(tokens * 5)
    with pytest.raises(InvalidRequest, match="no tokens"):
        embedder.embed([])
    embedder.close()
    assert not embedder.is_open


def test_a_text_can_be_given_up_within_a_step_and_while_it_waits() -> None:
    embedder = LlamaEmbedder(LoadSettings(GUIDE, 1024))
    tokens = embedder.tokenize(Prompt("The capital of France is Paris. " * 60))
    polls = itertools.count()

    def leave() -> None:
        if next(polls) == 1:
            raise ClientDisconnected("gone")

    with pytest.raises(ClientDisconnected):
        embedder.embed(tokens, leave)
    with embedder._lock, pytest.raises(ClientDisconnected):
        # Somebody else's text is under way, and does not end.
        embedder.embed(tokens, lambda: (_ for _ in ()).throw(ClientDisconnected("gone")))
    assert math.isclose(cosine(*2 * (embedder.embed(tokens)[0],)), 1, abs_tol=1e-5)
    embedder.close()


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadModelFile):
        LlamaEmbedder(LoadSettings(tmp_path / "none.gguf", 64))
