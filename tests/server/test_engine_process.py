"""The engine's own process: what crashes it, what it costs, and that the server goes on."""

from __future__ import annotations

import os
import random
import signal
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from services.backend.codec import choice_from_json, choice_to_json, error_from_json, error_to_json, from_json, to_json
from services.backend.types import LoadSettings, Prompt, TokenChoice
from services.engine.process.client import EngineProcess
from services.engine.process.connection import EngineOptions
from services.engine.process.probe import BAD_FOR, Probes
from services.errors import BadModelFile, HearthError, PromptTooLong, RateLimitExceeded, Unavailable
from tests.api.test_errors import all_errors
from tests.support.serving import Server, child_of
from tests.support.tiny import GUIDE, write_twin_token_model

Serve = Callable[..., Server]


def is_there(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL])
def test_a_crash_costs_what_is_under_way_and_no_more(endless: Server, number: int) -> None:
    server = endless
    kept = server.ask("Hi", session_id=1, max_tokens=5)["result"]
    before = server.get("/status").json()["totals"]["completion_tokens"]
    stream = server.stream("Hi", session_id=2)
    stream.next()
    replies: list[Any] = []
    waiting = threading.Thread(target=lambda: replies.append(server.post("/answer", {"prompt": "Hi", "session_id": 3})))
    waiting.start()
    while server.get("/status").json()["answers"]["waiting"] == 0:
        time.sleep(0.02)
    crashed = child_of(server.process)
    os.kill(crashed, number)
    error = stream.rest()[-1]["error"]
    assert error["code"] == "engine_crashed"
    waiting.join()
    assert (replies[0].status_code, replies[0].json()["error"]["code"]) == (503, "engine_crashed")
    assert int(replies[0].headers["Retry-After"]) > 0
    assert not is_there(crashed)
    server.wait_for("ready")
    assert child_of(server.process) != crashed
    assert server.ask("Hi", session_id=1, max_tokens=5)["result"]
    assert [message["content"] for message in server.get("/answer/1").json()["messages"]][1] == kept
    for number_ in (2, 3):
        assert server.get(f"/answer/{number_}").status_code == 404
    assert server.get("/status").json()["totals"]["completion_tokens"] >= before
    assert signal.Signals(number).name in server.log()


def test_health_tells_the_truth_throughout(serve: Serve) -> None:
    """HEARTH_CRASHES says how often the engine's process is ended, while three people ask: 3 times in the suite."""
    server, rng = serve(), random.Random(3)
    assert (server.get("/readyz").status_code, server.get("/healthz").status_code) == (200, 200)
    over, seen = threading.Event(), Counter[str]()
    callers = [threading.Thread(target=ask_on, args=(server, number, over, seen)) for number in range(3)]
    for caller in callers:
        caller.start()
    for _ in range(int(os.environ.get("HEARTH_CRASHES", "3"))):
        crashed = child_of(server.process)
        os.kill(crashed, rng.choice([signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL]))
        deadline = time.monotonic() + 60
        # On a busy machine that takes a while.
        while is_there(crashed):
            time.sleep(0.001)
        while (health := server.get("/health").json()["status"]) != "ready":
            assert health in ("loading", "down")
            ready = server.get("/readyz")
            assert ready.status_code == 503 or server.get("/health").json()["status"] == "ready"
            assert server.get("/healthz").status_code == 200
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert server.get("/readyz").status_code == 200
        assert server.ask("Count to 3.", memory_k=0)["result"] == "1, 2, 3."
        time.sleep(rng.uniform(0, 1))
    over.set()
    for caller in callers:
        caller.join()
    print(dict(seen))
    assert seen["answered"] > 0
    assert not seen["lost"]


def ask_on(server: Server, session: int, over: threading.Event, seen: Counter[str]) -> None:
    """Ask in a session until told to stop: what is answered is stored, what failed is not, and may be asked again."""
    answered = 0
    while not over.is_set():
        reply = server.post("/answer", {"prompt": f"My number is {answered}.", "session_id": session})
        if reply.status_code == 200:
            answered += 1
            seen["answered"] += 1
        else:
            assert (reply.status_code, reply.json()["error"]["code"]) in ((503, "engine_crashed"), (503, "engine_down"))
            assert reply.headers["Retry-After"]
            seen["to be asked again"] += 1
            time.sleep(0.2)
    stored = [message["content"] for message in server.get(f"/answer/{session}").json()["messages"]]
    seen["lost"] += stored[::2] != [f"My number is {n}." for n in range(answered)]


