"""Keys and prompts are written nowhere but where they belong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from tests.support.serving import Server

Serve = Callable[..., Server]


def test_neither_keys_nor_prompts_are_ever_written(serve: Serve) -> None:
    """Mint keys, drive every endpoint with good bodies and bad, and read all that was written and said."""

    def send(method: str, path: str, key: str, **arguments: Any) -> requests.Response:
        # On one connection: there are two thousand.
        headers = {"Authorization": key}
        return server.http.request(method, server.url + path, headers=headers, timeout=60, **arguments)

    server = serve("--log-level", "DEBUG", "--log-format", "json", forks=False)
    keys = [server.key, server.mint("Ana")[0]]
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
                reply = send("POST", filled, key, json=body)
                if reply.status_code >= 400:
                    said.append(reply.text)
            for method in ("GET", "DELETE", "PATCH"):
                reply = send(method, filled, key, params={"q": word}, json={"name": "x"})
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
    assert holding <= {"sessions.json", "sessions.journal", "hearth.sqlite", "hearth.sqlite-wal"}
    assert len(server.log().splitlines()) > 100


def is_ours(path: Path, server: Server) -> bool:
    try:
        return str(server.data) in path.read_text(errors="replace")
    except OSError:
        return False


def test_no_key_is_ever_in_the_log(server: Server) -> None:
    key, _ = server.mint()
    server.get("/auth", key=key)
    server.get("/auth", key="wrong-key-wrong-key")
    server.post("/answer", {"prompt": "marzipan", "top_p": 5}, key=key)
    for secret in (key, server.key, "wrong-key", "marzipan"):
        assert secret not in server.log()
