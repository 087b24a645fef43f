"""Searches by the models that a profile names, with real ones: vectors made in the background, and reranking."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.serving import Server, wait_for
from tests.support.tiny import GUIDE, write_embedding_model

Serve = Callable[..., Server]
# Of the words that the model knows, the others are found by vectors alone.
TEXTS = {"one.txt": "w1 w2 w3", "two.txt": "w40 w41 w42", "three.txt": "w70 w71 w72"}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "guide.gguf").hardlink_to(GUIDE)
    write_embedding_model(folder / "bert.gguf")
    write_embedding_model(folder / "ranker.gguf", ranks=True)
    return folder


def store(server: Server) -> dict[str, str]:
    """Store the texts; return their names by their ids."""
    names = {}
    for name, text in TEXTS.items():
        reply = server.request("POST", "/files", files={"file": (name, text.encode())})
        assert reply.status_code == 200, reply.text
        names[reply.json()["id"]] = name
    return names


def search(server: Server, query: str, k: int = 5) -> list[dict[str, Any]]:
    reply: requests.Response = server.post("/search", {"query": query, "k": k})
    assert reply.status_code == 200, reply.text
    passages: list[dict[str, Any]] = reply.json()["passages"]
    return passages


def test_vectors_find_what_has_no_word_of_the_question(serve: Serve, models: Path) -> None:
    server = serve(models=models)
    store(server)
    assert search(server, "w5") == []
    server.edit_config(embedder="bert.gguf")
    # The vectors of files that are there already are made in the background.
    wait_for(lambda: len(search(server, "w5")) == len(TEXTS))
    best = search(server, "w40 w41 w42")[0]
    assert (best["name"], best["text"]) == ("two.txt", "w40 w41 w42")
    assert 0 < best["score"] <= 1
    # An answer is asked for while the vectors of a new file are made.
    server.request("POST", "/files", files={"file": ("four.txt", b"w90 w91")})
    assert server.ask("What is the capital of France?")["result"] == "The capital of France is Paris."
    wait_for(lambda: len(search(server, "w5")) == len(TEXTS) + 1)


def test_vectors_outlive_a_restart_and_go_with_their_file(serve: Serve, models: Path) -> None:
    server = serve(models=models)
    server.edit_config(embedder="bert.gguf")
    names = store(server)
    wait_for(lambda: len(search(server, "w5")) == len(TEXTS))
    server.stop()
    server.start()
    assert len(search(server, "w5")) == len(TEXTS)
    gone = next(iter(names))
    assert server.delete(f"/files/{gone}").status_code == 200
    assert {each["file"] for each in search(server, "w5")} == names.keys() - {gone}


def test_a_reranker_gives_the_order(serve: Serve, models: Path) -> None:
    server = serve(models=models)
    server.edit_config(embedder="bert.gguf", reranker="ranker.gguf")
    store(server)
    wait_for(lambda: len(search(server, "w5 w41")) == len(TEXTS))
    found = search(server, "w5 w41")
    ranked = server.post(
        "/v1/rerank", {"model": "ranker", "query": "w5 w41", "documents": [each["text"] for each in found]}
    )
    scores = [each["relevance_score"] for each in sorted(ranked.json()["results"], key=lambda each: each["index"])]
    assert [each["score"] for each in found] == pytest.approx(scores, abs=0.02)
    assert scores == sorted(scores, reverse=True)
    assert len(search(server, "w5 w41", k=2)) == 2


@pytest.mark.parametrize(
    ("profile", "param", "words"),
    [
        ({"embedder": "ranker.gguf"}, "embedder", "ranks texts"),
        ({"reranker": "bert.gguf"}, "reranker", "makes vectors"),
        ({"embedder": "none-such"}, "model", "none-such"),
    ],
)
def test_a_model_that_cannot_do_it_is_named(
    serve: Serve, models: Path, profile: dict[str, str], param: str, words: str
) -> None:
    server = serve(models=models)
    store(server)
    server.edit_config(**profile)
    reply = server.post("/search", {"query": "w1"})
    assert reply.status_code in (404, 422, 503), reply.text
    assert words in reply.json()["message"]
    assert reply.json()["error"]["param"] == param
    # Nothing else is held up by it.
    assert server.ask("What is the capital of France?")["result"] == "The capital of France is Paris."
