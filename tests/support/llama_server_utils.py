"""The module `utils` of llama-server's own tests, over a Hearth server that runs already; a plugin of their pytest.

Where they start llama-server, a profile with the settings that they ask for is selected. Its model is a small one made for
tests, and its chat template the test's own, or ChatML, which llama-server takes for a model without one.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, Tuple  # noqa: UP035
from urllib.parse import urlsplit

import requests

# What the tests take from `utils`.
__all__ = [
    "Literal",
    "ServerError",
    "ServerPreset",
    "ServerProcess",
    "Tuple",
    "is_slow_test_allowed",
    "json",
    "match_regex",
    "os",
    "server_instances",
]

# The environment variable that tells of the server, as a JSON object: its addresses and its config.json.
SERVER = "HEARTH_LLAMA_TESTS"
_SECONDS = 60
# What requests of the tests name as their model: profiles like the selected one.
_NAMES = ("test", "gpt-3.5-turbo-instruct", "gpt-4.1", "text-embedding-3-small")
# llama-server has these endpoints without /v1 too.
_OPENAI = ("/chat/completions", "/responses")
_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Files of the templates that llama-server knows by a name, beside ChatML.
_TEMPLATES = {"llama3": "../../../models/templates/meta-llama-Llama-3.1-8B-Instruct.jinja", "chatml": None}
_THINKING = {"on": True, "off": False}

server_instances: set[ServerProcess] = set()
sys.modules["utils"] = sys.modules[__name__]


class ServerError(Exception):
    """A stream that was refused, with its status and body."""

    def __init__(self, code: int, body: Any) -> None:
        super().__init__(code, body)
        self.code = code
        self.body = body


class ServerProcess:
    """The running server, as a test sets it up. What it sets beside these attributes has no effect."""

    def __init__(self, file: str, alias: str, n_ctx: int, n_slots: int = 1) -> None:
        self.file = file
        self.model_alias = alias
        self.n_ctx = n_ctx
        self.n_slots = n_slots
        self.n_batch = 512
        self.n_predict = 64
        self.temperature = 0.8
        self.seed = 42
        self.api_key: str | None = None
        self.chat_template: str | None = None
        self.chat_template_file: str | None = None
        self.reasoning: str | None = None

    def start(self, timeout_seconds: int = _SECONDS) -> None:
        """Select a profile of these settings."""
        facts = json.loads(os.environ[SERVER])
        # The keyless address takes any key, as llama-server does without one.
        address = urlsplit(facts["keyed" if self.api_key else "keyless"])
        self.server_host, self.server_port = address.hostname, address.port
        names = dict.fromkeys((self.model_alias, *_NAMES), self._profile())
        path = Path(facts["config"])
        config = json.dumps({"SelectedModel": self.model_alias, **names})
        if config != path.read_text(encoding="utf-8"):
            new = path.with_suffix(".new")
            new.write_text(config, encoding="utf-8")
            new.replace(path)

    def stop(self) -> None:
        """Leave the server running, for the next test."""

    def make_url(self, path: str) -> str:
        """Return where the server has the path."""
        return f"http://{self.server_host}:{self.server_port}{'/v1' * path.startswith(_OPENAI)}{path}"

    def make_request(
        self, method: str, path: str, data: Any = None, headers: Any = None, timeout: float | None = _SECONDS
    ) -> SimpleNamespace:
        """Send a request; return its reply, the body as JSON or as text."""
        reply = requests.request(method, self.make_url(path), json=data, headers=headers, timeout=timeout)
        try:
            body = reply.json()
        except requests.JSONDecodeError:
            body = reply.text
        print(method, path, json.dumps(data), "→", reply.status_code, json.dumps(body))
        return SimpleNamespace(headers=dict(reply.headers), status_code=reply.status_code, body=body)

    def make_stream_request(
        self, method: str, path: str, data: Any = None, headers: Any = None
    ) -> Iterator[dict[str, Any]]:
        """Yield the events of a stream. Raises ServerError."""
        url = self.make_url(path)
        with requests.request(method, url, json=data, headers=headers, timeout=_SECONDS, stream=True) as reply:
            if reply.status_code != 200:
                raise ServerError(reply.status_code, reply.json())
            for line in reply.iter_lines(decode_unicode=True):
                if line.startswith("data: ") and line != "data: [DONE]":
                    print(line)
                    yield json.loads(line.removeprefix("data: "))

    def make_any_request(
        self, method: str, path: str, data: Any, headers: Any = None, timeout: float | None = _SECONDS
    ) -> Any:
        """Return a chat's whole reply, or what its stream adds up to: its content and the names and arguments of calls."""
        if not data.get("stream"):
            reply = self.make_request(method, path, data, headers, timeout)
            assert reply.status_code == 200, reply.body
            return reply.body
        content, calls, finish = "", dict[int, dict[str, Any]](), None
        for event in self.make_stream_request(method, path, data, headers):
            for choice in event["choices"]:
                content += choice["delta"].get("content") or ""
                finish = choice["finish_reason"] or finish
                for piece in choice["delta"].get("tool_calls") or ():
                    call = calls.setdefault(
                        piece["index"], {"id": piece.get("id"), "function": {"name": "", "arguments": ""}}
                    )
                    for name, text in piece["function"].items():
                        call["function"][name] += text
        message = {"role": "assistant", "content": content or None, "tool_calls": list(calls.values()) or None}
        return {"choices": [{"index": 0, "finish_reason": finish, "message": message}]}

    def _profile(self) -> dict[str, Any]:
        file = _TEMPLATES[self.chat_template] if self.chat_template else self.chat_template_file
        profile = {
            "model": self.file,
            # llama-server's slots share the context that is asked for.
            "n_ctx": self.n_ctx // self.n_slots,
            "n_parallel": self.n_slots,
            "n_batch": self.n_batch,
            "n_threads": 1,
            "max_tokens": self.n_predict,
            "temperature": self.temperature,
            "seed": self.seed,
            "chat_template": Path(file).read_text(encoding="utf-8") if file else _CHATML,
        }
        return {**profile, "thinking": _THINKING[self.reasoning]} if self.reasoning in _THINKING else profile


class ServerPreset:
    """The servers that the tests begin with."""

    @staticmethod
    def load_all() -> None:
        """Download nothing."""

    @staticmethod
    def tinyllama2() -> ServerProcess:
        """A model that talks."""
        return ServerProcess("random.gguf", "tinyllama-2", 512, n_slots=2)

    @staticmethod
    def tinyllama_infill() -> ServerProcess:
        """One that fills in gaps."""
        return ServerProcess("coder.gguf", "tinyllama-infill", 2048)

    @staticmethod
    def bert_bge_small() -> ServerProcess:
        """One that makes embeddings."""
        return ServerProcess("embedding.gguf", "bert-bge-small", 512)

    @staticmethod
    def bert_bge_small_with_fa() -> ServerProcess:
        """The same with a longer context."""
        return ServerProcess("embedding.gguf", "bert-bge-small", 1024, n_slots=2)

    @staticmethod
    def jina_reranker_tiny() -> ServerProcess:
        """One that ranks texts."""
        return ServerProcess("ranker.gguf", "jina-reranker", 512)


def match_regex(regex: str, text: str) -> bool:
    """Tell whether the text has what the expression looks for."""
    return re.search(regex, text, re.IGNORECASE | re.MULTILINE | re.DOTALL) is not None


def is_slow_test_allowed() -> bool:
    """Tell that tests of large models are not run."""
    return False
