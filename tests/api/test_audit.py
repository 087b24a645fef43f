"""Who did what is written down, and keys and prompts never are."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from auth import audit as audit_module
from auth.audit import LINES, AuditLog
from auth.keys import MintedKey
from services.answers.request import AnswerRequest
from services.api.http.schemas import AnswerBody
from services.api.openai.schemas import ChatRequest
from services.backend.types import ChatFormat, GenerationRequest, PrefetchRequest, Prompt, Sampling, TokenChoice
from services.jobs.store import JobRequest, Reply
from services.prompts.chat import ChatForm
from services.prompts.chat_template import chat_template
from services.prompts.form import Exchange
from services.sessions.records import StoredSession
from tests.support.in_process import Client

Open = Callable[..., Client]


def lines(client: Client) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (client.data / "audit.jsonl").read_text(encoding="utf-8").splitlines()]


def test_who_did_what_is_written_down(client: Client) -> None:
    key, id_ = client.mint("Ana", scopes=["answer", "models:switch"])
    client.request("PATCH", f"/auth/key/{id_}", json={"name": "Bea"})
    client.post("/models/model", {"model": "guide.gguf", "model_config": "Pirate"}, key=key)
    client.post("/models/model", {"model": "nothing.gguf", "model_config": "Pirate"}, key=key)
    client.post("/models/pull", {"source": "hf:a/b/c.gguf"}, key=key)
    client.post(f"/auth/key/{id_}/rotate", {"grace": "1d"})
    client.delete(f"/auth/key/{id_}", headers={"X-Request-Id": "mine-1"})
    client.get("/auth", key="wrong")
    written = lines(client)
    short = [(line["did"], line["key"], line["status"]) for line in written]
    assert short == [
        ("mint", "0", 200),
        ("change", "0", 200),
        ("switch", id_, 200),
        ("switch", id_, 404),
        ("refused", id_, 403),
        ("rotate", "0", 200),
        ("revoke", "0", 200),
        ("refused", None, 401),
    ]
    assert written[0]["of"] == written[5]["of"] == written[6]["of"] == id_
    assert (written[2]["model"], written[2]["profile"]) == ("guide.gguf", "Pirate")
    assert (written[4]["method"], written[4]["route"]) == ("POST", "/models/pull")
    assert written[6]["request_id"] == "mine-1"
    assert all(line["address"] == "127.0.0.1" and line["time"].endswith("+00:00") for line in written)
    assert (client.data / "audit.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_log_that_has_grown_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "ROTATE_AT", 2000)
    logs = [AuditLog(tmp_path / "audit.jsonl") for _ in range(3)]

    def write(log: AuditLog) -> None:
        for n in range(100):
            log.note("mint", "0", of=str(n))

    threads = [threading.Thread(target=write, args=(log,)) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files = sorted(path.name for path in tmp_path.glob("audit*"))
    assert files == ["audit.1.jsonl", "audit.2.jsonl", "audit.3.jsonl", "audit.4.jsonl", "audit.5.jsonl", "audit.jsonl"]
    for path in tmp_path.glob("audit*"):
        assert path.stat().st_size < 4600
        assert all(json.loads(line)["did"] == "mint" for line in path.read_text().splitlines())


def test_a_flood_of_refusals_washes_nothing_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    log = AuditLog(tmp_path / "audit.jsonl")
    for _ in range(LINES + 40):
        log.note_refusal(None, status=401, address="192.0.2.1")
    log.note("mint", "0", of="a")
    now += 61
    log.note_refusal(None, status=401, address="192.0.2.1")
    written = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert len(written) == LINES + 2
    assert written[-1]["untold_before"] == 40


def test_what_was_done_outlives_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "ROTATE_AT", 1000)
    monkeypatch.setattr(audit_module, "LINES", 10**6)
    log = AuditLog(tmp_path / "audit.jsonl")
    log.note("mint", "0", of="a")
    for _ in range(500):
        log.note_refusal(None, status=401)
    written = "".join(path.read_text() for path in tmp_path.glob("audit*.jsonl"))
    assert '"did": "mint"' in written
    assert len(written) < 7000


def test_what_is_printed_of_our_own_things_has_no_words_of_anybodys() -> None:
    word = "marzipan-quokka"
    shown = [
        AnswerBody.model_validate({"prompt": word, "system_prompt": word, "stop": word}),
        ChatRequest.model_validate({"messages": [{"role": "user", "content": word}]}),
        AnswerRequest(word, system=word, stop=(word,)),
        Prompt(word, ids=(424242,)),
        GenerationRequest((424242,), 5, Sampling()),
        PrefetchRequest((424242,), "a", "1"),
        TokenChoice(word.encode(), -1.0, ((word.encode(), -1.0),)),
        Exchange(word, word),
        StoredSession.model_validate({"name": word, "messages": [{"type": "human", "content": word}]}),
        JobRequest("/answer", word.encode(), "d"),
        Reply(200, "text/plain", word.encode()),
        MintedKey("a", f"hearth-{word}"),
        ChatForm(chat_template(ChatFormat("", "", "", ())), ({"role": "user", "content": word},)),
    ]
    for each in shown:
        for text in (repr(each), str(each), f"{[each]}"):
            assert word not in text, text
            assert "424242" not in text, text
