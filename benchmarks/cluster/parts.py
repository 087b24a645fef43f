"""A cluster and a single server with the benchmark's model, for measuring."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

from benchmarks.harness.clients import Flight, Reply
from benchmarks.harness.model import make_model
from benchmarks.harness.servers import ROOT
from benchmarks.harness.talk import HEAD
from benchmarks.harness.words import make_text
from tests.support.clustering import Cluster, Rabbit, Redis
from tests.support.serving import Server

TEMPLATE = HEAD + "\n\n{chat_history}\nHuman: {input}\nAI:"
# Words of a prompt and tokens of an answer in a typical conversation.
WORDS, TOKENS = 60, 100


def set_up(server: Server, n_threads: int) -> None:
    """Make the benchmark's model the only profile."""
    profile = {"model": model().name, "template": TEMPLATE, "n_ctx": 4096, "temperature": 0, "n_threads": n_threads}
    # The whole talk is in each prompt, so that it only grows.
    profile["memory_k"] = 50
    server.data.mkdir(parents=True, exist_ok=True)
    (server.data / "config.json").write_text(json.dumps({"SelectedModel": "Benchmark", "Benchmark": profile}))


def model() -> Path:
    """Return the benchmark's model file, making it first if it is missing."""
    return make_model(ROOT / "benchmarks" / "build")


@contextmanager
def by_itself(n_threads: int) -> Iterator[Server]:
    """Start one server with its own engine, warmed up."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "data", models=model().parent)
        set_up(server, n_threads)
        server.start()
        try:
            ask(server, 0, make_text(WORDS, Random(0)), 4)
            yield server
        finally:
            server.kill()


@contextmanager
def a_cluster(n_workers: int, n_threads: int, shares: bool = False) -> Iterator[Cluster]:
    """Start one API node and so many workers, warmed up; with `shares` they have one folder of states."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rabbit, redis = Rabbit(folder / "rabbit"), Redis(folder / "redis")
        made = Cluster(folder, rabbit, redis, model().parent)
        try:
            rabbit.start()
            redis.start()
            flags = ("--states", str(folder / "states")) if shares else ()
            for _ in range(n_workers):
                made.worker("Benchmark", *flags, config=lambda server: set_up(server, n_threads))
            made.node(config=lambda server: set_up(server, n_threads))
            warm_up(made)
            yield made
        finally:
            made.close()
            redis.kill()
            rabbit.close()


def warm_up(cluster: Cluster) -> None:
    """Make every worker load the model: one request per slot at once, without a session, so that nothing is prefetched."""
    flights = [send(cluster.nodes[0], 0, make_text(WORDS, Random(n)), 8) for n in range(8 * len(cluster.workers))]
    for flight in flights:
        flight.wait()


def ask(server: Server, session: int, words: str, tokens: int, **fields: Any) -> Reply:
    """Return an answer of exactly so many tokens; session 0 means no session."""
    return send(server, session, words, tokens, **fields).wait()


def send(server: Server, session: int, words: str, tokens: int, **fields: Any) -> Flight:
    """Send the same request and leave reading to a thread."""
    body = {"prompt": words, "max_tokens": tokens, "temperature": 0, "stream": True, **fields}
    body |= {"session_id": session} if session else {"memory_k": 0}
    return Flight(server.url, "/answer", body, {"Authorization": server.key})


def crowd(server: Server, n_users: int, n_answers: int, tokens: int, rng: Random) -> tuple[float, list[Reply]]:
    """Let so many people ask one question after the other; return the total seconds and the replies."""
    replies: list[Reply] = []
    talks = [[make_text(WORDS, rng) for _ in range(n_answers)] for _ in range(n_users)]
    first = rng.randrange(10**9)

    def talk(number: int) -> None:
        for words in talks[number]:
            replies.append(ask(server, first + number, words, tokens))

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(n_users)]
    began = perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return perf_counter() - began, replies
