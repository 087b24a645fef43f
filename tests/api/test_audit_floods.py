"""Nobody washes away what others did: not by what fails, not by what they may do, not by keys that they mint."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from auth import audit as audit_module
from auth.audit import LINES, AuditLog
from auth.rate_limits import ACTIONS
from auth.usage import as_csv
from services.logs import visible
from tests.support.commands import run_command
from tests.support.in_process import Client
from tests.support.serving import ROOT

Open = Callable[..., Client]
ODD = "Ana\x1b[2J\u202egnp.\u2066x\x00\u200b\nBob\x9b31m"


def lines_of(data: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in data.glob("audit*.jsonl") for line in path.read_text().splitlines()]


def test_failed_switches_and_renames_have_few_lines(client: Client) -> None:
    mallory, _ = client.mint("Mallory", scopes=["models:switch", "models:read", "keys"])
    child = client.post("/auth/key", {"scopes": ["models:switch", "keys"]}, key=mallory).json()
    statuses: Counter[tuple[str, int]] = Counter()
    for n in range(ACTIONS + 10):
        body = {"model": "nothing.gguf", "model_config": "Guide"}
        reply = client.post("/models/model", body, key=(mallory, child["key"])[n % 2])
        statuses["switch", reply.status_code] += 1
        reply = client.request("PATCH", f"/auth/key/{child['id']}", json={"name": f"{n}"}, key=mallory)
        statuses["change", reply.status_code] += 1
    assert (reply.json()["error"]["param"], reply.json()["error"]["code"]) == ("change", "rate_limit_exceeded")
    assert statuses == {("switch", 404): ACTIONS, ("switch", 429): 10, ("change", 200): ACTIONS, ("change", 429): 10}
    for n in range(LINES + 10):
        client.request("PATCH", f"/auth/key/{child['id']}", json={"name": f"{n}"})
    counts = Counter((line["did"], line["key"] == "0") for line in lines_of(client.data))
    assert counts[("switch", False)] == counts[("change", False)] == ACTIONS
    assert counts[("change", True)] == LINES + 10


def test_what_a_key_mints_is_metered_and_has_a_line_each(client: Client) -> None:
    mallory, id_ = client.mint("Mallory", scopes=["answer", "keys"])
    child = client.post("/auth/key", {"scopes": ["answer", "keys"]}, key=mallory).json()
    minted, statuses = {child["id"]}, []
    for n in range(ACTIONS + 5):
        reply = client.post("/auth/key", {"scopes": ["answer"]}, key=(mallory, child["key"])[n % 2])
        statuses.append(reply.status_code)
        if reply.status_code == 200:
            minted.add(reply.json()["id"])
            assert client.delete(f"/auth/key/{reply.json()['id']}", key=(mallory, child["key"])[n % 2]).status_code == 200
    assert statuses == [200] * (ACTIONS - 1) + [429] * 6
    assert 1 <= int(reply.headers["Retry-After"]) <= 60
    # As many as there are: all that was done is told of.
    told = [
        line for line in lines_of(client.data) if line["did"] in ("mint", "revoke") and line["key"] in (id_, child["id"])
    ]
    assert Counter(line["did"] for line in told) == {"mint": ACTIONS, "revoke": ACTIONS - 1}
    assert {line["of"] for line in told if line["did"] == "mint"} == minted
    few, _ = client.mint("Few", scopes=["answer", "keys"], limits={"requests_per_minute": 2})
    terms = {"scopes": ["answer"], "limits": {"requests_per_minute": 1}}
    assert [client.post("/auth/key", terms, key=few).status_code for _ in range(3)] == [200, 200, 429]
    assert client.post("/answer", {"prompt": "Hi", "max_tokens": 1}, key=few).status_code == 429


def test_what_was_not_told_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    log = AuditLog(tmp_path / "audit.jsonl")
    for _ in range(LINES + 5):
        log.note("switch", "a", status=404)
    log.note("switch", "a", status=200)
    log.note("switch", "b", status=404)
    now += 61
    log.note("switch", "a", status=404)
    written = lines_of(tmp_path)
    assert len(written) == LINES + 3
    assert [line.get("untold_before") for line in written[-3:]] == [None, None, 5]


def test_refusals_of_one_do_not_hide_those_of_others(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    for n in range(500):
        log.note_refusal(None, status=401, address=f"2001:db8::{n:x}")
        log.note_refusal("mallory", status=403, address="192.0.2.1")
        log.note_refusal(f"guest-{n}", status=403, address="192.0.2.3")
    log.note_refusal("ana", status=403, address="192.0.2.2")
    log.note_refusal(None, status=401, address="192.0.2.2")
    written = lines_of(tmp_path)
    assert len(written) == 3 * LINES + 2
    assert (written[-2]["key"], written[-1]["address"]) == ("ana", "192.0.2.2")


def test_what_others_did_outlives_one_that_did_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "ROTATE_AT", 3000)
    monkeypatch.setattr(audit_module, "LINES", 10**6)
    log = AuditLog(tmp_path / "audit.jsonl")
    log.note("mint", "ana", of="x", status=200)
    log.note("revoke", "0", of="y", status=200)
    for n in range(1500):
        log.note("change", f"child {n}", "mallory", of="z", status=200)
        log.note("switch", "mallory", status=404)
    written = lines_of(tmp_path)
    assert {"ana", "0"} <= {line["key"] for line in written}
    assert sum(path.stat().st_size for path in tmp_path.glob("audit*.jsonl")) < 10 * 3000


def test_names_are_shown_written_out(client: Client) -> None:
    key, _ = client.mint(ODD, profiles=["Guide", ODD[:20]])
    client.ask("Hi", key=key, max_tokens=1)
    for command in (["list"], ["usage"], ["usage", "--csv"], ["usage", "--json"]):
        done = run_command("keys", *command, "--data", client.data)
        assert done.returncode == 0, done.stderr
        said = done.stdout
        assert not [each for each in said if visible(each) != each and each != "\n"], command
        if command != ["usage", "--json"]:
            assert "Ana" in said
            assert "\\x1b[2J\\u202e" in said.replace("\n", "")
    assert ODD not in client.get("/auth/usage", params={"format": "csv"}).text
    (row,) = as_csv([{"name": "\t=1", "key": "k"}]).splitlines()[1:]
    assert "\\x09=1" in row


def test_a_name_in_the_log_forges_no_line() -> None:
    script = "import logging; from services.logs import set_up; set_up('INFO', 'text'); "
    script += "logging.info('a %s', 'x\\nERROR \\x1b[2J')"
    said = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stderr
    assert len(said.splitlines()) == 1
    assert "\\x0aERROR \\x1b[2J" in said
