"""How /v1 samples with real engines: seeds, penalties, probabilities and biases."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from tests.support.openai_api import FRANCE, chat, refused, said, stream
from tests.support.serving import Server


def test_seeds_repeat_and_several_answers_differ(models: Path, serve: Callable[..., Server]) -> None:
    server = serve(models=models)
    # Of few tokens: batches of another shape are rounded otherwise, which would decide between neighbours of many.
    fields = {"model": "random.gguf", "temperature": 1.5, "top_k": 8, "max_tokens": 12, "n": 3, "seed": -7}
    first, again = (chat(server, "Hi", **fields) for _ in range(2))
    texts = [choice["message"]["content"] for choice in first["choices"]]
    assert texts == [choice["message"]["content"] for choice in again["choices"]]
    assert len(set(texts)) == 3
    assert [choice["index"] for choice in first["choices"]] == [0, 1, 2]
    assert first["usage"]["completion_tokens"] == 36
    events = stream(server, "/v1/chat/completions", messages=[{"role": "user", "content": "Hi"}], **fields)
    streamed = ["", "", ""]
    for event in events[:-1]:
        [choice] = event["choices"]
        streamed[choice["index"]] += choice["delta"].get("content") or ""
    assert streamed == texts


def test_penalties_count_the_answers_own_tokens(models: Path, serve: Callable[..., Server]) -> None:
    server = serve(models=models)

    def tokens(**fields: float) -> list[str]:
        asked = {"model": "random.gguf", "temperature": 0, "max_tokens": 40, "logprobs": True, **fields}
        return [each["token"] for each in chat(server, "Hi", **asked)["choices"][0]["logprobs"]["content"]]

    plain, present, frequent = tokens(), tokens(presence_penalty=2), tokens(frequency_penalty=2)
    assert plain == tokens(presence_penalty=0)
    assert len(set(present)) > len(set(plain))
    assert len(set(frequent)) > len(set(plain))


def test_probabilities_are_the_models(server: Server) -> None:
    [choice] = chat(server, FRANCE, logprobs=True, top_logprobs=5)["choices"]
    tokens = choice["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens).strip() == choice["message"]["content"]
    for token in tokens:
        assert bytes(token["bytes"]).decode() == token["token"]
        top = token["top_logprobs"]
        assert len(top) == 5
        assert top[0]["logprob"] == token["logprob"] == max(each["logprob"] for each in top) <= 0
        assert sum(math.exp(each["logprob"]) for each in top) <= 1.0001
    assert chat(server, FRANCE, logprobs=True)["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
    streamed = stream(
        server, "/v1/chat/completions", messages=[{"role": "user", "content": FRANCE}], logprobs=True, top_logprobs=5
    )
    told = [event["choices"][0]["logprobs"] for event in streamed[:-1]]
    assert [token for part in told if part for token in part["content"]] == tokens


def test_a_bias_forbids_or_forces_a_token(server: Server) -> None:
    [paris, *_] = server.post("/tokenize", {"content": " Paris"}).json()["tokens"]
    assert "Paris" not in said(chat(server, FRANCE, logit_bias={str(paris): -100}))
    forced = chat(server, FRANCE, logit_bias={str(paris): 100}, max_tokens=3)
    assert said(forced) == server.post("/detokenize", {"tokens": [paris] * 3}).json()["content"].strip()
    assert refused(server, messages=[{"role": "user", "content": "x"}], logit_bias={"999999": 1})["param"] == "logit_bias"
