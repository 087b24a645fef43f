"""Decoding speed: one user, and several at once."""

from __future__ import annotations

from random import Random
from statistics import median

from benchmarks.harness.servers import Server
from benchmarks.harness.talk import Talk
from benchmarks.harness.words import make_text
from benchmarks.single.bench import Numbers

WORDS = 60
TOKENS = 64
SINGLE_ROUNDS = 8
ROUNDS = 3


def single(server: Server, rng: Random) -> Numbers:
    """One user: tokens a second after the first token."""
    replies = [server.ask(Talk(number), make_text(WORDS, rng), TOKENS) for number in range(SINGLE_ROUNDS)]
    return {
        "rate": median(reply.decode_rate for reply in replies),
        "prompt_tokens": [server.token_counts(reply)[0] for reply in replies],
    }


def eight(server: Server, rng: Random) -> Numbers:
    """Eight users at once."""
    return {"rate": median(_at_once(server, rng, 8, round_) for round_ in range(ROUNDS))}


def users(server: Server, rng: Random) -> Numbers:
    """One, two, four and eight users at once, for the plot."""
    rates = {str(n): median(_at_once(server, rng, n, 10 * n + round_) for round_ in range(ROUNDS)) for n in (1, 2, 4, 8)}
    return {"rates": rates}


def _at_once(server: Server, rng: Random, users: int, round_: int) -> float:
    """Return all answers' tokens over the seconds from the first request to the last token, reading prompts included."""
    talks = [Talk(100 * round_ + number) for number in range(users)]
    asked = [(talk, make_text(WORDS, rng)) for talk in talks]
    flights = [server.send(talk, words, TOKENS) for talk, words in asked]
    replies = [server.finish(flight, talk, words, TOKENS) for flight, (talk, words) in zip(flights, asked, strict=True)]
    return users * TOKENS / (max(reply.arrivals[-1] for reply in replies) - min(reply.sent for reply in replies))
