"""Decoding speed: one user, and several at once."""

from __future__ import annotations

from random import Random
from statistics import median

from benchmarks.harness.clients import Reply, total_rate
from benchmarks.harness.servers import Server
from benchmarks.harness.talk import Talk
from benchmarks.single.bench import Numbers

WORDS = 60
TOKENS = 64
SINGLE_ROUNDS = 8
ROUNDS = 3
STREAM_TOKENS = 128
STREAM_WORDS = 4
PROMPT_WORDS = 400
PROMPTS = 5


def single(server: Server, rng: Random) -> Numbers:
    """One user: tokens a second after the first token."""
    replies = [server.ask(Talk(number), server.text(WORDS, rng), TOKENS) for number in range(SINGLE_ROUNDS)]
    return {
        "rate": median(reply.decode_rate for reply in replies),
        "prompt_tokens": [reply.prompt_tokens for reply in replies],
    }


def eight(server: Server, rng: Random) -> Numbers:
    """Eight users at once."""
    return {"rate": median(_at_once(server, rng, 8, round_) for round_ in range(ROUNDS))}


def small(server: Server, rng: Random) -> Numbers:
    """Eight streams of short prompts: tokens a second from the first token on.

    With longer ones it would count how soon the others' prompts are read. A token's costs outside of the kernels show
    most with a small model.
    """
    rates = [total_rate(_answers(server, rng, 8, 200 + round_, STREAM_TOKENS, STREAM_WORDS)) for round_ in range(ROUNDS)]
    return {"rate": median(rates)}


def prompt(server: Server, rng: Random) -> Numbers:
    """The first token of new prompts of 500 tokens, one after the other."""
    replies = [server.ask(Talk(number + 1), server.text(PROMPT_WORDS, rng), 4) for number in range(PROMPTS)]
    return {
        "first_token": median(reply.first_token for reply in replies),
        "prompt_tokens": [reply.prompt_tokens for reply in replies],
    }


def users(server: Server, rng: Random) -> Numbers:
    """One, two, four and eight users at once, for the plot."""
    rates = {str(n): median(_at_once(server, rng, n, 10 * n + round_) for round_ in range(ROUNDS)) for n in (1, 2, 4, 8)}
    return {"rates": rates}


def _at_once(server: Server, rng: Random, users: int, round_: int) -> float:
    """Return all answers' tokens over the seconds from the first request to the last token, reading prompts included."""
    replies = _answers(server, rng, users, round_, TOKENS)
    return users * TOKENS / (max(reply.arrivals[-1] for reply in replies) - min(reply.sent for reply in replies))


def _answers(server: Server, rng: Random, users: int, round_: int, tokens: int, words: int = WORDS) -> list[Reply]:
    """Return the answers to prompts of so many words that are sent at the same moment."""
    talks = [Talk(100 * round_ + number) for number in range(users)]
    asked = [(talk, server.text(words, rng)) for talk in talks]
    flights = [server.send(talk, text, tokens) for talk, text in asked]
    return [server.finish(flight, talk, text, tokens) for flight, (talk, text) in zip(flights, asked, strict=True)]
