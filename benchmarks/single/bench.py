"""The setting of a measurement: the model files, the two servers in turn, and a seed per pair."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.harness.scratch import scratch_folder
from benchmarks.harness.servers import SYNTHETIC, Hearth, LlamaServer, Server
from benchmarks.harness.talk import Talk

OURS, THEIRS = "ours", "theirs"
# The end of the name of results where Hearth runs a tuned file.
TUNED = "+tuned"
Numbers = dict[str, Any]
"""The results of one run, by name: JSON."""
Pair = dict[str, Numbers]
"""The results of both: OURS and THEIRS."""
Measure = Callable[[Server, Random], Numbers]
# Trained models do not write the same answers on both servers, so that later prompts differ by a few tokens.
PROMPTS_DIFFER = 0.05


@dataclass(frozen=True)
class Bench:
    """The model file of each server, and the folder of llama-server and its tools.

    The files differ where Hearth runs a file that `main.py tune --convert` made of llama-server's.
    """

    ours: Path
    theirs: Path
    binaries: Path

    @property
    def name(self) -> str:
        """The name of the results: llama-server's file, and whether Hearth runs another one."""
        return self.theirs.stem + TUNED * self.is_tuned

    @property
    def is_tuned(self) -> bool:
        """True if Hearth runs another file than llama-server."""
        return self.ours != self.theirs

    @property
    def is_synthetic(self) -> bool:
        """True if the model is the one that the benchmark makes."""
        return self.theirs.name == SYNTHETIC

    @contextmanager
    def server(
        self, side: str, chat: str | None = None, profile: Mapping[str, Any] | None = None, flags: Sequence[str] = ()
    ) -> Iterator[Server]:
        """Start the server of that side, warm and idle; stop it at the end of the block.

        `chat`: a chat template, or OWN for that of the file; `profile`: more keys for Hearth's; `flags`: more flags for
        llama-server.
        """
        with scratch_folder() as name:
            folder = Path(name)
            server: Server
            if side == OURS:
                server = Hearth(self.ours, folder, chat, profile)
            else:
                server = LlamaServer(self.theirs, folder, self.binaries, chat, flags)
            try:
                server.start()
                server.ask(Talk(10**6), server.text(60, Random(0)), 8)
                yield server
            finally:
                server.stop()


def in_turn(measure: Measure, chat: str | None = None, flags: Sequence[str] = ()) -> Callable[[Bench, int], Pair]:
    """Measure both servers, one after the other and never at once, with the same texts.

    The number of the pair seeds the texts, so that none was ever seen before, and says who goes first. `chat`, `flags`: as
    in `Bench.server`.
    """

    def run(bench: Bench, number: int) -> Pair:
        pair = {}
        for side in (OURS, THEIRS) if number % 2 == 0 else (THEIRS, OURS):
            with bench.server(side, chat, flags=flags) as server:
                pair[side] = measure(server, Random(1000 + number))
        check_prompts(pair, 0 if bench.is_synthetic else PROMPTS_DIFFER)
        return pair

    return run


def check_prompts(pair: Pair, share: float) -> None:
    """Raise RuntimeError if the prompts of the two differ by more than this share of their tokens, as far as counted."""
    ours, theirs = (pair[side].get("prompt_tokens", []) for side in (OURS, THEIRS))
    differ = sum(abs(mine - yours) for mine, yours in zip(ours, theirs, strict=True))
    if differ > share * sum(theirs):
        raise RuntimeError(f"the two did not read the same prompts: {ours} and {theirs} tokens")
