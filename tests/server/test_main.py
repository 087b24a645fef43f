from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.commands import run_command
from tests.support.serving import ROOT, Server

Serve = Callable[..., Server]


def test_the_first_start_shows_the_master_key_once(serve: Serve) -> None:
    server = serve()
    assert server.output.count(server.key) == 2
    assert server.key not in (server.data / "api_keys.json").read_text()
    assert server.get("/auth/key").status_code == 200
    assert server.stop() == 0
    server.start()
    assert "hearth-" not in server.output
    assert server.get("/auth/key").status_code == 200


def test_the_curl_line_that_it_shows_works(serve: Serve) -> None:
    server = serve()
    line = re.search(r"curl .*", server.output)
    assert line
    done = subprocess.run(line[0], shell=True, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout)["result"].startswith("Ask me about profiles")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("sessions.json", '{\n  "1": {"messages": [}\n}', "sessions.json, line 2, column"),
        ("sessions.json", '{\n\n  "1": {"messages": 5}\n}', "sessions.json, line 3, column \\d+: session"),
        ("api_keys.json", '{"0": ', "api_keys.json, line 1"),
        ("api_keys.json", '{\n"0": 5}', "api_keys.json, line 2, column \\d+: key"),
        ("config.json", '{"SelectedModel": "A"', "config.json, line 1"),
        ("config.json", '{"SelectedModel": "A", "A": {"modle": "x"}}', "config.json, line 1"),
    ],
)
def test_it_does_not_start_over_a_damaged_file(tmp_path: Path, name: str, text: str, says: str) -> None:
    shutil.copy(ROOT / "data" / "config.example.json", tmp_path / "config.json")
    (tmp_path / name).write_text(text)
    done = run_command("--port", "0", "--data", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("Hearth cannot start:")
    assert re.search(says, done.stderr)
    assert "Traceback" not in done.stderr
    assert (tmp_path / name).read_text() == text


def test_a_port_that_is_taken_is_named(server: Server, tmp_path: Path) -> None:
    shutil.copy(ROOT / "data" / "config.example.json", tmp_path / "config.json")
    port = server.url.rsplit(":", 1)[1]
    done = run_command("--port", port, "--data", tmp_path)
    assert done.returncode == 1
    assert f"another program has port {port} of 127.0.0.1. Give another one with --port" in done.stderr
    assert "hearth-" not in done.stdout


def test_a_python_without_the_packages_is_told_what_to_type(tmp_path: Path) -> None:
    bare = [sys.executable, "-S", "-E", "main.py", "--data", str(tmp_path)]
    done = subprocess.run(bare, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "source .venv/bin/activate" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_flag_is_named() -> None:
    for flags in (("--port", "x"), ("--nothing",)):
        done = run_command(*flags)
        assert done.returncode == 2
        assert flags[0] in done.stderr


def test_ctrl_c_and_sigterm_stop_it_cleanly(serve: Serve) -> None:
    server = serve()
    assert server.stop() == 0
    server.start()
    server.process.send_signal(2)
    assert server._ended() == 0
    # At once after it has said that it listens, too.
    server.start(ready=False)
    assert server.stop() == 0
    assert "Traceback" not in server.log()


def test_it_answers_a_request_that_comes_while_the_model_loads(serve: Serve) -> None:
    server = serve(ready=False)
    assert server.ask("What is 7 plus 5?")["result"] == "7 plus 5 is 12."


def test_an_unreadable_model_is_logged_and_the_rest_works(serve: Serve, tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "guide.gguf").write_text("no model")
    server = serve(models=models, ready=False)
    deadline = time.monotonic() + 20
    while "not a GGUF file" not in server.log():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert server.get("/auth").status_code == 200
