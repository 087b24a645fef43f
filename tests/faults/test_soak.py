"""Mixed load with random hang-ups, on models of four architectures: nothing is left behind.

HEARTH_SOAK says for how many seconds: 10 in the suite, 7200 for a long run.
With HEARTH_SOAK_REAL=1 SmolLM2 answers, and not the guide and models of random weights.
HEARTH_SOAK_PLOT names an SVG file that memory, threads and open files are drawn into, minute by minute.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import requests

from benchmarks.harness.plots import new_figure, plot_settings
from tests.support.real_models import smollm2
from tests.support.serving import Server, child_of
from tests.support.tiny import GUIDE, write_hybrid_model, write_recurrent_model, write_window_model

SECONDS = float(os.environ.get("HEARTH_SOAK", "10"))
REAL = os.environ.get("HEARTH_SOAK_REAL") == "1"
PLOT = os.environ.get("HEARTH_SOAK_PLOT")
PEOPLE = 14
# Profiles, of a model with a KV cache and of three whose state cannot be cut at any token.
KINDS = ("Guide", "Window", "Recurrent", "Hybrid")


class Person(threading.Thread):
    """Asks, streams, hangs up, deletes, and asks for too much, until told to stop."""

    def __init__(self, server: Server, number: int, key: str, stop: threading.Event, models: Sequence[str] = ()) -> None:
        """`models`: names of profiles, of which each request takes one; () for the selected one."""
        super().__init__()
        self.server, self.number, self.key, self.stop, self.models = server, number, key, stop, models
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []

    def run(self) -> None:
        rng = random.Random(self.number)
        while not self.stop.is_set():
            try:
                self.act(rng)
            except requests.Timeout:
                # On a machine that does other work too.
                self.counts["timed out"] += 1
            except (requests.RequestException, AssertionError) as error:
                self.problems.append(repr(error))
                return
            time.sleep(rng.expovariate(4))

    def act(self, rng: random.Random) -> None:
        what = rng.random()
        session = rng.choice([None, *range(4)])
        body: dict[str, object] = {
            "prompt": f"What is {rng.randrange(50)} plus {rng.randrange(50)}? " * rng.choice([1, 1, 1, 40])
        }
        if session is not None:
            body["session_id"] = session
        if self.models:
            body["model"] = rng.choice(self.models)
        if what < 0.35:
            self.expect("answered", self.server.post("/answer", body, key=self.key), 200, 503)
        elif what < 0.65:
            self.stream(body, rng.random() * 2 if what < 0.55 else 1000)
        elif what < 0.75:
            self.hang_up(body, rng.random() / 2)
        elif what < 0.85:
            self.expect("deleted", self.server.delete(f"/answer/{session or 0}", key=self.key), 200, 404, 503)
        elif what < 0.88:
            draft = {name: value for name, value in body.items() if name != "session_id"}
            self.expect("drafted", self.server.post(f"/answer/{session or 0}/draft", draft, key=self.key), 200, 429, 503)
        elif what < 0.92:
            too_long = {"prompt": "too long " * 5000}
            self.expect("refused", self.server.post("/answer", too_long, key=self.key), 400, 503)
        else:
            self.expect("listed", self.server.get("/answer", key=self.key), 200)

    def expect(self, what: str, reply: requests.Response, *statuses: int) -> None:
        assert reply.status_code in statuses, reply.text
        self.counts[what if reply.status_code == 200 else str(reply.status_code)] += 1

    def stream(self, body: dict[str, object], leave_after: float) -> None:
        """Read a stream, and hang up after so many seconds."""
        started = time.monotonic()
        headers = {"Authorization": self.key}
        url = f"{self.server.url}/answer"
        with requests.post(url, json={**body, "stream": True}, headers=headers, stream=True, timeout=60) as reply:
            for line in reply.iter_lines():
                assert b'"error"' not in line or reply.status_code == 503, line
                if time.monotonic() - started > leave_after:
                    self.counts["left"] += 1
                    return
        self.counts["streamed"] += 1

    def hang_up(self, body: dict[str, object], after: float) -> None:
        """Give up waiting for an answer that does not stream."""
        try:
            url, headers = f"{self.server.url}/answer", {"Authorization": self.key}
            requests.post(url, json=body, headers=headers, timeout=(10, after + 0.01))
        except requests.Timeout:
            self.counts["hung up"] += 1


def figures(server: Server) -> dict[str, int]:
    """What the server and its engine's process hold, taken together."""
    sums = {"megabytes": 0, "threads": 0, "files": 0}
    for process in (Path(f"/proc/{pid}") for pid in (server.process.pid, child_of(server.process))):
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        sums["threads"] += int(status["Threads"])
        sums["files"] += len(list((process / "fd").iterdir()))
        sums["megabytes"] += int(status["VmRSS"].split()[0]) // 1024
    return sums


