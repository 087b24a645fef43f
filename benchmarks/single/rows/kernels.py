"""The speed of llama.cpp's kernels without a server: llama-bench and llama-batched-bench."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from benchmarks.harness.servers import THREADS
from benchmarks.single.bench import OURS, THEIRS, Bench, Numbers, Pair

PROMPTS = "32,64,128,512"
TOKENS = 64


def kernels(bench: Bench, number: int) -> Pair:
    """Tokens a second with each server's file: `prompt` by its length, `decode` by sequences in a batch.

    Raises FileNotFoundError if the folder of llama-server lacks the tools.
    """
    ours = _measure(bench.binaries, bench.ours)
    return {OURS: ours, THEIRS: _measure(bench.binaries, bench.theirs) if bench.is_tuned else {}}


def _measure(binaries: Path, model: Path) -> Numbers:
    common = ["-m", str(model), "-t", str(THREADS), "-fa", "on"]
    alone = [str(binaries / "llama-bench"), *common, "-p", PROMPTS, "-n", str(TOKENS), "-r", "2", "-o", "json"]
    tests = json.loads(_run(alone))
    batched = [str(binaries / "llama-batched-bench"), *common, "-c", "4096", "-b", "2048", "-ub", "512"]
    batched += ["-npp", "80", "-ntg", str(TOKENS), "-npl", "1,2,4,8", "--output-format", "jsonl"]
    lines = [json.loads(line) for line in _run(batched).splitlines() if line.startswith("{")]
    return {
        "prompt": {str(test["n_prompt"]): test["avg_ts"] for test in tests if test["n_prompt"]},
        "decode": {str(line["pl"]): line["speed_tg"] for line in lines},
    }


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
