"""API Host's way: its example client's requests to /api, models fetched at the first request, and the public address."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from services.backend.types import ChatFormat
from services.prompts.chat_formats import FORMATS, named_format
from services.prompts.chat_template import chat_template
from tests.support.hub import Hub
from tests.support.in_process import Client
from tests.support.tiny import GUIDE

REPO, NAME = "Hearth/guide-GGUF", "guide-q8_0.gguf"


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    hub.files[REPO] = {NAME: GUIDE.read_bytes(), f"deep/{NAME}": GUIDE.read_bytes()}
    yield hub
    hub.close()


def payload(client: Client, inputs: Any, /, **fields: Any) -> dict[str, Any]:
    """What API Host's example client sends."""
    return {
        "token": client.key,
        "task": "text_generation",
        "repo_id": REPO,
        "file_name": "guide.gguf",
        "inputs": inputs,
        "parameters": {"top_k": 1, "max_tokens": 40, "temperature": 0},
        "options": {},
        **fields,
    }


def post(client: Client, body: dict[str, Any]) -> requests.Response:
    """Without any header: the key is in the body."""
    return client.http.post(f"{client.url}/api", json=body)


def test_a_list_is_a_chat_and_a_text_is_gone_on_with(client: Client) -> None:
    chat = post(client, payload(client, [{"role": "user", "content": "What is the capital of France?"}]))
    assert chat.status_code == 200
    assert chat.json()["answer"]["role"] == "assistant"
    assert "Paris" in chat.json()["answer"]["content"]
    prompt = "You are the guide of this server.\n\n\nHuman: Hello\nAI:"
    text = post(client, payload(client, prompt)).json()["answer"]
    completed = client.post("/v1/completions", {"prompt": prompt, "max_tokens": 40, "temperature": 0})
    assert text == {"role": "assistant", "content": completed.json()["choices"][0]["text"]}


def test_the_key_may_stand_in_the_header_too(client: Client) -> None:
    body = payload(client, "Hello")
    del body["token"]
    assert post(client, body).status_code == 401
    assert post(client, {**body, "token": "wrong"}).status_code == 401
    assert post(client, {**body, "token": 5}).status_code == 401
    assert client.post("/api", body).status_code == 200
    for odd in (b"[" * 200_000, b'{"token": "\\ud800", "inputs": "x"}', b"\xff\xfe", b""):
        assert client.http.post(f"{client.url}/api", data=odd).status_code == 401
    # Nowhere else does the body hold the key.
    assert client.http.post(f"{client.url}/answer", json={"prompt": "Hi", "token": client.key}).status_code == 401


def test_the_context_is_as_long_as_is_asked_for(client: Client) -> None:
    long = "word " * 300
    for spelt in ("ctx_length", "ctx_lenght"):
        refused = post(client, payload(client, long, options={spelt: 128}))
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert "is 128 tokens (n_ctx)" in refused.json()["message"]
    assert post(client, payload(client, long, options={"ctx_lenght": 2048, "use_gpu": False})).status_code == 200


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_chat_format_writes_the_chat(name: str, client: Client) -> None:
    own = ChatFormat("", "<s>", "</s>", ("<s>", "</s>"))
    said = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": "Three"},
    ]
    text = chat_template(named_format(name, own)).render(said).text
    places = [text.index(message["content"]) for message in said]
    assert places == sorted(places)
    assert text.count("Be kind.") == 1
    assert not {"GAP", "USERO", "MODEL", "OPEN", "CLOSE", "REPLY"} & set(text.split())
    chat = post(client, payload(client, said, options={"chat_format": name}))
    assert chat.status_code == 200


def test_formats_are_as_their_makers_write_them() -> None:
    own = ChatFormat("", "<s>", "</s>", ())
    said = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    texts = {name: chat_template(named_format(name, own)).render(said).text for name in FORMATS}
    assert texts["chatml"] == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    assert texts["llama-2"] == "[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST]"
    assert texts["zephyr"] == "<|system|>\nS</s>\n<|user|>\nU</s>\n<|assistant|>\n"
    assert texts["alpaca"] == "S\n\n### Instruction:\nU\n\n### Response:\n"
    assert texts["vicuna"] == "S USER: U ASSISTANT:"


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"task": "text_to_image"}, 400, "task"),
        ({"inputs": ""}, 400, "inputs"),
        ({"inputs": []}, 400, None),
        ({"inputs": [{"role": "robot", "content": "x"}]}, 400, None),
        ({"parameters": {"max_token": 5}}, 400, "parameters.max_token"),
        ({"options": {"ctx_length": 3}}, 400, "options.ctx_length"),
        ({"inputs": [{"role": "user", "content": "x"}], "options": {"chat_format": "nope"}}, 400, "options.chat_format"),
        ({"file_name": "../x.gguf"}, 400, "model"),
        ({"file_name": "gone.gguf", "repo_id": None}, 404, "file_name"),
        ({"file_name": "gone.gguf", "repo_id": "x"}, 400, "repo_id, file_name"),
    ],
)
def test_what_does_not_fit_is_named(client: Client, change: Any, status: int, param: str | None) -> None:
    refused = post(client, payload(client, "Hello", **change))
    assert refused.status_code == status, refused.text
    assert param is None or refused.json()["error"]["param"] == param


def test_a_missing_model_is_fetched_at_the_first_request(
    hub: Hub,
    open_client: Callable[..., Client],
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    for name, value in hub.env.items():
        monkeypatch.setenv(name, value)
    client = open_client(models=model_folder)
    key, _ = client.mint()
    body = payload(client, [{"role": "user", "content": "What is the capital of France?"}], file_name=f"deep/{NAME}")
    refused = post(client, {**body, "token": key})
    assert (refused.status_code, refused.json()["error"]["param"]) == (403, "file_name")
    assert not hub.requests
    assert "Paris" in post(client, body).json()["answer"]["content"]
    assert len(hub.ranges()) == 1
    # Now it is there, for every key.
    assert "Paris" in post(client, {**body, "token": key}).json()["answer"]["content"]
    assert len(hub.ranges()) == 1
    assert f"fetched {NAME}" in caplog.text
    gone = post(client, {**body, "file_name": "gone.gguf"})
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "file_not_found")
    written = [json.loads(line) for line in (client.data / "audit.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {"did": "pull", "key": "0"}.items() <= next(line for line in written if line["did"] == "pull").items()
