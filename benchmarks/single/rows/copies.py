"""Decoding speed of an answer that repeats half of its prompt, with speculation and without."""

from __future__ import annotations

from difflib import SequenceMatcher
from random import Random
from statistics import median

from benchmarks.harness.servers import Server
from benchmarks.single.bench import OURS, THEIRS, Bench, Numbers, Pair

# llama-server's own speculation by n-grams, which is off by default.
SPECULATION_FLAGS = ("--spec-type", "ngram-simple")

WORDS = 160
# The words of the copy that the prompt itself begins.
BEGUN = 24
TOKENS = 96
ROUNDS = 5


def copy(bench: Bench, number: int) -> Pair:
    """Both as they are (`rate`); llama-server with speculation (`flags_rate`), and Hearth without it (`off_rate`)."""

    def measure(side: str, *, off: bool = False, flags: tuple[str, ...] = ()) -> Numbers:
        with bench.server(side, profile={"speculation": False} if off else {}, flags=flags) as server:
            return _copy(server, Random(1000 + number))

    ours, off = measure(OURS), measure(OURS, off=True)
    theirs, fast = measure(THEIRS), measure(THEIRS, flags=SPECULATION_FLAGS)
    return {
        OURS: {**ours, "flags_rate": ours["rate"], "off_rate": ours["rate"]},
        THEIRS: {**theirs, "flags_rate": fast["rate"], "off_rate": off["rate"]},
    }


def _copy(server: Server, rng: Random) -> Numbers:
    """Return the tokens a second after the first, and the share of the answer that is the copy."""
    rates, shares, prompts = [], [], []
    for _ in range(ROUNDS):
        words = server.text(WORDS, rng).split()
        text, begun = " ".join(words), " ".join(words[:BEGUN])
        reply = server.complete(f"{text}\n\n{begun}", TOKENS, ignore_eos=True).wait()
        wanted = text[len(begun) :]
        match = SequenceMatcher(None, reply.text, wanted, autojunk=False)
        shares.append(sum(block.size for block in match.get_matching_blocks()) / len(reply.text))
        rates.append(reply.decode_rate)
        prompts.append(reply.prompt_tokens)
    return {"rate": median(rates), "copied": median(shares), "prompt_tokens": prompts}
