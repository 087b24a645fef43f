from __future__ import annotations

import base64
import itertools
import math
import os
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
import requests

from services.backend.types import LoadSettings, Prompt
from services.engine.llama import embedder as embedder_module
from services.engine.llama.embedder import PIECE, LlamaEmbedder
from services.errors import BadModelFile, ClientDisconnected, InvalidRequest
from tests.support.serving import Server, child_of, wait_for
from tests.support.tiny import GUIDE, write_embedding_model


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


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory, random_model: Path) -> Iterator[Server]:
    """A server whose requests may take two seconds, with a model that takes longer."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "guide.gguf").hardlink_to(GUIDE)
    (folder / "random.gguf").hardlink_to(random_model)
    server = Server(tmp_path_factory.mktemp("server") / "data", "--max-seconds", "2", models=folder).start()
    yield server
    server.stop()


MANY = {"model": "random.gguf", "input": ["w1 w2 w3 w4 " * 450] * 40}


def test_embeddings_take_no_longer_than_an_answer_may(slow: Server) -> None:
    slow.post("/v1/embeddings", {"model": "random.gguf", "input": "w1"})
    began = time.monotonic()
    refused = slow.post("/v1/embeddings", MANY)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "timeout"), refused.text[:300]
    assert time.monotonic() - began < 6
    assert slow.post("/v1/embeddings", {"model": "random.gguf", "input": "w1"}).status_code == 200


def test_those_that_wait_for_anothers_text_are_not_kept_waiting_either(slow: Server) -> None:
    slow.post("/v1/embeddings", {"model": "random.gguf", "input": "w1"})
    with ThreadPoolExecutor(6) as people:
        began = time.monotonic()
        replies = list(people.map(lambda _: slow.post("/v1/embeddings", MANY), range(6)))
    assert {reply.status_code for reply in replies} == {503}
    assert time.monotonic() - began < 8


def test_what_nobody_waits_for_is_computed_no_more(server: Server) -> None:
    # Minutes of work, within the time that an answer may take.
    texts = ["The capital of France is Paris. " * 60] * 200
    for _ in range(3):
        with pytest.raises(requests.Timeout):
            body = {"model": "Guide", "input": texts}
            requests.post(f"{server.url}/v1/embeddings", json=body, headers={"Authorization": server.key}, timeout=(5, 0.4))

    def idle() -> bool:
        before = cpu_seconds(child_of(server))
        time.sleep(0.5)
        return cpu_seconds(child_of(server)) - before < 0.1

    wait_for(idle, 15)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_texts_are_held_back_once(server: Server) -> None:
    text = "The capital of France"
    n_tokens = server.post("/v1/embeddings", {"model": "Guide", "input": text}).json()["usage"]["prompt_tokens"]
    key, _ = server.mint(limits={"tokens_per_day": 6 * n_tokens + 1})
    reply = server.post("/v1/embeddings", {"model": "Guide", "input": 6 * [text]}, key=key)
    assert reply.status_code == 200, reply.text
    assert server.post("/v1/embeddings", {"model": "Guide", "input": text}, key=key).status_code == 429


def test_what_is_certainly_too_long_is_not_tokenized(server: Server) -> None:
    refused = server.post("/v1/embeddings", {"model": "Guide", "input": ["x", "0123456789" * 90_000]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert "at least" in refused.json()["message"]


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
        LlamaEmbedder(LoadSettings(tmp_path / "none.gguf", 64))