def watch(server: Server, stop: threading.Event, seen: list[dict[str, float]]) -> None:
    """Every second: how long /health takes, and what the process holds."""
    began = time.perf_counter()
    while not stop.wait(1):
        started = time.perf_counter()
        assert server.get("/health").json() == {"status": "ready"}
        took = (time.perf_counter() - started) * 1000
        seen.append({"minute": (started - began) / 60, "health_ms": took, **figures(server)})


def draw(seen: list[dict[str, float]], path: Path) -> None:
    """Draw what was held about each minute, as three curves below each other."""
    points = seen[::60]
    with plot_settings():
        figure, rows = new_figure(6.4, 5.4, n_axes=3)
        for axes, (name, unit) in zip(
            rows,
            (("megabytes", "memory (MB)"), ("threads", "threads"), ("files", "open files")),
            strict=True,
        ):
            axes.plot([point["minute"] for point in points], [point[name] for point in points], color="#c4501b")
            axes.set(ylabel=unit, ylim=(0, None))
        rows[-1].set(xlabel="minutes of mixed load; server and engine together")
        figure.savefig(path, metadata={"Date": None})


def bytes_in(folder: Path) -> int:
    """What the folder's files take, while the server may still be writing and removing some."""
    total = 0
    for file in folder.glob("*.state"):
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


def settle(server: Server) -> None:
    """Wait until the engine is free for the next at once."""
    deadline = time.monotonic() + 60
    while server.post("/answer", {"prompt": "Hi", "memory_k": 0}).json()["timings"]["queued_ms"] > 100:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def real(serve: Callable[..., Server], data: Path) -> Server:
    """A server of SmolLM2, whose caches are filled within minutes."""
    model = smollm2()
    profile = {"model": model.name, "system_prompt": "Answer in one sentence.", "n_ctx": 2048, "max_tokens": 48}
    data.mkdir()
    (data / "config.json").write_text(json.dumps({"SelectedModel": "Real", "Real": profile}), encoding="utf-8")
    return serve("--cache-ram", "200", "--cache-disk", "200", models=model.parent, data=data)


def four_architectures(serve: Callable[..., Server], folder: Path) -> Server:
    """A server of the guide, and of models with windows, with a recurrent state, and with both kinds of layers."""
    models = folder / "models"
    models.mkdir()
    (models / "guide.gguf").hardlink_to(GUIDE)
    write_window_model(models / "window.gguf")
    write_recurrent_model(models / "recurrent.gguf")
    write_hybrid_model(models / "hybrid.gguf")
    home = Server(folder / "data")
    for name in KINDS[1:]:
        profile = {
            "model": f"{name.lower()}.gguf",
            "template": "{chat_history}\nHuman: {input}\nAI:",
            "max_tokens": 48,
            "swa_full": False,
        }
        home.edit_config(name, **profile)
    return serve("--cache-ram", "4", "--cache-disk", "20", models=models, data=home.data)


def test_mixed_load_with_hang_ups_leaves_nothing_behind(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = real(serve, tmp_path / "real") if REAL else four_architectures(serve, tmp_path)
    models = () if REAL else KINDS
    keys = [server.key, *(server.post("/auth/key", {"name": f"p{n}"}).json()["key"] for n in range(3))]
    settle(server)
    before = figures(server)
    stop = threading.Event()
    seen: list[dict[str, float]] = []
    people: list[threading.Thread] = [Person(server, n, keys[n % len(keys)], stop, models) for n in range(PEOPLE)]
    watcher = threading.Thread(target=watch, args=(server, stop, seen))
    for thread in (*people, watcher):
        thread.start()
    stop.wait(SECONDS)
    stop.set()
    for thread in (*people, watcher):
        thread.join(timeout=120)
        assert not thread.is_alive()
    settle(server)
    time.sleep(2)
    after = figures(server)
    counts = sum((person.counts for person in people if isinstance(person, Person)), Counter[str]())
    health = sorted(second["health_ms"] for second in seen)
    memory = [int(second["megabytes"]) for second in seen[:: max(1, len(seen) // 12)]]
    print(dict(counts), before, after, "memory", memory)
    if PLOT:
        draw(seen, Path(PLOT))
    print("health ms: median", health[len(health) // 2], "worst", health[-1])
    assert not [problem for person in people if isinstance(person, Person) for problem in person.problems]
    assert min(counts[what] for what in ("answered", "streamed", "left", "deleted", "listed", "drafted")) > 0
    # waitress makes its threads at the start; the engine's process as many as people have ever asked at once, and two for
    # each further model.
    assert after["threads"] <= before["threads"] + PEOPLE + 2 + 2 * (len(KINDS) - 1)
    assert after["files"] <= before["files"] + 8
    # Both level off: the caches fill in the first half.
    half = seen[: max(len(seen) // 2, 1)]
    assert after["megabytes"] < max(second["megabytes"] for second in half) + 40
    assert after["threads"] <= max(second["threads"] for second in half) + (4 if SECONDS > 600 else PEOPLE)
    assert bytes_in(server.data / "states") < (201e6 if REAL else 21e6)
    assert "Traceback" not in server.log()
