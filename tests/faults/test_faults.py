"""Full disks, folders that cannot be written, files that other hands change, and clocks that jump."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from tests.support.serving import ROOT, Server

Serve = Callable[..., Server]


def can_mount() -> bool:
    """Whether a process here may have mounts of its own."""
    return subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False).returncode == 0


@pytest.fixture
def on_small_disk(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts a server whose data folder is a disk of 4 MB, which only that server sees."""
    if not can_mount():
        pytest.skip("this machine lets nobody mount")
    started: list[Server] = []

    def start(then: str = "true") -> Server:
        server = Server(tmp_path / "data")
        config = tmp_path / "config.json"
        shutil.copy(ROOT / "data" / "config.example.json", config)
        script = f'mount -t tmpfs -o size=4m disk {server.data} && cp {config} {server.data}/ && {then} && exec "$@"'
        server.prefix = ["unshare", "-Urm", "sh", "-c", script, "sh"]
        started.append(server)
        return server

    yield start
    for server in started:
        if hasattr(server, "process") and server.process.poll() is None:
            server.kill()


def seen_by(server: Server) -> Path:
    """The server's data folder, as the server itself sees it."""
    return Path(f"/proc/{server.process.pid}/root{server.data}")


def told(reply: Any, *words: str) -> None:
    """The reply is an error of the storage that says what is wrong."""
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "storage_failed"), reply.text
    for word in words:
        assert word in reply.json()["message"]


def test_a_full_disk_costs_nothing_that_was_answered(on_small_disk: Callable[..., Server]) -> None:
    server = on_small_disk().start()
    answered = [server.ask(f"My name is A{n}.", session_id=1)["result"] for n in range(3)]
    key, _ = server.mint("Ana")
    time.sleep(1.5)
    filler = seen_by(server) / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(b"x" * 4096)
    # What needs no disk goes on; what does is refused by name, and nothing half is kept.
    assert server.ask("Count to 3.", memory_k=0)["result"] == "1, 2, 3."
    refused = 0
    for n in range(40):
        reply = server.post("/answer", {"prompt": f"My name is B{n}. " * 20, "session_id": 1})
        if reply.status_code != 200:
            told(reply, "sessions.journal", "No space left on device")
            refused += 1
    assert refused
    minted = server.post("/auth/key", {"name": "x" * 150})
    assert minted.status_code in (200, 500)
    assert server.get("/readyz").status_code == 200
    said = [message["content"] for message in server.get("/answer/1").json()["messages"]]
    assert said[1:6:2] == answered
    assert len(said) == 2 * (3 + 40 - refused)
    filler.unlink()
    assert server.ask("What is my name?", session_id=1)["result"]
    assert server.get("/auth", key=key).status_code == 200
    time.sleep(1.5)
    for file_ in seen_by(server).glob("*.json"):
        json.loads(file_.read_text(encoding="utf-8"))
    assert server.get("/auth/usage").json()["usage"]
    assert server.stop() == 0


def test_a_folder_that_cannot_be_written_is_named_at_the_start(
    on_small_disk: Callable[..., Server], tmp_path: Path
) -> None:
    server = on_small_disk(f"mount -o remount,ro {tmp_path / 'data'}")
    command = [*server.prefix, sys.executable, "main.py", "--port", "0", "--data", str(server.data)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr
    assert "data/" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_takes_no_more_writes_is_told_and_service_goes_on(serve: Serve) -> None:
    server = serve()
    answered = server.ask("My name is Ana.", session_id=1)["result"]
    time.sleep(1.5)
    before = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (0, before[1]))
    told(server.post("/answer", {"prompt": "Hi", "session_id": 1}), "sessions.journal", "File too large")
    told(server.post("/auth/key", {"name": "Bob"}), "api_keys.json")
    told(server.post("/models/model", {"model": "guide.gguf", "model_config": "Pirate"}), "config.json")
    assert server.ask("Count to 3.", memory_k=0)["result"] == "1, 2, 3."
    assert server.get("/answer/1").json()["messages"][1]["content"] == answered
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, before)
    assert server.ask("What is my name?", session_id=1)["result"] == "Your name is Ana."
    assert server.stop() == 0


def test_files_that_another_hand_breaks_or_removes(serve: Serve) -> None:
    server = serve()
    key, _ = server.mint("Ana")
    answered = server.ask("My name is Ana.", session_id=1)["result"]
    time.sleep(1.5)
    # The last good profiles go on, and the fault is told beside them.
    for name, asked, status in (
        ("api_keys.json", "/auth", 500),
        ("sessions.json", "/answer/1", 500),
        ("config.json", "/models", 200),
    ):
        path = server.data / name
        good = path.read_bytes()
        path.write_text("{ broken")
        reply = server.get(asked, key=key if asked == "/auth" else server.key)
        assert reply.status_code == status
        told = reply.json()["config_problem" if status == 200 else "message"]
        # While the keys cannot be read, nobody is known to run the server.
        assert ("Ask whoever runs it" if asked == "/auth" else f"{name}, line 1") in told
        assert path.read_text() == "{ broken"
        path.write_bytes(good)
        assert server.get(asked).status_code == 200, name
    # A database that is removed while the server runs costs what only it knew, and no conversation.
    for name in ("hearth.sqlite", "audit.jsonl"):
        (server.data / name).unlink(missing_ok=True)
    shutil.rmtree(server.data / "states", ignore_errors=True)
    assert server.ask("What is my name?", session_id=1)["result"] == "Your name is Ana."
    assert server.get("/answer/1").json()["messages"][1]["content"] == answered
    assert server.stop() == 0
    server.start()
    assert server.get("/answer/1").json()["messages"][1]["content"] == answered


def test_a_clock_that_jumps_loses_nothing(serve: Serve, tmp_path: Path) -> None:
    """Two days ahead, a year back, and home again, while the server runs."""
    clock, offset = tmp_path / "clock.so", tmp_path / "clock"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", str(clock), str(ROOT / "tests" / "support" / "jumping_clock.c")], check=True
    )
    offset.write_text("0")
    server = serve(environ={"LD_PRELOAD": str(clock), "CLOCK_OFFSET_FILE": str(offset)})
    key, id_ = server.mint(expires="1d", limits={"requests_per_minute": 100, "tokens_per_day": 100_000})
    for number, days in enumerate((0, 2, -365, 0)):
        offset.write_text(str(days * 86_400))
        now = datetime.now(timezone.utc) + timedelta(days=days)
        reply = server.get("/auth", key=key)
        assert (reply.status_code == 200) == (days <= 0), reply.text
        server.ask(f"My name is A{number}.", session_id=number)
        updated = server.get(f"/answer/{number}").json()["updated"]
        assert abs(datetime.fromisoformat(updated) - now) < timedelta(minutes=5), "the clock does not jump"
        assert len(server.get("/answer").json()) == number + 1
        if days <= 0:
            assert server.ask("Count to 3.", key=key, memory_k=0)["result"] == "1, 2, 3."
        assert server.ask("What is my name?", session_id=0)["result"]
    assert len(server.get("/auth/usage", params={"key": id_}).json()["usage"]) >= 2
    server.kill()
    server.start()
    assert len(server.get("/answer").json()) == 4
    assert len(server.get("/answer/0").json()["messages"]) == 10
    assert server.stop() == 0
