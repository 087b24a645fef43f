"""API Host's way: its example client's requests to /api, models fetched at the first request, and the public address."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from services.backend.types import ChatFormat
from services.prompts.chat_formats import FORMATS, named_format
from services.prompts.chat_template import chat_template
from tests.support.hub import Hub
from tests.support.serving import Server
from tests.support.tiny import GUIDE

REPO, NAME = "Hearth/guide-GGUF", "guide-q8_0.gguf"


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    hub.files[REPO] = {NAME: GUIDE.read_bytes(), f"deep/{NAME}": GUIDE.read_bytes()}
    yield hub
    hub.close()


def payload(server: Server, inputs: Any, /, **fields: Any) -> dict[str, Any]:
    """What API Host's example client sends."""
    return {
        "token": server.key,
        "task": "text_generation",
        "repo_id": REPO,
        "file_name": "guide.gguf",
        "inputs": inputs,
        "parameters": {"top_k": 1, "max_tokens": 40, "temperature": 0},
        "options": {},
        **fields,
    }


def post(server: Server, body: dict[str, Any]) -> requests.Response:
    """Without any header: the key is in the body."""
    return requests.post(f"{server.url}/api", json=body, timeout=60)


def test_a_list_is_a_chat_and_a_text_is_gone_on_with(server: Server) -> None:
    chat = post(server, payload(server, [{"role": "user", "content": "What is the capital of France?"}]))
    assert chat.status_code == 200
    assert chat.json()["answer"]["role"] == "assistant"
    assert "Paris" in chat.json()["answer"]["content"]
    prompt = "You are the guide of this server.\n\n\nHuman: Hello\nAI:"
    text = post(server, payload(server, prompt)).json()["answer"]
    completed = server.post("/v1/completions", {"prompt": prompt, "max_tokens": 40, "temperature": 0})
    assert text == {"role": "assistant", "content": completed.json()["choices"][0]["text"]}


def test_the_key_may_stand_in_the_header_too(server: Server) -> None:
    body = payload(server, "Hello")
    del body["token"]
    assert post(server, body).status_code == 401
    assert post(server, {**body, "token": "wrong"}).status_code == 401
    assert post(server, {**body, "token": 5}).status_code == 401
    assert server.post("/api", body).status_code == 200
    for odd in (b"[" * 200_000, b'{"token": "\\ud800", "inputs": "x"}', b"\xff\xfe", b""):
        assert requests.post(f"{server.url}/api", data=odd, timeout=60).status_code == 401
    # Nowhere else does the body hold the key.
    assert requests.post(f"{server.url}/answer", json={"prompt": "Hi", "token": server.key}, timeout=60).status_code == 401


def test_the_context_is_as_long_as_is_asked_for(serve: Callable[..., Server]) -> None:
    server = serve()
    long = "word " * 300
    for spelt in ("ctx_length", "ctx_lenght"):
        refused = post(server, payload(server, long, options={spelt: 128}))
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "prompt_too_long")
        assert "(n_ctx) holds 128" in refused.json()["message"]
    assert post(server, payload(server, long, options={"ctx_lenght": 2048, "use_gpu": False})).status_code == 200


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_chat_format_writes_the_chat(name: str, server: Server) -> None:
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
    chat = post(server, payload(server, said, options={"chat_format": name}))
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
def test_what_does_not_fit_is_named(server: Server, change: Any, status: int, param: str | None) -> None:
    refused = post(server, payload(server, "Hello", **change))
    assert refused.status_code == status, refused.text
    assert param is None or refused.json()["error"]["param"] == param


def test_a_missing_model_is_fetched_at_the_first_request(
    hub: Hub, serve: Callable[..., Server], models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in hub.env.items():
        monkeypatch.setenv(name, value)
    server = serve(models=models)
    key, _ = server.mint()
    body = payload(server, [{"role": "user", "content": "What is the capital of France?"}], file_name=f"deep/{NAME}")
    refused = post(server, {**body, "token": key})
    assert (refused.status_code, refused.json()["error"]["param"]) == (403, "file_name")
    assert not hub.requests
    assert "Paris" in post(server, body).json()["answer"]["content"]
    assert len(hub.ranges()) == 1
    # Now it is there, for every key.
    assert "Paris" in post(server, {**body, "token": key}).json()["answer"]["content"]
    assert len(hub.ranges()) == 1
    assert f"fetched {NAME}" in server.log()
    gone = post(server, {**body, "file_name": "gone.gguf"})
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "file_not_found")
    written = [json.loads(line) for line in (server.data / "audit.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {"did": "pull", "key": "0"}.items() <= next(line for line in written if line["did"] == "pull").items()


def write_cloudflared(folder: Path, says: str, ends: bool = False) -> None:
    """A stand-in for the program: it is the network that is not here."""
    folder.mkdir()
    (folder / "cloudflared").write_text(
        f"#!{sys.executable}\nimport sys, time\nprint('INF Requesting new quick Tunnel', file=sys.stderr)\n"
        f"print({says!r}, sys.argv[1:], file=sys.stderr, flush=True)\n{'' if ends else 'time.sleep(600)'}\n"
    )
    (folder / "cloudflared").chmod(0o755)


def test_a_tunnel_gives_a_public_address(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cloudflared(tmp_path / "bin", "INF |  https://some-words-here.trycloudflare.com  |")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    server = serve("--tunnel")
    assert server.process.stdout
    assert server.process.stdout.readline() == "Public address: https://some-words-here.trycloudflare.com\n"
    threads = Path(f"/proc/{server.process.pid}/task").glob("*/children")
    children = [child for thread in threads for child in thread.read_text().split()]
    # The other one is the engine's.
    assert len(children) == 2
    assert server.stop() == 0
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_without_the_program_it_says_how_to_get_it(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    server = serve("--tunnel")
    assert "cloudflared is not installed" in server.log()
    assert server.ask("Hello")["result"]


def test_a_tunnel_that_ends_is_told_of(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cloudflared(tmp_path / "bin", "ERR no way out", ends=True)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    server = serve("--tunnel")
    deadline = time.monotonic() + 10
    while "cloudflared has ended, and with it the public address: ERR no way out" not in server.log():
        assert time.monotonic() < deadline
        time.sleep(0.05)
