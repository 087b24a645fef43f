"""An engine's process that hangs: it is found, ended and started anew, and until then nobody but its callers waits.

HEARTH_HANGS says how often it is stopped at random moments under load: once in the suite, 50 times for a long run.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.engine.loop.step_clock import StepClock
from services.engine.process.watchdog import LONGEST_STEP, PING_SECONDS, START_SECONDS, Watchdog
from services.engine.process_stat import CpuWork, work_of
from tests.support.serving import ENDLESS, ROOT, Server, child_of

Serve = Callable[..., Server]

HANGS = int(os.environ.get("HEARTH_HANGS", "1"))
TIMEOUT = os.environ.get("HEARTH_ENGINE_TIMEOUT", "3")
# Keeps a thread stopped until it is killed; see ptrace(2), PTRACE_ATTACH.
DEBUGGER = """
import ctypes, os, sys
ptrace, tid = ctypes.CDLL(None, use_errno=True).ptrace, int(sys.argv[1])
if ptrace(16, tid, None, None) != 0:
    sys.exit(f"attach: {os.strerror(ctypes.get_errno())}")
print("attached", flush=True)
while os.WIFSTOPPED(os.waitpid(tid, 0x40000000)[1]):
    pass
"""


def is_there(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def talker(serve: Serve, models: Path, *flags: str, **profile: Any) -> Server:
    """A server whose model goes on talking."""
    return serve("--engine-timeout", TIMEOUT, *flags, models=models, endless=profile)


def test_a_stopped_engine_is_found_and_started_anew(serve: Serve, models: Path) -> None:
    server = talker(serve, models)
    kept = server.ask("Hi", session_id=1, max_tokens=5)["result"]
    before = server.get("/status").json()["totals"]["completion_tokens"]
    stream = server.stream("Hi", session_id=2)
    stream.next()
    hung = child_of(server.process)
    os.kill(hung, signal.SIGSTOP)
    replies: list[Any] = []
    # Together more than a socket holds.
    bodies = [{"prompt": "x" * 20_000, "session_id": 3 + n} for n in range(16)]
    asking = [threading.Thread(target=lambda body=body: replies.append(server.post("/answer", body))) for body in bodies]
    for each in asking:
        each.start()
    seen = set()
    while is_there(hung):
        started = time.monotonic()
        seen.add(server.get("/health").json()["status"])
        assert server.get("/healthz").status_code == 200
        assert server.get("/readyz").status_code in (200, 503)
        assert server.get("/status").status_code == 200
        assert server.get("/models").status_code == 200
        # Nothing of it asks the engine and waits.
        assert time.monotonic() - started < 5
        time.sleep(0.02)
    assert "down" in seen
    assert stream.rest()[-1]["error"]["code"] == "engine_crashed"
    for each in asking:
        each.join()
    for reply in replies:
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_crashed")
        assert int(reply.headers["Retry-After"]) > 0
    server.wait_for("ready")
    assert child_of(server.process) != hung
    assert server.ask("Hi", session_id=1, max_tokens=5)["result"]
    assert [message["content"] for message in server.get("/answer/1").json()["messages"]][1] == kept
    assert server.get("/status").json()["totals"]["completion_tokens"] >= before
    assert "it did not answer for" in server.log()


def test_a_step_that_stands_still_is_found(serve: Serve, models: Path) -> None:
    """Of the process one thread alone is stopped; where that holds Python's lock, the others stand still too."""
    server = talker(serve, models, n_threads=1)
    stream = server.stream("Hi")
    stream.next()
    hung = child_of(server.process)
    # What the engine computes with is the thread that works most.
    before = {int(each.name): cpu_of(hung, int(each.name)) for each in Path(f"/proc/{hung}/task").iterdir()}
    time.sleep(0.5)
    engine = max(before, key=lambda tid: cpu_of(hung, tid) - before[tid])
    debugger = subprocess.Popen(
        [sys.executable, "-c", DEBUGGER, str(engine)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with debugger:
        assert debugger.stdout
        assert debugger.stderr
        if not debugger.stdout.readline():
            pytest.skip(f"this machine lets nobody debug: {debugger.stderr.read().decode()}")
        assert stream.rest()[-1]["error"]["code"] == "engine_crashed"
    server.wait_for("ready")
    assert child_of(server.process) != hung
    assert "a step of its engine stood still" in server.log() or "it did not answer" in server.log()


def cpu_of(pid: int, tid: int) -> int:
    fields = Path(f"/proc/{pid}/task/{tid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def test_a_server_that_was_stopped_does_not_blame_its_engine(serve: Serve) -> None:
    server = serve("--engine-timeout", "2")
    child = child_of(server.process)
    for pids in ((server.process.pid,), (server.process.pid, child)):
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(3)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        time.sleep(1)
        assert server.ask("Count to 3.", memory_k=0)["result"] == "1, 2, 3."
    assert child_of(server.process) == child


def test_a_stopped_engine_ends_with_its_server(serve: Serve) -> None:
    server = serve()
    child = child_of(server.process)
    os.kill(child, signal.SIGSTOP)
    server.kill()
    wait_until(lambda: not is_there(child), 10)
    # One that was started instead of another ends no earlier, and no later.
    server.start()
    first = child_of(server.process)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not is_there(first) and child_of(server.process) != first)
    server.wait_for("ready")
    time.sleep(1)
    child = child_of(server.process)
    assert server.ask("Count to 3.", memory_k=0)["result"] == "1, 2, 3."
    os.kill(child, signal.SIGSTOP)
    server.kill()
    wait_until(lambda: not is_there(child), 10)


def test_a_trial_that_is_killed_is_begun_anew(serve: Serve, models: Path) -> None:
    server = serve(models=models, forks=False)
    find = ["pgrep", "-f", "services.engine.process.probe", "-P", str(server.process.pid)]
    replies: list[Any] = []
    body = {"model": "random.gguf", "model_config": "Random"}
    server.edit_config("Random", **ENDLESS)
    switch = threading.Thread(target=lambda: replies.append(server.post("/models/model", body)))
    switch.start()
    while not (found := subprocess.run(find, capture_output=True, text=True).stdout.split()):
        assert switch.is_alive(), replies and replies[0].text
    os.kill(int(found[0]), signal.SIGKILL)
    switch.join()
    assert replies[0].status_code == 200, replies[0].text


class Caller(threading.Thread):
    """Asks on a session of its own until told to stop, and notes what was answered."""

    def __init__(self, server: Server, number: int, over: threading.Event) -> None:
        super().__init__()
        self.server, self.number, self.over = server, number, over
        self.answered: list[str] = []
        self.problem = ""

    def run(self) -> None:
        n = 0
        while not self.over.is_set() and not self.problem:
            n += 1
            prompt = f"My number is {n}."
            reply = self.server.post("/answer", {"prompt": prompt, "session_id": self.number})
            if reply.status_code == 200:
                self.answered.append(prompt)
            elif reply.status_code != 503 or not reply.headers.get("Retry-After"):
                self.problem = reply.text
            else:
                time.sleep(0.1)


@pytest.mark.timeout(120 + 60 * HANGS)
def test_an_engine_that_is_stopped_at_any_moment_is_soon_back_and_loses_nothing(serve: Serve) -> None:
    server, rng = serve("--engine-timeout", TIMEOUT), random.Random(int(os.environ.get("HEARTH_SEED", "0")))
    over = threading.Event()
    callers = [Caller(server, number, over) for number in range(3)]
    for caller in callers:
        caller.start()
    took, slowest_health = [], 0.0
    for _ in range(HANGS):
        time.sleep(rng.uniform(0.2, 1.5))
        hung, started = child_of(server.process), time.monotonic()
        os.kill(hung, signal.SIGSTOP)
        asked = threading.Event()
        watched: list[float] = []
        watcher = threading.Thread(target=watch, args=(server, asked, watched))
        watcher.start()
        while server.post("/answer", {"prompt": "Count to 3.", "memory_k": 0}).status_code != 200:
            time.sleep(0.05)
        took.append(time.monotonic() - started)
        asked.set()
        watcher.join()
        slowest_health = max(slowest_health, *watched)
        assert not is_there(hung)
    over.set()
    for caller in callers:
        caller.join()
        assert not caller.problem
        stored = [message["content"] for message in server.get(f"/answer/{caller.number}").json()["messages"]]
        assert stored[::2] == caller.answered
    n_answered = sum(len(caller.answered) for caller in callers)
    print(f"{HANGS} hangs, back after {max(took):.1f} s at most ({sum(took) / HANGS:.1f} s on average);", end=" ")
    print(f"/health took {1000 * slowest_health:.0f} ms at most; {n_answered} answers, none lost")
    assert n_answered
    assert max(took) < int(TIMEOUT) + 30


def watch(server: Server, over: threading.Event, took: list[float]) -> None:
    """Ask for the health until told to stop, and note how long each reply took."""
    while not over.wait(0.05) or not took:
        started = time.monotonic()
        assert server.get("/health").json()["status"] in ("ready", "loading", "down")
        took.append(time.monotonic() - started)


def test_silence_is_counted_in_pings_and_swapping_is_slow() -> None:
    silent = Watchdog(10 * PING_SECONDS)
    for round_ in range(2):
        reasons = [silent.missed(CpuWork(1, 1)) for _ in range(9)]
        assert (set(reasons), silent.is_silent) == ({""}, True)
        assert silent.answered(0, 0) == ""
        assert not silent.is_silent, round_
    reasons = [silent.missed(CpuWork(1, 1)) for _ in range(10)]
    assert (reasons[-1], set(reasons[:-1])) == (f"it did not answer for {10 * PING_SECONDS:g} s", {""})
    # Its pages come back from the disk.
    swapping = Watchdog(10 * PING_SECONDS)
    swapping.missed(CpuWork(1, 0))
    assert not any(swapping.missed(CpuWork(1, n)) for n in range(1, 44))
    assert any(swapping.missed(CpuWork(1, n)) for n in range(44, 50))
    # Others take the CPUs.
    starved = Watchdog(10 * PING_SECONDS)
    starved.missed(CpuWork(1, 1))
    assert not any(starved.missed(CpuWork(1, 1, starved=n * 600_000_000)) for n in range(1, 44))
    assert any(starved.missed(CpuWork(1, 1, starved=44 * 600_000_000)) for _ in range(10))
    assert not any(Watchdog(0).missed(CpuWork(1, 1)) for _ in range(100))


def test_a_start_that_does_nothing_hangs_and_one_that_never_ends_too() -> None:
    still = Watchdog(10 * PING_SECONDS)
    reasons = [still.starting(CpuWork(7, 7)) for _ in range(11)]
    assert (bool(reasons[-1]), set(reasons[:-1])) == (True, {""})
    busy = Watchdog(10 * PING_SECONDS)
    reasons = [busy.starting(CpuWork(n, 0)) for n in range(int(START_SECONDS / PING_SECONDS))]
    assert (bool(reasons[-1]), set(reasons[:-1])) == (True, {""})


def test_a_step_hangs_that_uses_no_time_or_never_ends() -> None:
    watchdog = Watchdog(10 * PING_SECONDS)
    assert watchdog.answered(100, 9) == ""
    assert f"stood still for {10 * PING_SECONDS:g} s" in watchdog.answered(100, 10)
    assert watchdog.answered(int(LONGEST_STEP / PING_SECONDS) - 1, 0) == ""
    assert f"did not end in {LONGEST_STEP:g} s" in watchdog.answered(int(LONGEST_STEP / PING_SECONDS), 0)
    assert Watchdog(0).answered(10**6, 10**6) == ""


def test_a_step_clock_tells_work_from_standing_still() -> None:
    clock, go_on, observed = StepClock(), threading.Event(), []
    assert clock.observe() == (0, 0)

    def step() -> None:
        with clock:
            go_on.wait()

    waiting = threading.Thread(target=step)
    waiting.start()
    while not clock.observe()[0]:
        time.sleep(0.05)
    observed = [clock.observe() for _ in range(3)]
    assert observed[2][1] >= 2
    assert observed[2][0] >= observed[2][1]
    go_on.set()
    waiting.join()
    assert clock.observe() == (0, 0)
    with clock:
        clock.observe()
        for n in range(1, 4):
            sum(range(200_000))
            assert clock.observe() == (n, 0)


def wait_in_the_kernel(fifo: Path) -> None:
    """Wait as for a page of a sleeping disk, until somebody writes: whoever starts a process waits so till that has begun,
    and this one opens a file first. See posix_spawn(3), vfork(2).
    """
    libc, pid, actions = ctypes.CDLL(None), ctypes.c_int(), ctypes.create_string_buffer(1024)
    libc.posix_spawn_file_actions_init(actions)
    libc.posix_spawn_file_actions_addopen(actions, 0, str(fifo).encode(), os.O_RDONLY, 0)
    arguments = (ctypes.c_char_p * 2)(b"true", None)
    assert libc.posix_spawnp(ctypes.byref(pid), b"true", actions, None, arguments, None) == 0
    os.waitpid(pid.value, 0)


def test_a_step_that_waits_for_a_disk_does_not_hang(tmp_path: Path) -> None:
    fifo, clock = tmp_path / "fifo", StepClock()
    os.mkfifo(fifo)

    def step() -> None:
        with clock:
            wait_in_the_kernel(fifo)

    waiting = threading.Thread(target=step)
    waiting.start()
    try:
        wait_until(lambda: bool((work := work_of(os.getpid())) and work.waits_for_disk))
        observed = [clock.observe() for _ in range(5)]
        assert (observed[-1][0] >= 4, [still for _, still in observed]) == (True, [0] * 5)
        watchdog, work = Watchdog(10 * PING_SECONDS), work_of(os.getpid())
        assert not any(watchdog.missed(work) for _ in range(40))
        assert not any(watchdog.starting(work) for _ in range(40))
    finally:
        os.close(os.open(fifo, os.O_WRONLY))
        waiting.join()
    assert any(watchdog.missed(work_of(os.getpid())) for _ in range(10))


def test_a_wrong_timeout_is_refused_by_name() -> None:
    command = [sys.executable, "main.py", "--engine-timeout", "-1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "engine_timeout should be 0 or more" in done.stderr
