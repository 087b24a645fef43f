"""What the server tells of itself: /metrics, /readyz, and its log as JSON."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.serving import ROOT, Server

Serve = Callable[..., Server]
BOARD = ROOT / "examples" / "grafana.json"
UNIT = ROOT / "examples" / "hearth.service"


def measures(server: Server, **options: Any) -> dict[tuple[str, ...], float]:
    """What /metrics tells: by the name and the labels' values."""
    reply = server.get("/metrics", **options)
    assert reply.status_code == 200, reply.text
    assert reply.headers["Content-Type"].startswith("text/plain")
    families = text_string_to_metric_families(reply.text)
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def test_what_is_counted_is_what_was_done(serve: Serve) -> None:
    server = serve()
    key, id_ = server.mint("Ana")
    usage = [server.ask("Count to 3.", key=key, memory_k=0)["usage"] for _ in range(3)]
    server.post("/answer", {"prompt": ""}, key=key)
    server.get("/answer/no-such-session/at/all")
    seen = measures(server)
    assert seen["hearth_requests_total", "POST", "/answer", "200"] == 3
    assert seen["hearth_requests_total", "POST", "/answer", "400"] == 1
    assert seen["hearth_requests_total", "GET", "none", "404"] == 1
    assert seen["hearth_request_seconds_count", "/answer"] == 4
    assert seen["hearth_first_token_seconds_count",] == seen["hearth_answer_seconds_count",] == 3
    assert seen["hearth_key_requests_total", id_] == 3
    for kind in ("prompt_tokens", "cached_tokens", "completion_tokens"):
        assert seen[f"hearth_key_{kind}_total", id_] == sum(each[kind] for each in usage)
    assert seen["hearth_tokens_total", "completion"] == sum(each["completion_tokens"] for each in usage)
    assert sum(seen["hearth_cache_hits_total", tier] for tier in ("context", "ram", "disk", "none")) == 3
    assert seen["hearth_ready",] == 1
    assert seen["hearth_answers_running",] == seen["hearth_answers_waiting",] == 0
    assert seen["hearth_answers_slots",] == 8
    assert seen["hearth_models_loaded",] == 1
    assert seen["hearth_memory_bytes",] > 10**7
    assert {tier for name, *rest in seen for tier in rest if name == "hearth_state_bytes"} == {"ram", "disk"}
    # Keys by their ids only.
    assert not any(secret in str(seen) for secret in (key, server.key, "Ana"))


def test_states_are_counted_by_where_they_were(serve: Serve) -> None:
    server = serve()
    server.ask("My name is Ana.", session_id=1)
    server.ask("What is my name?", session_id=1)
    assert measures(server)["hearth_cache_hits_total", "context"] >= 1
    server.stop()
    server.start()
    server.ask("What is my name?", session_id=1)
    assert measures(server)["hearth_cache_hits_total", "disk"] == 1


def test_a_key_that_may_only_watch(server: Server) -> None:
    key, _ = server.mint("Prometheus", scopes=["metrics"])
    assert measures(server, key=f"Bearer {key}")
    assert server.post("/answer", {"prompt": "Hi"}, key=key).status_code == 403
    other, _ = server.mint()
    assert server.get("/metrics", key=other).status_code == 403
    assert server.get("/metrics", key="").status_code == 401


def test_who_is_ready_says_so_and_who_is_not_says_why(serve: Serve) -> None:
    server = serve()
    assert (server.get("/healthz", key="").json(), server.get("/readyz", key="").json()) == (
        {"status": "ok"},
        {"status": "ready"},
    )
    server.edit_config(model="missing.gguf")
    assert server.get("/healthz").status_code == 200
    reply = server.get("/readyz")
    assert (reply.status_code, reply.json()) == (503, {"status": "down"})


def test_the_log_as_json_has_a_line_for_each_request(serve: Serve) -> None:
    server = serve("--log-format", "json")
    key, id_ = server.mint("Ana")
    server.post("/answer", {"prompt": "Count to 3."}, key=key, headers={"X-Request-Id": "ask-1"})
    server.get("/auth", key="wrong", headers={"X-Request-Id": "bad-1"})
    lines = [json.loads(line) for line in server.log().splitlines()]
    (asked,) = [line for line in lines if line.get("request_id") == "ask-1"]
    assert {"method": "POST", "route": "/answer", "status": 200, "key": id_, "level": "INFO"}.items() <= asked.items()
    assert 0 < asked["seconds"] < 60
    assert re.match(r"\d{4}-\d\d-\d\d", asked["time"])
    (refused,) = [line for line in lines if line.get("request_id") == "bad-1"]
    assert (refused["status"], refused["key"]) == (401, None)


def test_as_text_the_log_is_for_people(server: Server) -> None:
    server.get("/auth")
    assert "/auth" not in server.log()


def test_the_dashboard_asks_for_what_there_is(serve: Serve) -> None:
    server = serve()
    server.ask("Hi", memory_k=0)
    names = {name for name, *_ in measures(server)}
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    asked = {
        found
        for panel in board["panels"]
        for target in panel["targets"]
        for found in re.findall(r"\b(?:hearth|process)_\w+", target["expr"])
    }
    assert len(asked) > 10
    assert asked <= names
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


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
