from __future__ import annotations

import base64
import math
import struct
from collections.abc import Callable
from pathlib import Path

import openai
import pytest

from services.backend import LoadSettings, Prompt
from services.engine.embedder import PIECE, Embedder
from services.errors import BadModelFile, InvalidRequest
from tests.serving import Server
from tests.tiny import GUIDE, write_embedding_model


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_a_text_in_pieces_has_the_vector_that_it_has_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = Embedder(LoadSettings(GUIDE, 1024))
    tokens = embedder.tokenize(Prompt("The capital of France is Paris. " * 60))
    assert len(tokens) > 3 * PIECE
    vector, spent = embedder.embed(tokens)
    assert spent.prompt_tokens == len(tokens)
    assert spent.cpu_seconds > 0
    monkeypatch.setattr(embedder, "_piece", 1024)
    assert cosine(vector, embedder.embed(tokens)[0]) > 0.9999
    assert math.isclose(cosine(vector, vector), 1, abs_tol=1e-5)
    with pytest.raises(InvalidRequest, match="too long"):
        embedder.embed(tokens * 5)
    with pytest.raises(InvalidRequest, match="no tokens"):
        embedder.embed([])
    embedder.close()
    assert not embedder.is_open


def test_a_model_made_for_embeddings_makes_them_and_answers_nothing(serve: Callable[..., Server], tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "guide.gguf").hardlink_to(GUIDE)
    write_embedding_model(folder / "bert.gguf")
    server = serve(models=folder)
    reply = server.post("/v1/embeddings", {"model": "bert", "input": ["w1 w2", "w1 w2", "w90 w91"]}).json()
    first, same, other = (entry["embedding"] for entry in reply["data"])
    assert (len(first), reply["model"]) == (64, "bert.gguf")
    assert cosine(first, same) > 0.9999 > cosine(first, other)
    refused = server.post("/v1/completions", {"model": "bert", "prompt": "x"})
    assert refused.status_code in (422, 503)
    assert "bert.gguf" in refused.json()["message"]
    assert server.ask("What is the capital of France?")["result"] == "The capital of France is Paris."
    assert server.get("/health").json() == {"status": "ready"}


def test_openais_client_gets_vectors(server: Server) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0)
    # It asks for base64, and decodes that.
    reply = client.embeddings.create(model="Guide", input=["The capital of France", "Count to 9."])
    one, two = (entry.embedding for entry in reply.data)
    assert reply.usage.prompt_tokens > 6
    plain = server.post("/v1/embeddings", {"model": "Guide", "input": "The capital of France"}).json()["data"][0]
    assert cosine(one, plain["embedding"]) > 0.9999 > cosine(one, two)
    ids = server.post("/tokenize", {"content": "The capital of France"}).json()["tokens"]
    encoded = server.post("/v1/embeddings", {"input": [ids], "encoding_format": "base64"}).json()["data"][0]["embedding"]
    raw = base64.b64decode(encoded)
    assert cosine(one, list(struct.unpack(f"<{len(raw) // 4}f", raw))) > 0.9999


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": "word " * 5000}, "input"),
        ({"input": "x", "dimensions": 3}, ""),
        ({"input": "x", "encoding_format": "hex"}, "encoding_format"),
        ({}, "input"),
    ],
)
def test_what_cannot_be_embedded_is_refused(server: Server, body: dict[str, object], param: str) -> None:
    reply = server.post("/v1/embeddings", body)
    assert reply.status_code == 400, reply.text
    assert str(reply.json()["error"]["param"] or "").startswith(param)


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadModelFile):
        Embedder(LoadSettings(tmp_path / "none.gguf", 64))
