"""/v1/embeddings with real models."""

from __future__ import annotations

import base64
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from tests.support.serving import Server
from tests.support.tiny import GUIDE, write_embedding_model


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


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
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0) as client:
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


def test_vectors_are_cut_and_texts_have_the_profiles_prefix(serve: Callable[..., Server], tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "guide.gguf").hardlink_to(GUIDE)
    write_embedding_model(folder / "bert.gguf")
    (folder / "plain.gguf").hardlink_to(folder / "bert.gguf")
    server = serve(models=folder)
    server.edit_config("Asked", model="bert.gguf", embedding_prefix={"query": "w1 ", "document": "w2 "})

    def vector(words: str, model: str = "plain.gguf", **fields: object) -> list[float]:
        reply = server.post("/v1/embeddings", {"model": model, "input": words, **fields})
        assert reply.status_code == 200, reply.text
        found: list[float] = reply.json()["data"][0]["embedding"]
        return found

    whole, short = vector("w5 w6"), vector("w5 w6", dimensions=16)
    assert (len(whole), len(short)) == (64, 16)
    assert abs(cosine(short, short) - 1) < 1e-6
    assert cosine(short, whole[:16]) > 0
    refused = server.post("/v1/embeddings", {"model": "plain.gguf", "input": "w5", "dimensions": 65}).json()["error"]
    assert refused["param"] == "dimensions"
    for fields, said in (({}, "w2 w5"), ({"input_type": "query"}, "w1 w5")):
        assert cosine(vector("w5", "Asked", **fields), vector(said)) > 0.9999 > cosine(vector("w5"), vector(said))
    assert cosine(vector("w2 w5", "Asked"), vector("w2 w5")) > 0.9999


def test_documents_are_ranked(serve: Callable[..., Server], tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "guide.gguf").hardlink_to(GUIDE)
    write_embedding_model(folder / "ranker.gguf", ranks=True)
    server = serve(models=folder)
    documents = [f"w{n} w{n + 1}" for n in range(3, 40)]
    body = {"model": "ranker.gguf", "query": "w1 w2", "documents": documents, "return_documents": True}
    reply = server.post("/v1/rerank", body).json()
    scores = [each["relevance_score"] for each in reply["results"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    assert sorted(each["index"] for each in reply["results"]) == list(range(len(documents)))
    assert all(each["document"]["text"] == documents[each["index"]] for each in reply["results"])
    assert reply["usage"]["total_tokens"] > 5 * len(documents)
    # The same alone, as an object, under another name, and as TEI's clients ask.
    best = reply["results"][0]
    alone = {"model": "ranker.gguf", "query": "w1 w2", "documents": [{"text": documents[best["index"]]}], "top_n": 1}
    assert abs(server.post("/rerank", alone).json()["results"][0]["relevance_score"] - best["relevance_score"]) < 1e-3
    listed = server.post("/rerank", {"model": "ranker.gguf", "query": "w1 w2", "texts": documents}).json()
    assert [each["index"] for each in listed] == [each["index"] for each in reply["results"]]
    for wrong, param in (({**body, "documents": [1]}, "documents.0"), ({**body, "texts": ["x"]}, "documents")):
        assert server.post("/v1/rerank", wrong).json()["error"]["param"] == param
    long = {**body, "documents": ["w3", "w4 " * 80]}
    assert server.post("/v1/rerank", long).json()["error"]["param"] == "documents.1"
    inputs = {"model": "guide.gguf", "input": ["w3", "w4 " * 9000]}
    assert server.post("/v1/embeddings", inputs).json()["error"]["param"] == "input.1"
    assert "ranks no texts" in server.post("/v1/rerank", {**body, "model": "guide.gguf"}).json()["message"]
    assert "ranks texts" in server.post("/v1/embeddings", {"model": "ranker.gguf", "input": "w1"}).json()["message"]
    abilities = {model["id"]: model["capabilities"] for model in server.get("/v1/models").json()["data"]}
    assert (abilities["ranker.gguf"], abilities["guide.gguf"]) == (["rerank"], ["completion"])
