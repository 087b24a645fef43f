"""The two servers as processes of their own, on free ports of the loopback, with the same model, slots and threads."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from time import monotonic, sleep
from typing import Any, ClassVar

from typing_extensions import override

from benchmarks.harness.clients import Flight, Reply
from benchmarks.harness.talk import CHAT_TEMPLATE, TEMPLATE, WINDOW, Talk
from benchmarks.harness.words import make_text
from services.models.gguf import read_gguf

ROOT = Path(__file__).resolve().parents[2]
SLOTS = 8
N_CTX = 4096
THREADS = len(os.sched_getaffinity(0))
START_SECONDS = 120
# The model that benchmarks/harness/model.py makes: its answers never end by themselves, and it has no chat template.
SYNTHETIC = "synthetic-0.4b-q4_0.gguf"
# The chat template of a file that has one.
OWN = ""
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The same slots, context and threads in llama-server's terms.
LLAMA_FLAGS = ("-c", str(N_CTX * SLOTS), "-np", str(SLOTS), "-t", str(THREADS), "-fa", "on")


class Server(ABC):
    """One of the two servers. `folder` holds its files, and is kept from one start to the next."""

    name: ClassVar[str]

    def __init__(self, model: Path, folder: Path) -> None:
        self.model = model
        self.folder = folder
        self.url = ""
        self.process: subprocess.Popen[str] | None = None
        self.is_synthetic = model.name == SYNTHETIC

    def text(self, words: int, rng: Random) -> str:
        """Return a text of so many words for this model, about 1.25 tokens a word."""
        return make_text(words, rng, english=not self.is_synthetic)

    def template_of(self, chat: str | None) -> str:
        """Return the chat template that the server has to be given; OWN for that of the model's file.

        A file without one is prompted by ChatML, so that both servers read the same text.
        """
        return chat or (OWN if read_gguf(self.model).chat_template else CHATML)

    def start(self) -> Server:
        """Start the process, and wait until it is ready to answer. Raises RuntimeError if it does not become ready."""
        self._launch()
        deadline = monotonic() + START_SECONDS
        while not self._is_ready():
            if monotonic() > deadline or self.running.poll() is not None:
                raise RuntimeError(f"{self.name} did not start; its log ends with {self.log()[-1000:]}")
            sleep(0.01)
        return self

    def stop(self) -> None:
        """Stop the process with SIGTERM, and wait for its end."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process and self.process.stdout:
            self.process.stdout.close()
        self.process = None

    @property
    def running(self) -> subprocess.Popen[str]:
        """The process, which must have been started."""
        assert self.process
        return self.process

    def log(self) -> str:
        """Return everything that it wrote to standard error."""
        return (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace")

    def ask(self, talk: Talk, words: str, tokens: int) -> Reply:
        """Return the answer to a person's next words, of exactly so many tokens, and add it to the talk."""
        return self.finish(self.send(talk, words, tokens), talk, words, tokens)

    def finish(self, flight: Flight, talk: Talk, words: str, tokens: int) -> Reply:
        """Wait for the whole answer. Raises RuntimeError if it does not have exactly `tokens` tokens."""
        reply = flight.wait()
        if reply.tokens != tokens:
            raise RuntimeError(f"{self.name}: an answer of {reply.tokens} tokens, and {tokens} were asked for")
        talk.add(words, reply.text)
        return reply

    def complete(self, prompt: str, tokens: int, **fields: Any) -> Flight:
        """Complete a text by at most so many tokens, at temperature 0 unless a field says otherwise; OpenAI's path."""
        return self._openai("/v1/completions", tokens, prompt=prompt, **fields)

    def chat(self, messages: Sequence[Mapping[str, Any]], tokens: int, **fields: Any) -> Flight:
        """Answer messages by at most so many tokens, at temperature 0 unless a field says otherwise; OpenAI's path."""
        return self._openai("/v1/chat/completions", tokens, messages=messages, **fields)

    def _openai(self, path: str, tokens: int, **fields: Any) -> Flight:
        common = {"max_tokens": tokens, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
        return Flight(self.url, path, {**common, **fields}, self.headers)

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request."""
        return {}

    @abstractmethod
    def send(self, talk: Talk, words: str, tokens: int) -> Flight:
        """Ask, and leave reading the answer to a thread."""

    @abstractmethod
    def _launch(self) -> None: ...

    @abstractmethod
    def _is_ready(self) -> bool: ...

    def _spawn(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        with (self.folder / "log.txt").open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=log, text=True)

    def connect(self) -> http.client.HTTPConnection:
        """Return a new connection to the server."""
        host, port = self.url.removeprefix("http://").split(":")
        return http.client.HTTPConnection(host, int(port), timeout=60)

    def _health(self) -> tuple[int, Any]:
        connection = self.connect()
        try:
            connection.request("GET", "/health")
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        except OSError:
            return 0, None
        finally:
            connection.close()


class Hearth(Server):
    """`main.py` over a data folder of its own, with one profile.

    `chat`: the chat template that it is prompted by, or OWN; None: the template of the talks. `profile`: more keys of the
    profile.
    """

    name = "Hearth"
    key = ""

    def __init__(
        self, model: Path, folder: Path, chat: str | None = None, profile: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(model, folder)
        if chat is None:
            form = {"template": TEMPLATE} if self.is_synthetic else {"chat_template": CHAT_TEMPLATE}
        else:
            form = {"chat_template": template} if (template := self.template_of(chat)) else {}
        self._profile = {
            "model": model.name,
            **form,
            "n_ctx": N_CTX,
            "n_parallel": SLOTS,
            "n_threads": THREADS,
            "temperature": 0,
            "memory_k": WINDOW,
            **(profile or {}),
        }

    def _launch(self) -> None:
        config = {"SelectedModel": "Benchmark", "Benchmark": self._profile}
        (self.folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        folders = ["--data", str(self.folder), "--models", str(self.model.parent)]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("HEARTH_")}
        self._spawn([sys.executable, "main.py", "--port", "0", *folders], {**environ, "PYTHONUNBUFFERED": "1"})
        assert self.running.stdout
        for line in self.running.stdout:
            if found := re.search(r"hearth-[\w-]{43}", line):
                self.key = found[0]
            if found := re.search(r"listens on (\S+)", line):
                self.url = found[1]
                return
        raise RuntimeError(f"Hearth did not start; its log ends with {self.log()[-1000:]}")

    def _is_ready(self) -> bool:
        _, health = self._health()
        return bool(health and health["status"] == "ready")

    @property
    @override
    def headers(self) -> dict[str, str]:
        return {"Authorization": self.key}

    def send(self, talk: Talk, words: str, tokens: int) -> Flight:
        """Ask in the talk's session. By OpenAI's path a model that was trained can be kept from ending its answer."""
        if not self.is_synthetic:
            message = {"role": "user", "content": words}
            return self.chat([message], tokens, session_id=talk.session, ignore_eos=True)
        fields = {"prompt": words, "session_id": talk.session, "max_tokens": tokens, "temperature": 0, "stream": True}
        return Flight(self.url, "/answer", fields, self.headers)


class LlamaServer(Server):
    """llama.cpp's server. By default its slots have their own KV caches, and old prompts are kept in RAM too.

    `chat`: the chat template of its chats, or OWN. `flags`: more flags, to try something other than its defaults.
    """

    name = "llama-server"

    def __init__(
        self, model: Path, folder: Path, binaries: Path, chat: str | None = None, flags: Sequence[str] = ()
    ) -> None:
        super().__init__(model, folder)
        self._binaries = binaries
        self._template = self.template_of(chat)
        self._flags = flags

    def _launch(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [str(self._binaries / "llama-server"), "-m", str(self.model), "--host", "127.0.0.1", "--port", str(port)]
        if self._template:
            file = self.folder / "template.jinja"
            file.write_text(self._template, encoding="utf-8")
            command += ["--chat-template-file", str(file)]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")}
        self._spawn([*command, *LLAMA_FLAGS, *self._flags], environ)

    def _is_ready(self) -> bool:
        return self._health()[0] == 200

    def send(self, talk: Talk, words: str, tokens: int) -> Flight:
        """Ask with the talk's whole text."""
        fields = {"prompt": talk.text(words), "n_predict": tokens, "temperature": 0, "stream": True, "cache_prompt": True}
        return Flight(self.url, "/completion", {**fields, "ignore_eos": not self.is_synthetic}, {})
