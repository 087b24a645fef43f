"""The log of a server, and what it measures of its engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable

from tests.support.serving import ROOT, Server, measures

Serve = Callable[..., Server]


BOARD = ROOT / "examples" / "grafana.json"


def test_states_are_counted_by_where_they_were(serve: Serve) -> None:
    server = serve()
    server.ask("My name is Ana.", session_id=1)
    server.ask("What is my name?", session_id=1)
    assert measures(server)["hearth_cache_hits_total", "context"] >= 1
    server.stop()
    server.start()
    server.ask("What is my name?", session_id=1)
    assert measures(server)["hearth_cache_hits_total", "disk"] == 1


def test_lines_of_the_text_log_end_with_the_id_of_their_request() -> None:
    program = (
        "import logging; from services import logs; logs.set_up('INFO', 'text'); log = logging.getLogger('a.b');"
        "log.info('before'); logs.request_id.set('ask-1'); log.warning('a disk\\nis full')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    before, line = done.stderr.splitlines()
    assert before.endswith("INFO a.b: before")
    assert line.endswith(r"WARNING a.b: a disk\x0ais full [ask-1]")


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
