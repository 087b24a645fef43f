"""A cluster's parts and a server by itself, with the benchmark's model, for measuring."""

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

from benchmarks.clients import Flight, Reply
from benchmarks.model import make_model
from benchmarks.servers import ROOT
from benchmarks.talk import HEAD
from benchmarks.words import make_text
from tests.support.clustering import Cluster, Rabbit, Redis
from tests.support.serving import Server

TEMPLATE = HEAD + "\n\n{chat_history}\nHuman: {input}\nAI:"
# Words of a prompt, and tokens of an answer, of somebody who talks with an assistant.
WORDS, TOKENS = 60, 100


def set_up(server: Server, n_threads: int) -> None:
    """Make the benchmark's model the only profile."""
    profile = {"model": model().name, "template": TEMPLATE, "n_ctx": 4096, "temperature": 0, "n_threads": n_threads}
    # The whole talk is in each prompt, so that it only grows.
    profile["memory_k"] = 50
    server.data.mkdir(parents=True, exist_ok=True)
    (server.data / "config.json").write_text(json.dumps({"SelectedModel": "Benchmark", "Benchmark": profile}))


def model() -> Path:
    """The benchmark's model, made where it is not there yet."""
    return make_model(ROOT / "benchmarks" / "build")


@contextmanager
def by_itself(n_threads: int) -> Iterator[Server]:
    """A server that computes itself, warmed up."""
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
    """A cluster of one API node and so many workers, warmed up; `shares`: they have a folder of states together."""
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
    """Have every worker load the model: as many requests at once as there are slots, of no session to think ahead for."""
    flights = [send(cluster.nodes[0], 0, make_text(WORDS, Random(n)), 8) for n in range(8 * len(cluster.workers))]
    for flight in flights:
        flight.wait()


def ask(server: Server, session: int, words: str, tokens: int, **fields: Any) -> Reply:
    """One answer of exactly so many tokens; session 0 is none."""
    return send(server, session, words, tokens, **fields).wait()


def send(server: Server, session: int, words: str, tokens: int, **fields: Any) -> Flight:
    """The same, read by a thread."""
    body = {"prompt": words, "max_tokens": tokens, "temperature": 0, "stream": True, **fields}
    body |= {"session_id": session} if session else {"memory_k": 0}
    return Flight(server.url, "/answer", body, {"Authorization": server.key})


def crowd(server: Server, n_users: int, n_answers: int, tokens: int, rng: Random) -> tuple[float, list[Reply]]:
    """So many people, each with a talk, ask one question after the other; seconds that all of it took, and the replies."""
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
