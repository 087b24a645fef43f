"""Work that is no answer costs its key, and nobody else: tokenizing, previews, refused prompts, switches.

HEARTH_TOKENIZERS=56 has so many requests of a megabyte each at once, for minutes; the suite has a few.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from services.api.openai.schemas import MOST_MESSAGES
from tests.support.serving import Server

TOKENIZERS = int(os.environ.get("HEARTH_TOKENIZERS", "6"))
# Seconds after which the callers leave, and what they wanted is given up.
LONGEST = 60
# Looks through all messages at each, as Gemma 4's does.
QUADRATIC = (
    "{% for message in messages %}{% set ns = namespace(found=0) %}"
    "{% for other in messages %}{% if other.role == message.role %}{% set ns.found = ns.found + 1 %}{% endif %}{% endfor %}"
    "<{{ message.role }}>{{ message.content }}{% endfor %}"
)


def chat(count: int, words: str = "a") -> list[dict[str, str]]:
    return [{"role": "user", "content": words}] * count


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("unmetered") / "data", "--threads", "24")
    server.edit_config("Slow", model="guide.gguf", n_ctx=2048, chat_template=QUADRATIC)
    server.start()
    yield server
    server.stop()


WORK: dict[str, Callable[[Server, str], Any]] = {
    "tokenize": lambda server, key: server.post("/tokenize", {"content": "Hi"}, key=key),
    "tokenize a chat": lambda server, key: server.post("/tokenize", {"messages": chat(1)}, key=key),
    "detokenize": lambda server, key: server.post("/detokenize", {"tokens": [1]}, key=key),
    "search": lambda server, key: server.get("/sessions?q=words", key=key),
    "preview": lambda server, key: server.get("/answer/1/prompt", key=key),
    "refused prompt": lambda server, key: server.post("/answer", {"prompt": "many words " * 40_000}, key=key),
    "switch": lambda server, key: server.post("/models/model", {"model": "none.gguf"}, key=key),
    "unload": lambda server, key: server.post("/models/unload", {"model": "none.gguf"}, key=key),
    "pull": lambda server, key: server.post("/models/pull", {"source": "no-such-model"}, key=key),
}


@pytest.mark.parametrize("what", WORK)
def test_it_counts_against_the_requests_of_its_key(serving: Server, what: str) -> None:
    scopes = ["answer", "models:read", "models:switch", "models:pull"]
    key, _ = serving.mint(scopes=scopes, limits={"requests_per_minute": 2})
    first, second, third = (WORK[what](serving, key) for _ in range(3))
    assert first.status_code == second.status_code in (200, 400, 404), first.text
    assert (third.status_code, third.json()["error"]["param"]) == (429, "requests_per_minute")
    assert int(third.headers["Retry-After"]) > 0


@pytest.mark.parametrize(
    ("path", "field", "more"),
    [
        ("/tokenize", "messages", {}),
        ("/v1/chat/completions", "messages", {}),
        ("/chat_completion", "messages", {"job_id": "many"}),
        ("/jobs", "messages", {"job_id": "many"}),
        ("/api", "inputs", {}),
    ],
)
def test_a_chat_has_a_largest_length(serving: Server, path: str, field: str, more: dict[str, Any]) -> None:
    reply = serving.post(path, {field: chat(29_000), **more})
    assert reply.status_code in (400, 422)
    assert reply.json()["error"]["param"] == field
    assert reply.json()["message"] == f"{field}: may hold at most {MOST_MESSAGES:,}, not 29,000"


def test_what_is_certainly_too_long_is_refused_before_it_is_tokenized(serving: Server) -> None:
    began = time.monotonic()
    reply = serving.post("/v1/chat/completions", {"messages": chat(1, "0123456789" * 100_000)})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert "at least" in reply.json()["message"]
    assert time.monotonic() - began < 10


def test_one_keys_heavy_work_holds_up_nobody_elses(serving: Server) -> None:
    hog, honest = serving.mint()[0], serving.mint()[0]
    bodies: list[dict[str, Any]] = [
        {"messages": chat(600 if TOKENIZERS < 10 else MOST_MESSAGES, "words " * 20), "model": "Slow"},
        {"content": "<|end|>" * 140_000},
        {"content": "\n" * 500_000},
        {"messages": chat(29_000)},
    ]
    worst = 0.0

    def tokenize(n: int) -> int:
        try:
            return int(
                requests.post(
                    f"{serving.url}/tokenize",
                    json=bodies[n % len(bodies)],
                    headers={"Authorization": hog},
                    timeout=(10, LONGEST),
                ).status_code
            )
        except requests.RequestException:
            return 0

    with ThreadPoolExecutor(TOKENIZERS) as pool:
        work = [pool.submit(tokenize, n) for n in range(TOKENIZERS)]
        while not all(each.done() for each in work):
            began = time.monotonic()
            # A chat that is written and tokenized too.
            body = {"messages": chat(1, "Count to 3."), "max_tokens": 4}
            assert serving.post("/v1/chat/completions", body, key=honest).status_code == 200
            worst = max(worst, time.monotonic() - began)
    statuses = {each.result() for each in work}
    print(f"{TOKENIZERS} at once: the worst honest answer took {worst:.2f} s; statuses {sorted(statuses)}")
    assert statuses <= {0, 200, 400, 422, 503}
    assert worst < (4 if TOKENIZERS < 10 else 10)
