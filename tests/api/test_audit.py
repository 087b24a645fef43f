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
from services.answers.request import AnswerRequest, Question
from services.api.http.schemas import AnswerBody
from services.api.openai.schemas import ChatRequest
from services.backend.types import ChatFormat, GenerationRequest, PrefetchRequest, Prompt, Sampling, TokenChoice
from services.jobs.store import JobRequest, Reply
from services.prompts.chat import ChatForm
from services.prompts.chat_template import chat_template
from services.prompts.form import Exchange
from services.sessions.records import StoredSession
from tests.support.serving import Server

Serve = Callable[..., Server]


def lines(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (server.data / "audit.jsonl").read_text(encoding="utf-8").splitlines()]


def test_who_did_what_is_written_down(serve: Serve) -> None:
    server = serve()
    key, id_ = server.mint("Ana", scopes=["answer", "models:switch"])
    server.request("PATCH", f"/auth/key/{id_}", json={"name": "Bea"})
    server.post("/models/model", {"model": "guide.gguf", "model_config": "Pirate"}, key=key)
    server.post("/models/model", {"model": "nothing.gguf", "model_config": "Pirate"}, key=key)
    server.post("/models/pull", {"source": "hf:a/b/c.gguf"}, key=key)
    server.post(f"/auth/key/{id_}/rotate", {"grace": "1d"})
    server.delete(f"/auth/key/{id_}", headers={"X-Request-Id": "mine-1"})
    server.get("/auth", key="wrong")
    written = lines(server)
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
    assert (server.data / "audit.jsonl").stat().st_mode & 0o777 == 0o600


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


def test_neither_keys_nor_prompts_are_ever_written(serve: Serve) -> None:
    """Mint keys, drive every endpoint with good bodies and bad, and read all that was written and said."""
    server = serve("--log-level", "DEBUG", "--log-format", "json")
    keys = [server.key, *(server.mint(name)[0] for name in ("Ana", "Bob"))]
    rotated = server.post(f"/auth/key/{server.mint()[1]}/rotate", {}).json()["key"]
    expired, _ = server.mint(expires="1s")
    word = "marzipan-quokka"
    talk = [{"role": "user", "content": word}]
    said = []
    paths = sorted(json.loads(server.get("/openapi.json").text)["paths"])
    for key in (*keys, rotated, expired, "hearth-" + "w" * 43):
        for path in paths:
            filled = path.replace("{id_}", key).replace("{number}", "1").replace("{owner}", key).replace("{name}", key)
            filled = filled.replace("{job_id}", key)
            for body in (
                {"prompt": word, "session_id": 7, "max_tokens": 1},
                {"messages": talk, "max_tokens": 1},
                {"prompt": word, "top_p": 5},
                {"token": key, "inputs": word, "nonsense": word},
                {"input": word, "model": key},
                {"source": key, "model": key, "model_config": key},
                [word],
            ):
                reply = server.post(filled, body, key=key)
                if reply.status_code >= 400:
                    said.append(reply.text)
            for method in ("GET", "DELETE", "PATCH"):
                reply = server.request(method, filled, key=key, params={"q": word}, json={"name": "x"})
                if reply.status_code >= 400 or "/auth" in path:
                    said.append(reply.text)
    titles = b"".join(path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if is_ours(path, server))
    assert b"main.py" in titles
    server.stop()
    files = {path: path.read_bytes() for path in server.data.rglob("*") if path.is_file()}
    written = server.log().encode() + titles + "".join(said).encode()
    for key in (*keys, rotated, expired):
        assert key.encode() not in written
        for path, content in files.items():
            assert key.encode() not in content, path
    assert word.encode() not in written
    # A prompt belongs in its session, in what is computed of that, and in the reply that is kept for a day.
    holding = {path.name for path, content in files.items() if word.encode() in content}
    assert holding <= {"sessions.json", "sessions.journal", "jobs.sqlite", "jobs.sqlite-wal"}
    assert len(server.log().splitlines()) > 100


def is_ours(path: Path, server: Server) -> bool:
    try:
        return str(server.data) in path.read_text(errors="replace")
    except OSError:
        return False


def test_what_is_printed_of_our_own_things_has_no_words_of_anybodys() -> None:
    word = "marzipan-quokka"
    shown = [
        AnswerBody.model_validate({"prompt": word, "system_prompt": word, "stop": word}),
        ChatRequest.model_validate({"messages": [{"role": "user", "content": word}]}),
        AnswerRequest(Question(prompt=word), system=word),
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
