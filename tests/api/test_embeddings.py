from __future__ import annotations

import pytest

from tests.support.in_process import Client


def test_texts_are_held_back_once(client: Client) -> None:
    text = "The capital of France"
    n_tokens = client.post("/v1/embeddings", {"model": "Guide", "input": text}).json()["usage"]["prompt_tokens"]
    key, _ = client.mint(limits={"tokens_per_day": 6 * n_tokens + 1})
    reply = client.post("/v1/embeddings", {"model": "Guide", "input": 6 * [text]}, key=key)
    assert reply.status_code == 200, reply.text
    assert client.post("/v1/embeddings", {"model": "Guide", "input": text}, key=key).status_code == 429


def test_what_is_certainly_too_long_is_not_tokenized(client: Client) -> None:
    refused = client.post("/v1/embeddings", {"model": "Guide", "input": ["x", "0123456789" * 90_000]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert "at least" in refused.json()["message"]


def test_the_models_own_dimensions_may_be_asked_for(client: Client) -> None:
    vector = client.post("/v1/embeddings", {"model": "Guide", "input": "x"}).json()["data"][0]["embedding"]
    again = client.post("/v1/embeddings", {"model": "Guide", "input": "x", "dimensions": len(vector)})
    assert again.json()["data"][0]["embedding"] == vector


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": "word " * 5000}, "input"),
        ({"input": "x", "dimensions": 400}, "dimensions"),
        ({"input": "x", "encoding_format": "hex"}, "encoding_format"),
        ({}, "input"),
    ],
)
def test_what_cannot_be_embedded_is_refused(client: Client, body: dict[str, object], param: str) -> None:
    reply = client.post("/v1/embeddings", body)
    assert reply.status_code == 400, reply.text
    assert str(reply.json()["error"]["param"] or "").startswith(param)
