"""Speed of streams with the log-probabilities of each token and of the five likeliest, beside that of streams without."""

from __future__ import annotations

from random import Random
from statistics import median

from benchmarks.harness.clients import total_rate
from benchmarks.harness.servers import Server
from benchmarks.single.bench import Numbers

TOP = 5
WORDS = 60
TOKENS = 64
USERS = 8
SINGLE_ROUNDS = 5
ROUNDS = 3


def logprobs(server: Server, rng: Random) -> Numbers:
    """One user and eight at once, in turn with and without: tokens a second, and the first over the second."""
    one = [(_rate(server, rng, 1, TOP), _rate(server, rng, 1)) for _ in range(SINGLE_ROUNDS)]
    many = [(_rate(server, rng, USERS, TOP), _rate(server, rng, USERS)) for _ in range(ROUNDS)]
    numbers: Numbers = {}
    for name, rounds in (("one", one), ("eight", many)):
        with_, without = (median(each) for each in zip(*rounds, strict=True))
        numbers |= {f"{name}_rate": with_, f"{name}_free_rate": without, f"{name}_ratio": with_ / without}
    return numbers


def _rate(server: Server, rng: Random, users: int, top: int | None = None) -> float:
    fields = {} if top is None else {"logprobs": top}
    texts = [server.text(WORDS, rng) for _ in range(users)]
    flights = [server.complete(text, TOKENS, ignore_eos=True, **fields) for text in texts]
    return total_rate([flight.wait() for flight in flights])
