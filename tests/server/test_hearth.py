"""Servers from Python scripts: create_generator and ApiHost, as processes of their own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from tests.api.test_langformers import StreamProcessor
from tests.server.test_pull import write_ollama
from tests.support.forked import start
from tests.support.hub import Hub
from tests.support.serving import ROOT
from tests.support.tiny import GUIDE

REPO = "Hearth/guide-GGUF"
FRANCE = {"prompt": "What is the capital of France?", "temperature": 0}


class Script:
    """A script that runs a server."""

    def __init__(self, folder: Path, lines: str, env: dict[str, str]) -> None:
        self.folder = folder
        (folder / "script.py").write_text(
            f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{lines}\nprint('the script goes on')\n"
        )
        environ = {**os.environ, "PYTHONUNBUFFERED": "1", "HEARTH_DATA": str(folder / "data"), **env}
        self.process = start((str(folder / "script.py"),), [], environ)
        self.output = ""
        assert self.process.stdout
        for line in self.process.stdout:
            self.output += line
            if found := re.search(r"listens on (\S+)", line):
                self.url = found[1]
                return
        self.end()
        raise AssertionError(self.output)

    def generate(self, **headers: str) -> str:
        """An answer, by Langformers' own client."""
        client = StreamProcessor(headers={"Content-Type": "application/json", **headers})
        return "".join(client.process(f"{self.url}/api/generate", FRANCE))

    def end(self, number: int = signal.SIGINT) -> str:
        """Ctrl+C, or another signal; return all that it said."""
        self.process.send_signal(number)
        assert self.process.stdout
        with self.process.stdout as stdout:
            self.output += stdout.read()
        self.process.wait(30)
        return self.output


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Script]]:
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(ROOT / "data" / "config.example.json", data / "config.json")
    scripts = []

    def run_script(lines: str, **env: str) -> Script:
        scripts.append(Script(tmp_path, lines, env))
        return scripts[-1]

    yield run_script
    for script in scripts:
        if script.process.poll() is None:
            script.end(signal.SIGKILL)


def generator(arguments: str, port: int = 0) -> str:
    return f"from hearth import create_generator\ncreate_generator({arguments}).run(host='127.0.0.1', port={port})"


@pytest.mark.parametrize("model", ["Guide", "guide.gguf", str(GUIDE)])
def test_a_generator_serves_a_profile_or_a_file(run: Callable[..., Script], model: str) -> None:
    script = run(generator(f"'gguf', {model!r}"))
    assert "Paris" in script.generate()
    assert "whoever reaches this address may use /api/generate" in script.output
    named = requests.post(f"{script.url}/api/generate", json={**FRANCE, "model": "guide.gguf"}, timeout=10)
    assert (named.status_code, list(named.json())) == (403, ["error"])
    # Everything else asks for a key, as always.
    assert requests.get(f"{script.url}/answer", timeout=10).status_code == 401
    output = script.end()
    assert output.endswith("Hearth stops.\nthe script goes on\n")
    assert script.process.returncode == 0


