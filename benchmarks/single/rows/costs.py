"""The server's own costs: a request, a stored turn, a start, memory."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.harness.scratch import scratch_folder
from benchmarks.harness.servers import ROOT, Hearth, Server
from benchmarks.harness.talk import Talk
from benchmarks.harness.words import make_text
from benchmarks.single.bench import OURS, THEIRS, Bench, Numbers, Pair
from services.prompts.form import Exchange
from services.sessions.history import SessionKey
from services.sessions.service import Sessions

CONNECTIONS = 4
AUTH_SECONDS = 3.0
ANSWERS = 200

MANY, FEW = 10_000, 10
MESSAGES = 20
STORED_WORDS = 33
STORES = 200

START_TOKENS = 8
AT_ONCE = 8


def overhead(bench: Bench, number: int) -> Pair:
    """Hearth alone, with the small guide model: requests that need no model, and the time that /answer adds."""
    with scratch_folder() as name:
        server = Hearth(ROOT / "models" / "guide.gguf", Path(name))
        try:
            server.start()
            numbers = {
                "auth_rate": _auth_rate(server),
                "answer_ms": _added_ms(server, lambda _: {"memory_k": 0}),
                "session_ms": _added_ms(server, lambda n: {"session_id": n % 20, "memory_k": 0}),
            }
        finally:
            server.stop()
    return {OURS: numbers, THEIRS: {}}


def store(bench: Bench, number: int) -> Pair:
    """Hearth alone: storing a turn with many stored sessions (OURS), and with few (THEIRS)."""
    sizes = [(OURS, MANY), (THEIRS, FEW)]
    return {
        side: {"store_ms": _store_ms(size, Random(number))} for side, size in (sizes if number % 2 == 0 else sizes[::-1])
    }


def start(server: Server, rng: Random) -> Numbers:
    """Time from the start to the end of the first answer, the model file in the page cache; memory after eight at once."""
    server.stop()
    begun = perf_counter()
    server.model.read_bytes()
    read = perf_counter()
    server.start()
    ready = perf_counter()
    server.ask(Talk(1), server.text(1, rng), START_TOKENS)
    answered = perf_counter()
    asked = [(Talk(10 + number), server.text(60, rng)) for number in range(AT_ONCE)]
    flights = [server.send(talk, words, 24) for talk, words in asked]
    for flight, (talk, words) in zip(flights, asked, strict=True):
        server.finish(flight, talk, words, 24)
    pids = (server.running.pid, *children(server.running.pid))
    of_each = [memory_mb(pid, server.model.name) for pid in pids]
    resident, model = (sum(each) for each in zip(*of_each, strict=True))
    return {
        "seconds": answered - read,
        "ready": ready - read,
        "read": read - begun,
        "memory_mb": resident - model,
        "model_mb": model,
    }


def children(pid: int) -> list[int]:
    """Return the ids of the processes that any thread of a process started."""
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(each) for file in files for each in file.read_text(encoding="ascii").split()]


def memory_mb(pid: int, model: str) -> tuple[float, float]:
    """Return a process's memory, and the part of it that is the mapped model file, in MB; shared pages are divided."""
    resident = mapped = 0
    is_model = False
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_model = line.endswith(model)
        elif found := re.match(r"Pss: +(\d+) kB", line):
            resident += int(found[1])
            mapped += int(found[1]) if is_model else 0
    return resident * 1024 / 1e6, mapped * 1024 / 1e6


def _auth_rate(server: Hearth) -> float:
    """Return the requests to GET /auth a second, over connections that stay open, each with one request at a time."""
    until = perf_counter() + AUTH_SECONDS

    def ask_on(_: int) -> int:
        connection = server.connect()
        done = 0
        while perf_counter() < until:
            _call(connection, "GET", "/auth", server.headers)
            done += 1
        connection.close()
        return done

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return sum(pool.map(ask_on, range(CONNECTIONS))) / AUTH_SECONDS


def _added_ms(server: Hearth, fields: Callable[[int], dict[str, Any]]) -> float:
    """Return the median of the client's milliseconds for an answer of one token, less those of its own timings."""
    connection = server.connect()
    added: list[float] = []
    for number in range(ANSWERS):
        begun = perf_counter()
        body = {"prompt": f"Hello {number}", "max_tokens": 1, **fields(number)}
        answer = _call(connection, "POST", "/answer", server.headers, body)
        added.append(1000 * (perf_counter() - begun) - answer["timings"]["total_ms"])
    connection.close()
    return median(added)


def _call(connection: http.client.HTTPConnection, method: str, path: str, headers: dict[str, str], body: Any = None) -> Any:
    """Return the reply's JSON. Raises RuntimeError for an error."""
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    response = connection.getresponse()
    content = response.read()
    if response.status != 200:
        raise RuntimeError(f"{path} answered {response.status}: {content[:500]!r}")
    return json.loads(content)


def _store_ms(size: int, rng: Random) -> float:
    """Return the median milliseconds for storing one turn with `size` stored sessions, each turn in another session."""
    with scratch_folder() as name:
        path = Path(name) / "sessions.json"
        path.write_text(json.dumps(stored_sessions(size, rng)), encoding="utf-8")
        sessions = Sessions(path)
        times = []
        for _ in range(STORES):
            exchange = Exchange(make_text(STORED_WORDS, rng), make_text(STORED_WORDS, rng))
            history = sessions.history(SessionKey("0", rng.randrange(size)))
            begun = perf_counter()
            history.add_exchange(exchange)
            times.append(1000 * (perf_counter() - begun))
        close = getattr(sessions, "close", None)
        if close:
            close()
    return median(times)


def stored_sessions(size: int, rng: Random) -> dict[str, Any]:
    """Return the contents of a sessions.json of so many sessions, of 20 messages of some 200 characters each."""
    time = "2026-01-01T00:00:00+00:00"
    kinds = ("human", "ai")

    def session() -> dict[str, Any]:
        messages = [{"type": kinds[n % 2], "content": make_text(STORED_WORDS, rng)} for n in range(MESSAGES)]
        return {"name": messages[0]["content"][:60], "created": time, "updated": time, "messages": messages}

    return {str(number): session() for number in range(size)}
