"""Logprobs of prompts over /v1/completions, as lm-evaluation-harness asks for them, computed by the real engine."""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from typing import Any

import pytest

from services.engine.pool import EnginePool
from tests.support.in_process import Client
from tests.support.openai_api import FRANCE, stream

CONTEXT, CONTINUATION = f"Human: {FRANCE}\nAI:", " The capital of France is Paris."
# What its `local-completions` sends for a log-likelihood, beside the prompt.
LIKELIHOOD = {"temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The application over the real engine, in this process, with the guide."""
    backend = EnginePool()
    made = Client(tmp_path_factory.mktemp("echo") / "data", backend)
    yield made
    made.close()
    backend.close()


def completion(client: Client, **fields: Any) -> dict[str, Any]:
    reply = client.post("/v1/completions", fields)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def ids_of(client: Client, text: str) -> list[int]:
    return list(client.post("/tokenize", {"content": text}).json()["tokens"])


def likelihoods(reply: dict[str, Any], ctxlens: list[int]) -> list[tuple[float, bool]]:
    """What lm-evaluation-harness 0.4 reads from a reply: its LocalCompletionsAPI.parse_logprobs, in other words.

    Of each choice, by its index, the tokens behind the context but the last one, which is generated: the sum of their
    logprobs, and whether each is the likeliest in its place.
    """
    found = []
    for choice, ctxlen in zip(sorted(reply["choices"], key=itemgetter("index")), ctxlens, strict=True):
        logprobs = choice["logprobs"]["token_logprobs"][ctxlen:-1]
        tops = choice["logprobs"]["top_logprobs"][ctxlen:-1]
        is_greedy = all(logprob == max(top.values()) for logprob, top in zip(logprobs, tops, strict=True))
        found.append((sum(logprobs), is_greedy))
    return found


def test_log_likelihoods_are_those_of_the_same_tokens_when_they_are_generated(client: Client) -> None:
    context = ids_of(client, CONTEXT)
    said = completion(client, prompt=context, max_tokens=64, temperature=0, logprobs=1)["choices"][0]
    assert said["text"] == CONTINUATION
    words = ids_of(client, CONTINUATION)
    # Behind them may be the token that ends the answer.
    generated = said["logprobs"]["token_logprobs"][: len(words)]
    whole = context + words
    ((likely, is_greedy),) = likelihoods(completion(client, prompt=[whole], **LIKELIHOOD), [len(context)])
    assert likely == pytest.approx(sum(generated), abs=0.02)
    assert is_greedy
    other = context + ids_of(client, " The capital of Spain is Rome.")
    ((unlikely, is_greedy),) = likelihoods(completion(client, prompt=[other], **LIKELIHOOD), [len(context)])
    assert (unlikely < likely - 3, is_greedy) == (True, False)


def test_prompts_are_texts_or_token_ids_alone_or_in_lists(client: Client) -> None:
    texts = [CONTEXT + CONTINUATION, "Human: Hi\nAI: Hello."]
    ids = [ids_of(client, text) for text in texts]
    ctxlens = [len(ids_of(client, CONTEXT)), 3]
    expected = likelihoods(completion(client, prompt=texts, **LIKELIHOOD), ctxlens)
    found = likelihoods(completion(client, prompt=ids, **LIKELIHOOD), ctxlens)
    for n, (likely, is_greedy) in enumerate(expected):
        alone = [completion(client, prompt=prompt, **LIKELIHOOD) for prompt in (texts[n], ids[n])]
        for each in (found[n], *(likelihoods(reply, [ctxlens[n]])[0] for reply in alone)):
            assert each[0] == pytest.approx(likely, abs=0.02)
            assert each[1] == is_greedy


@pytest.mark.parametrize("as_ids", [False, True])
def test_a_prompt_alone_has_logprobs_in_openais_shape(client: Client, as_ids: bool) -> None:
    text = "Été 🙂: what is the capital of France?"
    prompt = ids_of(client, text) if as_ids else text
    reply = completion(client, prompt=prompt, max_tokens=0, echo=True, logprobs=3)
    choice = reply["choices"][0]
    logprobs = choice["logprobs"]
    assert (choice["text"], choice["finish_reason"], reply["usage"]["completion_tokens"]) == (text, "length", 0)
    n = len(ids_of(client, text))
    assert [len(logprobs[name]) for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")] == [n] * 4
    assert (logprobs["token_logprobs"][0], logprobs["top_logprobs"][0]) == (None, None)
    assert all(logprob <= 0 for logprob in logprobs["token_logprobs"][1:])
    assert all(1 <= len(top) <= 4 for top in logprobs["top_logprobs"][1:])
    # Each token that is whole characters stands where its offset says.
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert "\ufffd" in token or text[offset:].startswith(token)
    assert logprobs["text_offset"] == sorted(logprobs["text_offset"])


def test_a_stream_says_the_same(client: Client) -> None:
    for fields in ({"max_tokens": 3}, {"max_tokens": 0}, {"max_tokens": 3, "logprobs": None}):
        body = {"prompt": [CONTEXT, "Human: Hi\nAI:"], "echo": True, "logprobs": 2, "temperature": 0, **fields}
        whole = completion(client, **body)["choices"]
        *chunks, _ = stream(client, "/v1/completions", **body)
        for choice in whole:
            pieces = [each for chunk in chunks for each in chunk["choices"] if each["index"] == choice["index"]]
            assert "".join(each["text"] for each in pieces) == choice["text"]
            told = [each["logprobs"] for each in pieces if each["logprobs"]]
            names = ("tokens", "token_logprobs", "top_logprobs", "text_offset") if body["logprobs"] else ()
            assert bool(told) == bool(names)
            for name in names:
                flat = [value for each in told for value in each[name]]
                if name in ("tokens", "text_offset"):
                    assert flat == choice["logprobs"][name]
                assert len(flat) == len(choice["logprobs"][name])


def test_the_token_after_the_prompt_is_told_even_if_it_ends_the_answer(client: Client) -> None:
    prompt = ids_of(client, CONTEXT + CONTINUATION)
    choice = completion(client, prompt=prompt, **LIKELIHOOD)["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (CONTEXT + CONTINUATION, "stop")
    assert len(choice["logprobs"]["token_logprobs"]) == len(prompt) + 1


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_prompts_logprobs_come_in_vllms_shape(client: Client, path: str) -> None:
    body = {"prompt": CONTEXT} if path == "/v1/completions" else {"messages": [{"role": "user", "content": FRANCE}]}
    reply = client.post(path, {**body, "max_tokens": 2, "prompt_logprobs": 2, "temperature": 0}).json()
    told = reply["choices"][0]["prompt_logprobs"] if path == "/v1/completions" else reply["prompt_logprobs"]
    assert len(told) == reply["usage"]["prompt_tokens"]
    assert told[0] is None
    for each in told[1:]:
        first, *others = each.values()
        assert first["logprob"] <= max(0.0, *(other["logprob"] for other in others))
        assert len(others) in (1, 2)
        assert (first["rank"] is None) == (len(others) == 2)
        assert sorted(other["rank"] or 0 for other in each.values())[-1] == 2
    words = [next(iter(each.values()))["decoded_token"] for each in told[1:]]
    assert "".join(words) in (CONTEXT, CONTEXT[len("Human") :]) or FRANCE in "".join(words)
    ids = [int(next(iter(each))) for each in told[1:]]
    assert client.post("/detokenize", {"tokens": ids}).json()["content"] == "".join(words)
    assert reply["choices"][0]["logprobs"] is None
    refused = client.post(path, {**body, "prompt_logprobs": 1, "stream": True})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "prompt_logprobs")


def test_each_field_has_its_own_number_of_likeliest_tokens(client: Client) -> None:
    fields = {"max_tokens": 2, "prompt_logprobs": 0, "logprobs": 3, "echo": True, "temperature": 0}
    choice = completion(client, prompt=CONTEXT, **fields)["choices"][0]
    assert all(len(each) == 1 for each in choice["prompt_logprobs"][1:])
    assert all(len(top) in (3, 4) for top in choice["logprobs"]["top_logprobs"][1:])
    fields |= {"prompt_logprobs": 3, "logprobs": 1}
    choice = completion(client, prompt=CONTEXT, **fields)["choices"][0]
    assert all(len(each) in (3, 4) for each in choice["prompt_logprobs"][1:])
    assert all(len(top) in (1, 2) for top in choice["logprobs"]["top_logprobs"][1:])
