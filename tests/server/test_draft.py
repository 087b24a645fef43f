"""Drafts with a real model: the answer begins from what was typed, and says the same as without it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest

from services.engine.kv.file import SUFFIX
from tests.support.real_models import smollm2
from tests.support.serving import Server

TOPICS = ("harbours", "mountains", "libraries", "railways", "gardens", "kitchens", "bridges", "markets")
PASTE = " ".join(f"In the {n}. chapter the old man tells of {topic}." for n, topic in enumerate(TOPICS * 3, start=1))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("draft")
    (folder / "models").mkdir()
    model = smollm2()
    shutil.copy(model, folder / "models" / model.name)
    made = Server(folder / "data", models=folder / "models")
    made.select("SmolLM2")
    made.edit_config("SmolLM2", n_ctx=2048, n_parallel=2, temperature=0, max_tokens=12)
    made.start()
    yield made
    made.stop()


def question(name: str) -> str:
    """A long prompt whose first word no other one has, so that nothing of it is computed before it is drafted."""
    return f"{name} reads. {PASTE} What is the capital of France?"


def n_drafted(server: Server) -> float:
    """How many tokens of drafts have been read."""
    (line,) = (each for each in server.get("/metrics").text.splitlines() if 'hearth_tokens_total{kind="draft"}' in each)
    return float(line.split()[-1])


def draft(server: Server, session: int, prompt: str) -> dict[str, Any]:
    """Send a draft whose words no other prompt has had, and wait until they are read."""
    n_before = n_drafted(server)
    reply = dict(server.post(f"/answer/{session}/draft", {"prompt": prompt}).json())
    assert reply["drafted"], reply
    deadline = time.monotonic() + 30
    # The mark before the words may have been read with another prompt.
    while n_drafted(server) < n_before + reply["charged_tokens"] - 4:
        assert time.monotonic() < deadline, "the draft is not read"
        time.sleep(0.02)
    return reply


def n_read(answer: dict[str, Any]) -> int:
    """How many tokens of its prompt were computed for an answer."""
    return int(answer["usage"]["prompt_tokens"] - answer["usage"]["cached_tokens"])


def test_the_answer_begins_from_the_draft(server: Server) -> None:
    words = question("Bertram")
    server.ask("Say yes.", session_id=2)
    told = server.get("/answer/2").json()
    # First one that stops within a word, and then a longer one.
    first = draft(server, 2, words[: len(words) // 2])
    whole = draft(server, 2, words)
    assert first["charged_tokens"] + whole["charged_tokens"] == pytest.approx(300, abs=60)
    assert n_drafted(server) < whole["tokens"] + 40, "what was read before is not read again"
    assert server.get("/answer/2").json() == told
    answer = server.ask(words, session_id=2)
    assert n_read(answer) < 30
    assert n_read(server.ask("And now?", session_id=2)) < 60, "and the conversation goes on as always"
    assert "Paris" in answer["result"]


def test_another_prompt_is_answered_as_without_a_draft(server: Server) -> None:
    words = question("Zoe")
    half = f"{words[: len(words) // 2].rpartition('.')[0]}. What is the capital of France?"
    for session, drafted, prompt in ((4, words, half), (5, question("Hugo"), "What is the capital of France?")):
        server.ask("Say yes.", session_id=session)
        draft(server, session, drafted)
        answer = server.ask(prompt, session_id=session)
        assert "Paris" in answer["result"]
        assert n_read(answer) < 60


def test_a_forgotten_draft_is_read_anew(server: Server) -> None:
    words = question("Wanda")
    draft(server, 8, words)
    assert server.delete("/answer/8/draft").json() == {"deleted": True}
    assert n_read(server.ask(words, session_id=8)) > 200


def test_a_restart_forgets_the_drafts_and_no_session(server: Server) -> None:
    words = question("Quincy")
    server.ask("Say yes.", session_id=9)
    draft(server, 9, words)
    server.stop()
    kept = b"".join(path.read_bytes() for path in server.data.rglob(f"*{SUFFIX}"))
    assert b'"9"' in kept
    assert b"~draft" not in kept
    server.start()
    answer = server.ask(words, session_id=9)
    assert n_read(answer) > 200
    assert "Paris" in answer["result"]
