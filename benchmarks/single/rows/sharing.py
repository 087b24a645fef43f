"""Effects of users on each other: a long prompt beside a stream, and clients that leave."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from statistics import median, quantiles
from time import perf_counter, sleep

from benchmarks.harness.servers import Server
from benchmarks.harness.talk import Talk
from benchmarks.single.bench import Numbers

WORDS = 60
# More than the first stream can have written before the second's first token.
STREAM_TOKENS = 2000
STREAMED = 30
LONG_WORDS = 1600
LONG_TOKENS = 8
AROUND = 1.0

ROUNDS = 5
USERS = 8
LEAVE_TOKENS = 200
LEAVE_WITHIN = 2.0
NEXT_WORDS = 20

CROWD = 24
CROWD_WORDS = (20, 300)
CROWD_TOKENS = (16, 96)
CROWD_WITHIN = 4.0


def stall(server: Server, rng: Random) -> Numbers:
    """One stream is decoding while another user sends a prompt of 2,000 tokens.

    `gap` is the longest time between two pieces of the first stream, from the second's request to its first token.
    """
    first = server.send(Talk(1), server.text(WORDS, rng), STREAM_TOKENS)
    while len(first.reply.arrivals) < STREAMED:
        sleep(0.005)
    second = server.ask(Talk(2), server.text(LONG_WORDS, rng), LONG_TOKENS)
    sleep(AROUND)
    first.hang_up()
    begun, until = second.sent, second.arrivals[0]
    arrivals = first.wait().arrivals
    if arrivals[-1] < until:
        raise RuntimeError(f"{server.name}: the first stream ended before the second's first token")
    gaps = [(later, later - earlier) for earlier, later in pairwise(arrivals) if later > begun and earlier < until]
    around = [(later - begun, later - earlier) for earlier, later in pairwise(arrivals) if later > begun - AROUND]
    return {
        "gap": max(gap for _, gap in gaps),
        "first_token": second.first_token,
        "pieces": sum(begun < arrival < until for arrival in arrivals),
        "gaps": around,
        "prompt_tokens": [second.prompt_tokens],
    }


def leave(server: Server, rng: Random) -> Numbers:
    """Eight clients disconnect, each at a random moment within two seconds; right after the last, a ninth asks."""
    rounds = [_leave_once(server, rng, 100 * round_) for round_ in range(ROUNDS)]
    return {"free": median(rounds), "rounds": rounds}


def crowd(server: Server, rng: Random) -> Numbers:
    """24 users on eight slots, with prompts and answers of mixed lengths, who come within four seconds.

    `first_token` and `gap` are the 95th percentiles of the times to a first token and between two chunks of a stream.
    """
    asked = [
        (rng.uniform(0, CROWD_WITHIN), server.text(rng.randint(*CROWD_WORDS), rng), rng.randint(*CROWD_TOKENS))
        for _ in range(CROWD)
    ]
    begun = perf_counter()
    flights = []
    for moment, words, tokens in sorted(asked):
        sleep(max(0.0, begun + moment - perf_counter()))
        flights.append(server.complete(words, tokens, ignore_eos=True))
    replies = [flight.wait() for flight in flights]
    gaps = [later - earlier for reply in replies for earlier, later in pairwise(reply.arrivals)]
    return {
        "first_token": _percentile(95, [reply.first_token for reply in replies]),
        "gap": _percentile(95, gaps),
        "longest_gap": max(gaps),
        "seconds": max(reply.ended for reply in replies) - begun,
        "prompt_tokens": [reply.prompt_tokens for reply in replies],
    }


def _percentile(percent: int, values: list[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def _leave_once(server: Server, rng: Random, session: int) -> float:
    """Return the seconds from the last disconnect to the ninth's first token."""
    asked = [(Talk(session + number), server.text(WORDS, rng)) for number in range(USERS)]
    moments = sorted(rng.uniform(0, LEAVE_WITHIN) for _ in range(USERS))
    rng.shuffle(asked)
    begun = perf_counter()
    flights = [server.send(talk, words, LEAVE_TOKENS) for talk, words in asked]
    left = begun
    for flight, moment in zip(flights, moments, strict=True):
        sleep(max(0.0, begun + moment - perf_counter()))
        left = flight.hang_up()
    ninth = server.ask(Talk(session + USERS), server.text(NEXT_WORDS, rng), 4)
    for flight in flights:
        flight.wait()
    sleep(1)
    return ninth.arrivals[0] - left
