"""What the server tells of itself: /metrics, /readyz, and its log as JSON."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.in_process import Client
from tests.support.serving import ROOT, measures

Open = Callable[..., Client]
UNIT = ROOT / "examples" / "hearth.service"


def test_what_is_counted_is_what_was_done(client: Client) -> None:
    key, id_ = client.mint("Ana")
    usage = [client.ask("Count to 3.", key=key, memory_k=0)["usage"] for _ in range(3)]
    client.post("/answer", {"prompt": ""}, key=key)
    client.get("/answer/no-such-session/at/all")
    seen = measures(client)
    assert seen["hearth_requests_total", "POST", "/answer", "200"] == 3
    assert seen["hearth_requests_total", "POST", "/answer", "400"] == 1
    assert seen["hearth_requests_total", "GET", "none", "404"] == 1
    assert seen["hearth_request_seconds_count", "/answer"] == 4
    assert seen["hearth_first_token_seconds_count",] == seen["hearth_answer_seconds_count",] == 3
    assert seen["hearth_key_requests_total", id_] == 3
    for kind in ("prompt_tokens", "cached_tokens", "completion_tokens"):
        assert seen[f"hearth_key_{kind}_total", id_] == sum(each[kind] for each in usage)
    assert seen["hearth_tokens_total", "completion"] == sum(each["completion_tokens"] for each in usage)
    assert seen["hearth_speculation_tokens_total", "drafted"] == seen["hearth_speculation_tokens_total", "accepted"] == 0
    assert sum(seen["hearth_cache_hits_total", tier] for tier in ("context", "ram", "disk", "none")) == 3
    assert seen["hearth_ready",] == 1
    assert seen["hearth_answers_running",] == seen["hearth_answers_waiting",] == 0
    assert seen["hearth_answers_slots",] == 8
    assert seen["hearth_models_loaded",] == 1
    assert seen["hearth_memory_bytes",] > 10**7
    assert {tier for name, *rest in seen for tier in rest if name == "hearth_state_bytes"} == {"ram", "disk"}
    # Keys by their ids only.
    assert not any(secret in str(seen) for secret in (key, client.key, "Ana"))


def test_a_key_that_may_only_watch(client: Client) -> None:
    key, _ = client.mint("Prometheus", scopes=["metrics"])
    assert measures(client, key=f"Bearer {key}")
    assert client.post("/answer", {"prompt": "Hi"}, key=key).status_code == 403
    other, _ = client.mint()
    assert client.get("/metrics", key=other).status_code == 403
    assert client.get("/metrics", key="").status_code == 401


def test_who_is_ready_says_so_and_who_is_not_says_why(client: Client) -> None:
    assert (client.get("/healthz", key="").json(), client.get("/readyz", key="").json()) == (
        {"status": "ok"},
        {"status": "ready"},
    )
    client.edit_config(model="missing.gguf")
    assert client.get("/healthz").status_code == 200
    reply = client.get("/readyz")
    assert (reply.status_code, reply.json()) == (503, {"status": "down"})


@pytest.mark.skipif(not Path("/usr/bin/systemd-analyze").exists(), reason="there is no systemd here")
def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    text = UNIT.read_text(encoding="utf-8")
    (tmp_path / "hearth.service").write_text(re.sub(r"(?m)^(ExecStart)=.*$", r"\1=/bin/true", text))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "hearth.service")], capture_output=True, text=True
    )
    assert "hearth.service" not in done.stderr, done.stderr
    for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "User=hearth", "Restart=always", "CapabilityBoundingSet="):
        assert line in text
