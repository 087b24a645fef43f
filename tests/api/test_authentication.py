from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from auth.keys import KeyStore
from tests.support.in_process import Client
from tests.support.serving import ROOT

PROMPT = "from auth.authentication import generate_api_key; print(generate_api_key({}))"


def from_a_python_prompt(data: Path, name: str = "") -> str:
    environ = {**os.environ, "HEARTH_DATA": str(data)}
    command = [sys.executable, "-c", PROMPT.format(repr(name) if name else "")]
    return subprocess.run(command, cwd=ROOT, env=environ, check=True, capture_output=True, text=True).stdout.strip()


def test_a_person_may_generate_a_key_for_the_running_server(client: Client) -> None:
    key = from_a_python_prompt(client.data, "Ana")
    assert client.get("/auth", key=key).status_code == 200
    assert client.get("/auth/key", key=key).status_code == 403


def test_the_first_generated_key_is_the_master(tmp_path: Path) -> None:
    data = tmp_path / "data"
    master, other = from_a_python_prompt(data), from_a_python_prompt(data)
    store = KeyStore(data / "api_keys.json")
    assert [identity.is_master for key in (master, other) if (identity := store.check(key))] == [True, False]
