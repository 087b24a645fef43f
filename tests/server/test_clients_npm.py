"""The packages ollama, openai and ai (with @ai-sdk/openai-compatible) of npm, unchanged, against the real server.

Each runs once, in a script of the folder npm that reports all that the package made of the server's replies.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.server.test_agents import DONE, FIRST, QUESTION, RULES, STEPS, Library, scripts_of
from tests.support.families import LLAMA, QWEN, scripted_server
from tests.support.serving import Server

FOLDER = Path(__file__).parent / "npm"
FRANCE = "What is the capital of France?"
PARIS = "The capital of France is Paris."
PROMPT = f"You are the guide of this server.\n\nHuman: {FRANCE}\nAI:"
FAMILIES = (QWEN, LLAMA)
ASKED = [[FIRST + n, f"the moons of Jupiter, part {n}"] for n in range(STEPS)]

Report = Callable[[str], Any]
"""Gives the result of a part of a script; raises AssertionError where the part failed."""


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = {family.name: (family, scripts_of(family)) for family in FAMILIES}
    with scripted_server(tmp_path_factory.mktemp("npm"), models) as running:
        yield running


@pytest.fixture(scope="module")
def run(server: Server, scripted: Server) -> Callable[[str], Report]:
    """Runs a script, once."""
    assert (FOLDER / "node_modules").is_dir(), "the packages are not there: ./setup.sh test installs them"
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.lstrip("v").split(".")[0]) < 18:
        pytest.skip("needs Node.js 18")
    library = Library()
    given = {
        "server": {"url": server.url, "key": server.key},
        "scripted": {"url": scripted.url, "key": scripted.key},
        "families": [family.name for family in FAMILIES],
        "rules": RULES,
        "question": QUESTION,
        "facts": [library.look_up(FIRST + n, "") for n in range(STEPS)],
        "france": FRANCE,
        "prompt": PROMPT,
    }

    @cache
    def run_script(name: str) -> Report:
        command = ["node", f"{FOLDER / name}.mjs"]
        done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        parts = json.loads(done.stdout)

        def report(part: str) -> Any:
            assert "failed" not in parts[part], parts[part]["failed"]
            return parts[part]["result"]

        return report

    return run_script


@pytest.fixture
def ollama(run: Callable[[str], Report]) -> Report:
    return run("ollama")


@pytest.fixture
def openai(run: Callable[[str], Report]) -> Report:
    return run("openai")


@pytest.fixture
def ai(run: Callable[[str], Report]) -> Report:
    return run("ai")


def vectors_of(server: Server) -> list[list[float]]:
    reply = server.post("/v1/embeddings", {"model": "Guide", "input": ["One", "Two"]}).json()
    return [entry["embedding"] for entry in reply["data"]]


def refusal_of(server: Server, path: str, model: str) -> Any:
    """The error that the server gives for a model that it does not have."""
    reply = server.post(path, {"model": model, "messages": [{"role": "user", "content": FRANCE}]})
    assert reply.status_code == 404
    error = reply.json()["error"]
    assert model in json.dumps(error)
    return error


def is_city(city: Any) -> bool:
    return city.keys() == {"name", "people"} and len(city["name"]) <= 12 and 0 <= city["people"] <= 99


def test_ollama_chats_and_prompts(ollama: Report) -> None:
    whole = ollama("whole")
    assert (whole["message"]["content"], whole["done_reason"], whole["model"]) == (PARIS, "stop", "Guide")
    parts = ollama("streamed")
    assert "".join(part["message"]["content"] for part in parts) == PARIS
    assert [part["done"] for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1]["eval_count"] == whole["eval_count"]
    assert ollama("generated")["response"] == PARIS
    assert "".join(part["response"] for part in ollama("generated_streamed")) == PARIS


def test_ollama_has_forms_vectors_and_models(server: Server, ollama: Report) -> None:
    assert ollama("form")["capital"] in (True, False)
    vectors = ollama("vectors")
    assert vectors == [pytest.approx(vector, abs=1e-6) for vector in vectors_of(server)]
    assert ollama("vector") == vectors[0]
    for part in ("models", "running"):
        assert "Guide:latest" in [model["model"] for model in ollama(part)]
    assert ollama("shown")["details"]["family"] == "llama"
    assert ollama("version") == server.get("/api/version").json()


def test_ollama_reports_errors(server: Server, ollama: Report) -> None:
    message = refusal_of(server, "/api/chat", "llama3.2")
    assert ollama("missing") == {"name": "ResponseError", "message": message, "status_code": 404}
    assert ollama("missing_streamed") == message
    assert ollama("stranger") == 401


@pytest.mark.parametrize("n", range(len(FAMILIES)), ids=[family.name for family in FAMILIES])
def test_ollamas_tool_loop(ollama: Report, n: int) -> None:
    loop = ollama("loops")[n]
    assert (loop["asked"], loop["said"].strip()) == (ASKED, DONE)
    assert [bool(thought) for thought in loop["thoughts"]] == [FAMILIES[n].thinks] * (STEPS + 1)


def test_openai_chats_whole_and_streamed(openai: Report) -> None:
    whole = openai("whole")
    assert whole["choices"][0]["message"]["content"] == PARIS
    *chunks, last = openai("streamed")
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == PARIS
    assert last["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    gathered = openai("gathered")
    assert gathered["text"] == gathered["reply"]["choices"][0]["message"]["content"] == PARIS
    assert gathered["reply"]["choices"][0]["finish_reason"] == "stop"


def test_openai_has_completions_vectors_and_models(server: Server, openai: Report) -> None:
    (completed,) = openai("completed")["choices"]
    assert completed["text"].strip() == PARIS
    assert "".join(completed["logprobs"]["tokens"]) == completed["text"]
    assert "".join(piece["choices"][0]["text"] for piece in openai("completed_streamed")) == completed["text"]
    assert openai("vectors") == [pytest.approx(vector, abs=1e-6) for vector in vectors_of(server)]
    assert "Guide" in [model["id"] for model in openai("models")]
    assert openai("retrieved")["owned_by"] == "hearth"


def test_openai_parses_answers(openai: Report) -> None:
    assert is_city(openai("form"))


def test_openai_reports_errors(server: Server, openai: Report) -> None:
    error = refusal_of(server, "/v1/chat/completions", "gpt-4o")
    missing = openai("missing")
    assert missing.pop("request_id")
    assert missing == {
        "is_known": True,
        "message": f"404 {error['message']}",
        "status": 404,
        "code": "model_not_found",
        "param": "model",
    }
    assert openai("missing_streamed") == missing["message"]
    assert openai("stranger")


@pytest.mark.parametrize("part", ["loops", "loops_streamed"])
@pytest.mark.parametrize("n", range(len(FAMILIES)), ids=[family.name for family in FAMILIES])
def test_openais_tool_loop(openai: Report, n: int, part: str) -> None:
    loop = openai(part)[n]
    assert (loop["asked"], loop["said"].strip()) == (ASKED, DONE)
    assert loop["ends"] == ["tool_calls"] * STEPS + ["stop"]


def test_ai_generates_and_streams_text(ai: Report) -> None:
    whole, streamed = ai("whole"), ai("streamed")
    assert (whole["text"], whole["finishReason"], whole["model"]) == (PARIS, "stop", "Guide")
    assert ("".join(streamed["pieces"]), streamed["finishReason"]) == (PARIS, "stop")
    for field in ("inputTokens", "outputTokens", "totalTokens"):
        assert streamed["usage"][field] == whole["usage"][field] > 0


def test_ai_has_objects_and_vectors(server: Server, ai: Report) -> None:
    assert is_city(ai("form"))
    streamed = ai("form_streamed")
    assert streamed["partial"][-1] == streamed["whole"]
    assert is_city(streamed["whole"])
    vectors = ai("vectors")
    assert vectors["embeddings"] == [pytest.approx(vector, abs=1e-6) for vector in vectors_of(server)]
    assert vectors["usage"]["tokens"] > 0


def test_ai_reports_errors(server: Server, ai: Report) -> None:
    message = refusal_of(server, "/v1/chat/completions", "gpt-4o")["message"]
    assert ai("missing") == {"is_known": True, "message": message, "status": 404, "isRetryable": False}
    assert ai("missing_streamed") == [message]
    assert ai("stranger") == 401


@pytest.mark.parametrize("part", ["loops", "loops_streamed"])
@pytest.mark.parametrize("n", range(len(FAMILIES)), ids=[family.name for family in FAMILIES])
def test_ais_tool_loop(ai: Report, n: int, part: str) -> None:
    loop = ai(part)[n]
    assert (loop["asked"], loop["said"].strip()) == (ASKED, DONE)
    assert loop["ends"] == ["tool-calls"] * STEPS + ["stop"]
    assert [bool(thought) for thought in loop["thoughts"]] == [FAMILIES[n].thinks] * (STEPS + 1)


def test_ai_warns_of_nothing(ai: Report) -> None:
    assert ai("warnings") == []
