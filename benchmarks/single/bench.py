"""The setting of a measurement: the model, the two servers in turn, and a seed per pair."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.harness.servers import Hearth, LlamaServer, Server
from benchmarks.harness.talk import Talk
from benchmarks.harness.words import make_text

OURS, THEIRS = "ours", "theirs"
Numbers = dict[str, Any]
"""The results of one run, by name: JSON."""
Pair = dict[str, Numbers]
"""The results of both: OURS and THEIRS."""
Measure = Callable[[Server, Random], Numbers]


@dataclass(frozen=True)
class Bench:
    """The model file, and the folder of llama-server and its tools."""

    model: Path
    binaries: Path

    @contextmanager
    def server(self, side: str) -> Iterator[Server]:
        """Start the server of that side, warm and idle; stop it at the end of the block."""
        with TemporaryDirectory(prefix="hearth-benchmark-") as name:
            folder = Path(name)
            server = Hearth(self.model, folder) if side == OURS else LlamaServer(self.model, folder, self.binaries)
            try:
                server.start()
                server.ask(Talk(10**6), make_text(60, Random(0)), 8)
                yield server
            finally:
                server.stop()


def in_turn(measure: Measure) -> Callable[[Bench, int], Pair]:
    """Measure both servers, one after the other and never at once, with the same texts.

    The number of the pair seeds the texts, so that none was ever seen before, and says who goes first.
    """

    def run(bench: Bench, number: int) -> Pair:
        pair = {}
        for side in (OURS, THEIRS) if number % 2 == 0 else (THEIRS, OURS):
            with bench.server(side) as server:
                pair[side] = measure(server, Random(1000 + number))
        if pair[OURS].get("prompt_tokens") != pair[THEIRS].get("prompt_tokens"):
            raise RuntimeError(f"the two did not read the same prompts: {pair}")
        return pair

    return run