def test_a_file_anywhere_is_served(run: Callable[..., Script], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(GUIDE, tmp_path / "elsewhere" / "mine.gguf")
    assert "Paris" in run(generator("'gguf', 'elsewhere/mine.gguf'")).generate()


def test_a_dependency_allows_and_refuses(run: Callable[..., Script]) -> None:
    lines = """
class Odd(Exception):
    status_code, detail = 418, "I am a teapot"

async def slowly(request):
    if request.headers.get("X-User") == "teapot":
        raise Odd
    if request.headers.get("X-User") != "ana":
        raise PermissionError("only Ana may")
"""
    script = run(lines + generator("'gguf', 'Guide', slowly"))
    assert "whoever reaches" not in script.output
    assert "Paris" in script.generate(**{"X-User": "ana"})
    for user, status, says in (("bob", 401, "only Ana may"), ("teapot", 418, "I am a teapot")):
        refused = requests.post(f"{script.url}/api/generate", json=FRANCE, headers={"X-User": user}, timeout=10)
        assert (refused.status_code, refused.json()["message"]) == (status, says)


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_dependency_may_be_a_generator(run: Callable[..., Script], kind: str) -> None:
    lines = f"""
{kind} check(request):
    if request.headers.get("X-User") != "ana":
        raise PermissionError("only Ana may")
    yield "ana"

"""
    script = run(lines + generator("'gguf', 'Guide', check"))
    assert "Paris" in script.generate(**{"X-User": "ana"})
    refused = requests.post(f"{script.url}/api/generate", json=FRANCE, timeout=10)
    assert (refused.status_code, refused.json()["message"]) == (401, "only Ana may")


def test_what_a_dependency_says_is_told(run: Callable[..., Script]) -> None:
    lines = "from flask import abort\n\ndef check(request):\n    abort(int(request.headers['X-Status']), 'so it is')\n\n"
    script = run(lines + generator("'gguf', 'Guide', check"))
    for status in (401, 403, 404, 429, 503):
        refused = requests.post(f"{script.url}/api/generate", json=FRANCE, headers={"X-Status": str(status)}, timeout=10)
        assert (refused.status_code, refused.json()["message"]) == (status, "so it is")


def test_guests_are_told_apart_by_what_they_send(run: Callable[..., Script]) -> None:
    script = run(generator("'gguf', 'Guide', lambda request: None"))

    def ask(prompt: str, key: str) -> str:
        client = StreamProcessor(headers={"Authorization": f"Bearer {key}"})
        return "".join(client.process(f"{script.url}/api/generate", {"prompt": prompt, "temperature": 0}))

    ask("My name is Ana.", "one")
    assert "Ana" in ask("What is my name?", "one")
    assert "Ana" not in ask("What is my name?", "two")
    # Nor is a key that reads like an address the guest who comes from there.
    client = StreamProcessor(headers={})
    "".join(client.process(f"{script.url}/api/generate", {"prompt": "My name is Bob.", "temperature": 0}))
    assert "Bob" not in ask("What is my name?", "127.0.0.1")


def test_a_repository_and_ollamas_models_are_served(run: Callable[..., Script], tmp_path: Path) -> None:
    hub = Hub()
    hub.files[REPO] = {"x-Q4_K_M.gguf": GUIDE.read_bytes(), "x-f16.gguf": b""}
    (tmp_path / "models").mkdir()
    env = {**hub.env, "HEARTH_MODELS": str(tmp_path / "models")}
    try:
        assert "Paris" in run(generator(f"'huggingface', {REPO!r}"), **env).generate()
        assert "Paris" in run(generator(f"'gguf', 'hf:{REPO}/x-Q4_K_M.gguf'"), **env).generate()
        assert len(hub.ranges()) == 1
    finally:
        hub.close()
    write_ollama(tmp_path / "ollama", "somewhere.example/library/guide/latest", GUIDE.read_bytes())
    env["OLLAMA_MODELS"] = str(tmp_path / "ollama")
    assert "Paris" in run(generator("'ollama', 'guide'"), **env).generate()
    # On one disk it is the same file, and no copy.
    assert (tmp_path / "models" / "guide.gguf").stat().st_nlink == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("'openai', 'x'", "there is no provider 'openai'; there are gguf, huggingface, ollama"),
        ("'gguf', 'gone'", 'there is no model "gone"'),
        ("'ollama', 'gone'", "Ollama has no model gone on this machine"),
        ("'huggingface', 'x'", "names no repository"),
    ],
)
def test_what_there_is_not_is_named(run: Callable[..., Script], tmp_path: Path, arguments: str, says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        run(generator(arguments), OLLAMA_MODELS=str(tmp_path), HEARTH_MODELS=str(GUIDE.parent))


def host(arguments: str = "") -> str:
    return f"from hearth import ApiHost\nApiHost({arguments}port=0).run()"


def ask_host(script: Script, token: str | None, **fields: str) -> requests.Response:
    body = {"task": "text_generation", "inputs": [{"role": "user", "content": "What is the capital of France?"}]}
    options = {"parameters": {"top_k": 1, "max_tokens": 40}, "options": {}}
    sent = {**body, **options, **({"token": token} if token else {}), "file_name": "guide.gguf", **fields}
    return requests.post(f"{script.url}/api", json=sent, timeout=60)


def test_a_host_prints_its_token_first(run: Callable[..., Script]) -> None:
    script = run(host("use_token=True, "))
    token = script.output.splitlines()[0]
    assert re.fullmatch(r"hearth-[\w-]{43}", token)
    assert ask_host(script, None).status_code == 401
    assert "Paris" in ask_host(script, token).json()["answer"]["content"]
    assert script.end().endswith("the script goes on\n")
    again = run(host())
    # The token was good for as long as its host ran.
    assert ask_host(again, token).status_code == 401


def test_a_host_without_token_answers_everybody(run: Callable[..., Script]) -> None:
    script = run(host("use_token=False, "))
    assert "whoever reaches this address may use /api" in script.output
    assert "Paris" in ask_host(script, None).json()["answer"]["content"]
    assert requests.get(f"{script.url}/models", timeout=10).status_code == 401


def test_a_hosts_token_fetches_models(run: Callable[..., Script], tmp_path: Path) -> None:
    hub = Hub()
    hub.files[REPO] = {"x.gguf": GUIDE.read_bytes()}
    (tmp_path / "models").mkdir()
    shutil.copy(GUIDE, tmp_path / "models")
    try:
        script = run(host(), HEARTH_MODELS=str(tmp_path / "models"), **hub.env)
        reply = ask_host(script, script.output.splitlines()[0], repo_id=REPO, file_name="x.gguf")
        assert "Paris" in reply.json()["answer"]["content"]
        assert (tmp_path / "models" / "x.gguf").read_bytes() == GUIDE.read_bytes()
    finally:
        hub.close()


def test_the_notebook_is_whole_and_its_host_starts(run: Callable[..., Script]) -> None:
    notebook = json.loads((ROOT / "examples" / "api_host.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    found = re.search(r'-c "(.*)"', cells[-1])
    assert found
    # On a port of the test's own, and without the network that the tunnel needs.
    # With a variable of Python's own, it is not forked.
    script = run(found[1].replace("tunnel=True", "port=0"), PYTHONNOUSERSITE="1")
    assert "Paris" in ask_host(script, script.output.splitlines()[0]).json()["answer"]["content"]
