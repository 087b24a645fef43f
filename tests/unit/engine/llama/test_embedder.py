"""Vectors by llama.cpp."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest

from services.backend.batches import batches_of
from services.backend.types import LoadSettings, Prompt
from services.engine.llama import embedder as embedder_module
from services.engine.llama.embedder import PIECE, LlamaEmbedder
from services.errors import BadModelFile, ClientDisconnected, InvalidRequest
from tests.support.tiny import GUIDE, write_embedding_model


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_a_text_in_pieces_has_the_vector_that_it_has_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = LlamaEmbedder(LoadSettings(GUIDE, 1024))
    [tokens] = embedder.tokenize_all([Prompt("The capital of France is Paris. " * 60)])
    assert len(tokens) > 3 * PIECE
    [vector], spent = embedder.embed([tokens])
    assert spent.prompt_tokens == len(tokens)
    assert spent.cpu_seconds > 0
    monkeypatch.setattr(embedder_module, "PIECE", 1024)
    whole = LlamaEmbedder(LoadSettings(GUIDE, 1024))
    assert cosine(vector, whole.embed([tokens])[0][0]) > 0.9999
    whole.close()
    assert math.isclose(cosine(vector, vector), 1, abs_tol=1e-5)
    with pytest.raises(InvalidRequest, match="too long"):
        embedder.embed([tokens * 5])
    with pytest.raises(InvalidRequest, match="no tokens"):
        embedder.embed([[]])
    embedder.close()
    assert not embedder.is_open


def test_a_text_can_be_given_up_within_a_step_and_while_it_waits() -> None:
    embedder = LlamaEmbedder(LoadSettings(GUIDE, 1024))
    [tokens] = embedder.tokenize_all([Prompt("The capital of France is Paris. " * 60)])
    polls = itertools.count()

    def leave() -> None:
        if next(polls) == 1:
            raise ClientDisconnected("gone")

    with pytest.raises(ClientDisconnected):
        embedder.embed([tokens], leave)
    with embedder._lock, pytest.raises(ClientDisconnected):
        # Somebody else's text is under way, and does not end.
        embedder.embed([tokens], lambda: (_ for _ in ()).throw(ClientDisconnected("gone")))
    assert math.isclose(cosine(*2 * (embedder.embed([tokens])[0][0],)), 1, abs_tol=1e-5)
    embedder.close()


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadModelFile):
        LlamaEmbedder(LoadSettings(tmp_path / "none.gguf", 64))


def test_texts_that_are_computed_together_have_the_vectors_that_they_have_alone(tmp_path: Path) -> None:
    for file in (GUIDE, write_embedding_model(tmp_path / "bert.gguf")):
        embedder = LlamaEmbedder(LoadSettings(file, 512))
        texts = embedder.tokenize_all([Prompt(f"w{n} w{n + 1} " * (n % 4 + 1)) for n in range(70)])
        vectors, spent = embedder.embed(texts)
        assert spent.prompt_tokens == sum(map(len, texts))
        for n in (0, 1, 31, 69):
            assert cosine(vectors[n], embedder.embed([texts[n]])[0][0]) > 0.9999
        assert cosine(vectors[0], vectors[1]) < 0.999
        embedder.close()


def test_groups_hold_what_is_computed_together() -> None:
    texts = [[0] * length for length in (5, 5, 1, 12, 3, 3, 3, 3)]
    groups = [[len(tokens) for tokens in group] for group in batches_of(texts, len, 10, 3)]
    assert groups == [[5, 5], [1], [12], [3, 3, 3], [3]]


def test_a_model_that_ranks_scores_each_document_with_the_query(tmp_path: Path) -> None:
    embedder = LlamaEmbedder(LoadSettings(write_embedding_model(tmp_path / "ranker.gguf", ranks=True), 64))
    assert embedder.ranks
    pairs = embedder.tokenize_pairs("w1 w2", ["w3", "w4 w5"])
    # [CLS] w1 w2 [SEP] w3 [SEP]
    assert [pair[0] for pair in pairs] == [2, 2]
    assert [pair.count(3) for pair in pairs] == [2, 2]
    together, _ = embedder.embed(pairs)
    alone = [embedder.embed([pair])[0][0] for pair in pairs]
    assert [len(each) for each in together] == [1, 1]
    assert all(math.isclose(a[0], b[0], rel_tol=1e-3, abs_tol=1e-4) for a, b in zip(together, alone, strict=True))
    assert together[0] != together[1]
    embedder.close()
