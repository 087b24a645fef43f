"""The resident memory of Hearth's two processes, and what of the engine's is neither model nor KV cache."""

from __future__ import annotations

import re
from random import Random
from time import sleep

from benchmarks.harness.servers import Hearth
from benchmarks.harness.talk import Talk
from benchmarks.single.bench import OURS, THEIRS, Bench, Pair
from benchmarks.single.rows.costs import children, memory_mb

USERS = 8
WORDS = 60
TOKENS = 24
IDLE_SECONDS = 1.0
# The buffers as llama.cpp logs them: weights that it repacked (or copied), and the KV cache. Mapped weights are file pages.
_BUFFER = r"^.*?(CPU_REPACK model|CPU model|KV|RS) buffer size = +([\d.]+) MiB"


def memory(bench: Bench, number: int) -> Pair:
    """Hearth alone, after eight answers at once: MB of the server's process and of the engine's, shared pages divided."""
    rng = Random(1000 + number)
    with bench.server(OURS, profile={"verbose": True}) as server:
        asked = [(Talk(user + 1), server.text(WORDS, rng)) for user in range(USERS)]
        flights = [server.send(talk, words, TOKENS) for talk, words in asked]
        for flight, (talk, words) in zip(flights, asked, strict=True):
            server.finish(flight, talk, words, TOKENS)
        sleep(IDLE_SECONDS)
        assert isinstance(server, Hearth)
        of_server, _ = memory_mb(server.running.pid, server.model.name)
        of_engine, mapped = (sum(each) for each in zip(*_engines(server), strict=True))
        buffers = {kind: float(size) * 2**20 / 1e6 for kind, size in re.findall(_BUFFER, server.log(), re.MULTILINE)}
    if "KV" not in buffers:
        raise RuntimeError("llama.cpp did not log the size of its KV cache")
    beside = of_engine - mapped - sum(buffers.values())
    return {
        OURS: {"server_mb": of_server, "engine_mb": beside, "whole_mb": of_engine, "mapped_mb": mapped, **buffers},
        THEIRS: {},
    }


def _engines(server: Hearth) -> list[tuple[float, float]]:
    return [memory_mb(pid, server.model.name) for pid in children(server.running.pid)]
