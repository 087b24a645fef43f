"""The published OpenAPI, fuzzed: no server error, and no status that it does not name.

HEARTH_FUZZ=2000 tests/faults/test_fuzz.py tries about so many cases; the suite has a short version, without the coverage
phase for answers: it walks their hundreds of fields, as the tests of fields in tests/unit/api do. The chat messages of
/api and /chat_completion are those of /tokenize, where that phase walks them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from services.api.routes import ROUTES
from tests.support.hub import Hub
from tests.support.serving import ROOT, Server

CASES = int(os.environ.get("HEARTH_FUZZ", "150"))
WALKED = (
    "/v1/(chat/)?completions|/v1/messages.*|/v1/responses(/input_tokens)?|/(v1/)?rerank(ing)?|/infill|/apply-template"
    "|/api|/api/(chat|generate)|/chat_completion|/answer|/answer/.*/draft|/jobs|/search|/(v1/)?files|/collections"
)
SHORT = f"""
[[operations]]
include-path-regex = "^({WALKED})$"
phases.coverage.enabled = false
"""
DOCUMENTED = [route for route in ROUTES if route.tag]
N_OPERATIONS = sum(len(route.paths) * len(route.resource.methods) for route in DOCUMENTED)

pytestmark = pytest.mark.skipif(find_spec("schemathesis") is None, reason="it needs Python 3.11")


def test_the_api_is_as_its_document_says(
    serve: Callable[..., Server], models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub = Hub()
    for name, value in hub.env.items():
        monkeypatch.setenv(name, value)
    server = serve("--log-level", "ERROR", models=models)
    server.edit_config(max_tokens=32)
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"),
        *("--header", f"Authorization: {server.key}", "--checks", "not_a_server_error,status_code_conformance"),
        *("--max-examples", str(max(1, CASES // N_OPERATIONS)), "--phases", "examples,coverage,fuzzing"),
        *("--request-timeout", "60", "--seed", "1", "--generation-database", "none", "--no-color"),
        # The model stays.
        *("--exclude-path", *(path for route in DOCUMENTED if "switch" in route.audited.values() for path in route.paths)),
    ]
    if "HEARTH_FUZZ" not in os.environ:
        (tmp_path / "schemathesis.toml").write_text(SHORT)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=max(240, CASES), check=False)
    hub.close()
    (ROOT / ".schemathesis").mkdir(exist_ok=True)
    (ROOT / ".schemathesis" / "last.txt").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout[-4000:]
    tried = re.search(r"([\d,]+) generated", done.stdout)
    assert tried
    assert int(tried[1].replace(",", "")) >= CASES // 2
    assert "Traceback" not in server.log()
    assert server.ask("What is the capital of France?", temperature=0, max_tokens=40, memory_k=0)["result"]