def test_a_reply_that_nobody_has_taken_yet_keeps_no_process_from_starting(tmp_path: Path) -> None:
    """A crash at that moment once left the server without an engine for good."""
    engine = EngineProcess.open(EngineOptions(tmp_path / "states"), tmp_path / "hearth.sqlite")
    with engine.lease(LoadSettings(GUIDE, 256)) as model:
        assert model.tokenize(Prompt("Hi"))
    connection, taken, restarted = engine._connection, Future[Any](), threading.Event()
    engine.add_restart_listener(restarted.set)
    taken.set_result(None)
    connection._replies[10**6] = taken
    os.kill(engine.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while engine._connection is connection:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert restarted.wait(10)
    with engine.lease(LoadSettings(GUIDE, 256)) as model:
        assert model.tokenize(Prompt("Hi"))
    engine.close()


def test_the_engine_ends_with_the_server(serve: Serve) -> None:
    server = serve()
    child = child_of(server.process)
    server.kill()
    deadline = time.monotonic() + 10
    while is_there(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    server.start()
    child = child_of(server.process)
    assert server.stop() == 0
    assert not is_there(child)


def test_a_file_that_ends_llama_cpp_ends_nothing_here(serve: Serve, models: Path) -> None:
    """Its vocabulary has a token twice, which llama.cpp asserts that no file has."""
    write_twin_token_model(models / "twins.gguf")
    server = serve(models=models)
    child = child_of(server.process)
    stream = server.stream("Count to 20.")
    stream.next()
    reply = server.post("/models/model", {"model": "twins.gguf", "model_config": "Guide"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "bad_model_file")
    assert "GGML_ASSERT" in reply.json()["message"]
    assert stream.rest()[-1] == "[DONE]"
    again = server.post("/answer", {"prompt": "Hi", "model": "twins.gguf"})
    assert again.status_code in (422, 503)
    assert child_of(server.process) == child
    assert server.ask("Count to 3.")["result"] == "1, 2, 3."


def test_a_file_whose_error_is_longer_than_a_pipe_holds_is_told(serve: Serve, models: Path) -> None:
    """llama.cpp repeats what stands in the file: more than 64 KB of it once kept the probe, and all others, waiting."""
    writer = gguf.GGUFWriter(models / "long.gguf", "x" * 200_000)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    server = serve(models=models)
    reply = server.post("/models/model", {"model": "long.gguf", "model_config": "Guide"})
    assert reply.status_code == 422
    assert len(reply.text) < 5000
    assert server.post("/models/model", {"model": "guide.gguf", "model_config": "Pirate"}).status_code == 200


def test_damaged_headers_never_bring_the_server_down(serve: Serve, models: Path) -> None:
    """Bytes of the guide's header changed at random, and numbers by some that overflow (CVE-2026-7482 and kin)."""
    server, rng, whole = serve(models=models), random.Random(7), GUIDE.read_bytes()
    child, seen = child_of(server.process), set()
    for n in range(int(os.environ.get("HEARTH_DAMAGED", "24"))):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 1, 2, 8])):
            at = rng.randrange(4, 30_000)
            if rng.random() < 0.5:
                data[at] = rng.randrange(256)
            else:
                data[at : at + 8] = struct.pack("<Q", rng.choice([0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]))
        (models / f"bad{n}.gguf").write_bytes(data if rng.random() < 0.8 else data[: rng.randrange(len(data))])
        reply = server.post("/models/model", {"model": f"bad{n}.gguf", "model_config": "Pirate"})
        seen.add(reply.status_code)
        assert reply.status_code in (200, 422), reply.text
        (models / f"bad{n}.gguf").unlink()
    assert 422 in seen
    assert child_of(server.process) == child
    server.post("/models/model", {"model": "guide.gguf", "model_config": "Guide"})
    assert server.ask("Count to 3.", memory_k=0)["result"] == "1, 2, 3."


def test_a_model_larger_than_the_memory_is_refused_with_both_numbers(serve: Serve, models: Path) -> None:
    huge = models / "huge.gguf"
    huge.write_bytes(GUIDE.read_bytes())
    with huge.open("r+b") as file:
        # It takes no room on the disk.
        file.truncate(5 * 10**12)
    server = serve(models=models)
    reply = server.post("/models/model", {"model": "huge.gguf", "model_config": "Guide"})
    assert reply.status_code == 422
    assert "huge.gguf takes 5000.0 GB of memory, and" in reply.json()["message"]
    assert "GB are free" in reply.json()["message"]
    assert server.ask("Count to 3.")["result"] == "1, 2, 3."


def test_a_good_probe_is_remembered(tmp_path: Path) -> None:
    tried: list[LoadSettings] = []

    def run(settings: LoadSettings, _embeds: bool) -> None:
        tried.append(settings)

    settings, other = LoadSettings(GUIDE, 256), LoadSettings(GUIDE, 512)
    for _ in range(2):
        probes = Probes(tmp_path / "hearth.sqlite", run)
        for _ in range(2):
            probes.check(settings)
    assert tried == [settings]
    probes.check(other)
    probes.check(settings, embeds=True)
    assert tried == [settings, other, settings]
    (tmp_path / "hearth.sqlite").write_text("nonsense")
    Probes(tmp_path / "hearth.sqlite", run).check(settings)
    assert len(tried) == 4


def test_a_failed_probe_is_not_repeated_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, tried = 1000.0, 0
    monkeypatch.setattr("time.monotonic", lambda: now)

    def run(_settings: LoadSettings, _embeds: bool) -> None:
        nonlocal tried
        tried += 1
        raise BadModelFile("no")

    probes = Probes(tmp_path / "hearth.sqlite", run)
    for seconds in (0, 1, BAD_FOR + 1):
        now += seconds
        with pytest.raises(BadModelFile, match="no"):
            probes.check(LoadSettings(GUIDE, 256))
    assert tried == 2


def test_errors_and_choices_cross_the_wire_whole() -> None:
    for error in (
        Unavailable("later", code="too_busy", retry_after=3),
        RateLimitExceeded("enough", param="parallel", retry_after=1),
        BadModelFile("no", param="model"),
        PromptTooLong(10, 5),
    ):
        told = error_from_json(error_to_json(error))
        assert type(told) is type(error)
        assert (told.message, told.param, told.code) == (error.message, error.param, error.code)
        assert getattr(told, "retry_after", None) == getattr(error, "retry_after", None)
    for kind in all_errors():
        made = kind.__new__(kind)
        HearthError.__init__(made, "what")
        assert type(error_from_json(error_to_json(made))) is kind
    assert error_from_json(error_to_json(ValueError("x"))).message == "the engine failed: x"
    choice = TokenChoice(b"\xff\x00", -0.5, ((b"a", -1.0), (b"\xc3", -2.0)))
    assert choice_from_json(choice_to_json(choice)) == choice
    settings = LoadSettings(GUIDE, 256, stamp=(1, 2, 3))
    assert from_json(LoadSettings, to_json(settings)) == settings
