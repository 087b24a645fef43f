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
from time import monotonic, sleep
from typing import Any, ClassVar

from typing_extensions import override

from benchmarks.harness.clients import Flight, Reply
from benchmarks.harness.talk import TEMPLATE, WINDOW, Talk

ROOT = Path(__file__).resolve().parents[2]
SLOTS = 8
N_CTX = 4096
THREADS = len(os.sched_getaffinity(0))
START_SECONDS = 120
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
        _, said = self.token_counts(reply)
        if said != tokens or len(reply.arrivals) != tokens:
            raise RuntimeError(f"{self.name}: {said} tokens in {len(reply.arrivals)} events, and {tokens} were asked for")
        talk.add(words, reply.text)
        return reply

    def complete(self, prompt: str, tokens: int, seed: int, schema: Mapping[str, Any] | None = None) -> Flight:
        """Complete a text by at most so many tokens at temperature 1, by a JSON schema if there is one; OpenAI's path."""
        fields: dict[str, Any] = {"prompt": prompt, "max_tokens": tokens, "seed": seed, "temperature": 1, "stream": True}
        fields["stream_options"] = {"include_usage": True}
        if schema is not None:
            fields["json_schema"] = schema
        return Flight(self.url, "/v1/completions", fields, self.headers)

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request."""
        return {}

    @abstractmethod
    def send(self, talk: Talk, words: str, tokens: int) -> Flight:
        """Ask, and leave reading the answer to a thread."""

    @abstractmethod
    def token_counts(self, reply: Reply) -> tuple[int, int]:
        """Return the tokens of the prompt and of the answer, as the server reports them."""

    @abstractmethod
    def _launch(self) -> None: ...

    @abstractmethod
    def _is_ready(self) -> bool: ...

    def _spawn(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        with (self.folder / "log.txt").open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=log, text=True)

    def _health(self) -> tuple[int, Any]:
        host, port = self.url.removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        try:
            connection.request("GET", "/health")
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        except OSError:
            return 0, None
        finally:
            connection.close()


class Hearth(Server):
    """`main.py` over a data folder of its own, with one profile."""

    name = "Hearth"
    key = ""

    def __init__(self, model: Path, folder: Path, template: str = TEMPLATE) -> None:
        super().__init__(model, folder)
        self._profile = {
            "model": model.name,
            "template": template,
            "n_ctx": N_CTX,
            "n_parallel": SLOTS,
            "n_threads": THREADS,
            "temperature": 0,
            "memory_k": WINDOW,
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
        """Ask in the talk's session."""
        fields = {"prompt": words, "session_id": talk.session, "max_tokens": tokens, "temperature": 0, "stream": True}
        return Flight(self.url, "/answer", fields, self.headers)

    def token_counts(self, reply: Reply) -> tuple[int, int]:
        """From the summary's usage."""
        usage = reply.last["usage"]
        return usage["prompt_tokens"], usage["completion_tokens"]


class LlamaServer(Server):
    """llama.cpp's server. By default its slots have their own KV caches, and old prompts are kept in RAM too."""

    name = "llama-server"
    extra: Sequence[str] = ()
    """More flags, to try something other than its defaults."""

    def __init__(self, model: Path, folder: Path, binaries: Path) -> None:
        super().__init__(model, folder)
        self._binaries = binaries

    def _launch(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [str(self._binaries / "llama-server"), "-m", str(self.model), "--host", "127.0.0.1", "--port", str(port)]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")}
        self._spawn([*command, *LLAMA_FLAGS, *self.extra], environ)

    def _is_ready(self) -> bool:
        return self._health()[0] == 200

    def send(self, talk: Talk, words: str, tokens: int) -> Flight:
        """Ask with the talk's whole text."""
        fields = {"prompt": talk.text(words), "n_predict": tokens, "temperature": 0, "stream": True, "cache_prompt": True}
        return Flight(self.url, "/completion", fields, {})

    def token_counts(self, reply: Reply) -> tuple[int, int]:
        """From the last event."""
        return reply.last["tokens_evaluated"], reply.last["tokens_predicted"]
